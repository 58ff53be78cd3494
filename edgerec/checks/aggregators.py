"""Checks of aggregators."""

from __future__ import annotations

import numpy as np

from edgerec.checks.cases import Case
from edgerec.checks.common import COMMON, check_no_memory
from edgerec.checks.comparing import expect, expect_finite
from edgerec.checks.subjects import Subject
from edgerec.checks.uploads import devices_of, locked
from edgerec.errors import EdgeRecError
from edgerec.types import Float32

HUGE = 1e38
NEAR = 1e-6
"""Relative: what may differ by the order of a sum."""


def check_one_delta(subject: Subject, case: Case) -> None:
    """It gives one delta, float64 (d,)."""
    one = subject.make()
    joined = one.aggregate(devices_of(case, one.least))
    expect(isinstance(joined, np.ndarray), f"aggregate must return an array, not {type(joined).__name__}")
    told = f"{joined.dtype} {joined.shape}"
    expect(joined.dtype == np.float64 and joined.shape == (case.model.n_items,), f"not float64 (d,) but {told}")


def check_finite_sum(subject: Subject, case: Case) -> None:
    """Of the largest numbers that float32 holds comes a finite delta."""
    one = subject.make()
    expect_finite(one.aggregate(devices_of(case, one.least, HUGE / 10)), "the delta of devices with huge numbers")


def check_any_order(subject: Subject, case: Case) -> None:
    """The order of the devices does not matter, not even where there are as few as can be."""
    one = subject.make()
    rows = devices_of(case, one.least)
    for few in (rows, rows[: one.least]):
        expect(_near(one.aggregate(few), one.aggregate(few[::-1]), few), "another order gives another delta")


def check_equal_deltas(subject: Subject, case: Case) -> None:
    """Devices that agree get what they agree on."""
    one = subject.make()
    rows = devices_of(case, one.least)
    same = locked(np.tile(rows[0], (len(rows), 1)))
    expect(_near(one.aggregate(same), rows[0], rows), "equal deltas give another one")


def check_least(subject: Subject, case: Case) -> None:
    """It works on `least` deltas, and refuses fewer, and none, with an EdgeRecError."""
    one = subject.make()
    rows = devices_of(case, one.least)
    one.aggregate(rows[: one.least])
    for n in {0, one.least - 1}:
        try:
            one.aggregate(rows[:n])
        except EdgeRecError:
            continue
        expect(False, f"takes {n} deltas, and says that it needs {one.least}")


def check_hostile_device(subject: Subject, case: Case) -> None:
    """One device of 21, or of as many as are needed, moves the delta no further than honest devices lie apart."""
    one = subject.make()
    rows = devices_of(case, one.least)
    honest = one.aggregate(rows)
    apart = float(np.sqrt(np.square(rows - rows.mean(axis=0)).sum(axis=1)).max()) * 2
    for loud in (HUGE, -1e3):
        with_one = rows.astype(np.float64)
        with_one[-1] = loud
        moved = float(np.sqrt(np.square(one.aggregate(locked(with_one)) - honest).sum()))
        expect(moved <= apart, f"one device moves the delta by {moved:.3g}, honest ones lie within {apart:.3g}")


def _near(one: object, other: object, rows: Float32) -> bool:
    difference = np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64))
    return bool((difference <= NEAR * np.abs(rows).max()).all())


AGGREGATOR_CHECKS = (
    *COMMON,
    check_no_memory,
    check_one_delta,
    check_finite_sum,
    check_any_order,
    check_equal_deltas,
    check_least,
    check_hostile_device,
)
