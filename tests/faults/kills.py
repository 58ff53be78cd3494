"""Kills an operation at its write boundaries, one process per kill, and looks at what is left."""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from faults import shim
from faults.invariants import check
from faults.operations import Operation
from faults.processes import Say, in_child
from faults.shim import Boundary, Kind, Mode
from faults.world import Model, World

KILLS = (Mode.KILL_BEFORE, Mode.KILL_AFTER, Mode.KILL_TORN)
Point = tuple[int, Mode]
"""The number of a boundary, from 1, and how to die there."""


@dataclass
class Outcome:
    """What came of killing one operation. `failures`: what was wrong, each with where."""

    operation: str
    boundaries: int = 0
    kills: int = 0
    lost: int = 0
    disagreements: int = 0
    failures: list[str] = field(default_factory=list)

    def failed(self, where: str, error: str) -> None:
        self.failures.append(f"{where}: {error}")
        if "lost events" in error:
            self.lost += 1
        if "not that of the events" in error:
            self.disagreements += 1


class Killer:
    """One operation and its data directory, ready to be killed over and over."""

    def __init__(self, operation: Operation, world: World) -> None:
        self.operation, self.world = operation, world
        in_child(lambda say: operation.prepare(world)).ended()
        world.keep()
        gc.freeze()  # so that children do not copy what the collector touches
        self.before = operation.before(world)
        self.after = operation.after(self.before, world, "new")
        self.boundaries = self._counted()

    def _counted(self) -> list[Boundary]:
        """What the operation does where nothing goes wrong."""

        def work(say: Say) -> None:
            self.operation.run(self.world, lambda: shim.arm(self.world.folder))
            shim.disarm()
            for one in shim.seen():
                say(int(one.kind), one.size, one.path)

        self.world.put_back()
        said = in_child(work).ended()
        self._check([self.after])
        return [Boundary(Kind(kind), size, path) for kind, size, path in said]

    def _check(self, allowed: Sequence[Model]) -> None:
        in_child(lambda say: check(self.world, self.operation, allowed)).ended()

    def points(self) -> list[Point]:
        """Every way to die: before and after each boundary, and in the middle of each write."""
        return [
            (number, mode)
            for number, one in enumerate(self.boundaries, 1)
            for mode in KILLS
            if mode is not Mode.KILL_TORN or (one.kind is Kind.WRITE and one.size > 1)
        ]

    def kill(self, point: Point) -> str | None:
        """Kills it once; what is then wrong, None where all is well."""
        number, mode = point

        def work(say: Say) -> None:
            self.operation.run(self.world, lambda: shim.arm(self.world.folder, mode, number))
            say("done")

        self.world.put_back()
        told = in_child(work)
        if not told.killed:
            return f"was not killed: {told.error or 'it came to its end'}"
        try:
            self._check([self.after] if told.said else [self.before, self.after])
        except AssertionError as error:
            return str(error).strip().splitlines()[-1]
        return None

    def kill_all(self, points: Sequence[Point]) -> Outcome:
        outcome = Outcome(self.operation.name, len(self.boundaries))
        for number, mode in points:
            outcome.kills += 1
            if (error := self.kill((number, mode))) is not None:
                where = f"{mode.name.lower()} boundary {number} of {len(self.boundaries)}"
                outcome.failed(f"{where}, {self.boundaries[number - 1]}", error)
        return outcome


def some(points: Sequence[Point], most: int, seed: int) -> list[Point]:
    """At most so many of them: every boundary by turns in another way to die where that suffices, else a sample."""
    rng = random.Random(seed)
    by_boundary: dict[int, list[Point]] = {}
    for point in points:
        by_boundary.setdefault(point[0], []).append(point)
    chosen = [rng.choice(each) for each in by_boundary.values()]
    return chosen if len(chosen) <= most else sorted(rng.sample(chosen, most))
