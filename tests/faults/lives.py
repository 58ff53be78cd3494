"""One user's folder through many lives: sequences of operations that follow from a seed, each ended by a kill."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import partial

from faults import shim
from faults.invariants import check, next_event
from faults.kills import KILLS, Outcome
from faults.operations import (
    Install,
    Learn,
    Operation,
    Pause,
    RecordOne,
    RecordPage,
    Resume,
    Rollback,
    TellItems,
)
from faults.processes import Say, in_child
from faults.profiles import ForgetAll, ForgetItem
from faults.shim import Mode
from faults.world import Model, World, digest_of

STEPS: tuple[Callable[[], Operation], ...] = (
    *[RecordOne] * 4,
    *[RecordPage] * 4,
    *[Learn] * 2,
    Pause,
    Resume,
    TellItems,
    Install,
    Rollback,
    ForgetItem,
    ForgetAll,
)
"""What a life is made of, by how often."""
_STEPS, _BOUNDARIES = 8, 90


def live(world: World, seed: int, lives: int, outcome: Outcome) -> None:
    """Lives in one folder one after the other, checked after each: what was acknowledged in any is there."""
    rng = random.Random(seed)
    shutil.rmtree(world.state, ignore_errors=True)
    model = Model(bundle=digest_of(world.first))
    for number in range(lives):
        tag = f"s{seed}.{number}"
        steps, path = _planned(rng, model, world, tag)
        at, mode = rng.randint(1, _BOUNDARIES), rng.choice(KILLS)
        told = in_child(partial(_lived, world, steps, tag, at, mode))
        outcome.kills += told.killed
        done = len(told.said)
        where = f"seed {seed}, life {number}, {mode.name.lower()} boundary {at}"
        try:
            if not told.killed:
                told.ended()
            model = _checked(world, path[done : done + 2], f"{tag}.next")
        except AssertionError as error:
            outcome.failed(where, str(error).strip().splitlines()[-1])
            return


def _lived(world: World, steps: list[Operation], tag: str, at: int, mode: Mode, say: Say) -> None:
    """One life: each step is told when it was done."""
    shim.arm(world.folder, mode, at)
    rec = world.open()
    for place, step in enumerate(steps):
        step.act(rec, world, f"{tag}.{place}")
        say(place)
    rec.close()


def _planned(rng: random.Random, model: Model, world: World, tag: str) -> tuple[list[Operation], list[Model]]:
    """Steps that can be done one after the other, and what the folder holds before the first and after each."""
    steps: list[Operation] = []
    path = [model]
    while len(steps) < _STEPS:
        step = rng.choice(STEPS)()
        if step.possible(path[-1], world):
            path.append(step.after(path[-1], world, f"{tag}.{len(steps)}"))
            steps.append(step)
    return steps, path


def _checked(world: World, allowed: list[Model], tag: str) -> Model:
    """Which of the models the folder holds, and the event with which that was checked."""

    def work(say: Say) -> None:
        found = check(world, Operation(), allowed, tag)
        say([model is found for model in allowed].index(True))

    ((place,),) = in_child(work).ended()
    return allowed[place].with_events([next_event(tag)])
