"""Calls that fail instead of processes that die: a full disk, a read-only one, one that breaks."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator

from edgerec.errors import BundleError, ForgetPending, StoreDamaged, StoreError
from faults import shim
from faults.invariants import check, check_learned, check_serves
from faults.kills import Outcome
from faults.operations import Operation
from faults.shim import Boundary, Kind, Mode
from faults.world import World, observed

ERRORS = ("EIO", "ENOSPC", "EROFS", "EDQUOT")
MODES = (Mode.FAIL_ONCE, Mode.FAIL_ON, Mode.FAIL_SHORT)


class Failures:
    """One operation on a store whose disk fails, and the same again once it works."""

    def __init__(self, operation: Operation, world: World) -> None:
        self.operation, self.world = operation, world
        operation.prepare(world)
        world.keep()
        self.before = operation.before(world)
        self.after = operation.after(self.before, world, "new")
        self.boundaries = self._counted()
        logging.disable(logging.CRITICAL)

    def _counted(self) -> list[Boundary]:
        self.world.put_back()
        self.operation.run(self.world, lambda: shim.arm(self.world.folder))
        shim.disarm()
        return shim.seen()

    def all(self, every: int, seed: int, ending: str = "") -> Outcome:
        """Every boundary, of a path that ends so, with every error and mode; or each `every`-th of these."""
        outcome = Outcome(self.operation.name, len(self.boundaries))
        points = [point for point in self._points() if self.boundaries[point[0] - 1].path.endswith(ending)]
        for number, mode, error in points[seed % every :: every]:
            outcome.kills += 1
            try:
                self.fail(number, mode, error)
            except Exception as wrong:
                where = f"{error}, {mode.name.lower()} from boundary {number}, {self.boundaries[number - 1]}"
                outcome.failed(where, f"{type(wrong).__name__}: {wrong}")
            finally:
                shim.disarm()
        return outcome

    def _points(self) -> Iterator[tuple[int, Mode, str]]:
        for number, one in enumerate(self.boundaries, 1):
            for mode in MODES:
                if mode is not Mode.FAIL_SHORT or (one.kind is Kind.WRITE and one.size > 1):
                    yield from ((number, mode, error) for error in ERRORS)

    def fail(self, number: int, mode: Mode, error: str) -> None:
        """Raises AssertionError where an invariant does not hold, and whatever was raised that must not be.

        The operation raises StoreError or BundleError and has done nothing, or has returned and done all. Meanwhile
        pages are served. When the disk works again, so does the recommender, as it is.
        """
        self.world.put_back()
        rec = self.world.open(self.operation.factory(self.world))
        shim.arm(self.world.folder, mode, number, getattr(errno, error))
        done = _tried(lambda: self.operation.act(rec, self.world, "new"))
        check_serves(rec)
        shim.disarm()
        found = observed(rec)
        assert found == (self.after if done else self.before), found.difference(self.after if done else self.before)
        check_learned(rec, self.after if done else self.before)
        if not done:
            self.operation.act(rec, self.world, "new")
        rec.close()
        check(self.world, self.operation, [self.after])


class WholeFails(Failures):
    """The same for operations that are a process's whole life."""

    def fail(self, number: int, mode: Mode, error: str) -> None:
        """It raises StoreError or BundleError, or returns; the next opening, on a disk that works, succeeds."""
        self.world.put_back()
        code = getattr(errno, error)
        _tried(lambda: self.operation.run(self.world, lambda: shim.arm(self.world.folder, mode, number, code)))
        shim.disarm()
        check(self.world, self.operation, [self.before, self.after])


def _tried(work: Callable[[], object]) -> bool:
    """Whether it was done, but for an erasure that is to come; an error must say that the disk is at fault."""
    try:
        work()
    except ForgetPending:
        return True
    except StoreDamaged as error:
        raise AssertionError(f"taken for damage: {error}") from None
    except (StoreError, BundleError) as error:
        if not error.hint:
            raise AssertionError(f"says nothing of the disk: {error}") from None
        return False
    return True
