"""Checks of delta filters."""

from __future__ import annotations

import numpy as np

from edgerec.checks.cases import Case
from edgerec.checks.common import COMMON, check_no_memory
from edgerec.checks.comparing import expect, expect_finite
from edgerec.checks.subjects import Subject
from edgerec.checks.uploads import FixedChance, delta_with, deltas_of
from edgerec.deltas import Delta
from edgerec.errors import EdgeRecError

LARGEST = float(np.finfo(np.float32).max)


def check_delta_form(subject: Subject, case: Case) -> None:
    """It gives a delta of the same id, bundle version and block names; blocks are float32, of one dimension."""
    one = subject.make()
    for delta in deltas_of(case):
        _expect_form(delta, one.filter(delta, FixedChance()))


def check_constant_size(subject: Subject, case: Case) -> None:
    """The sizes of the blocks do not depend on what the user did."""
    one = subject.make()
    sizes = {_sizes(one.filter(delta, FixedChance(seed))) for seed, delta in enumerate(deltas_of(case))}
    expect(len(sizes) == 1, f"deltas of one size become {len(sizes)} sizes: {sorted(sizes)}")


def check_finite_delta(subject: Subject, case: Case) -> None:
    """What it gives is finite, of a delta of zeros too."""
    one = subject.make()
    for delta in deltas_of(case):
        for name, block in one.filter(delta, FixedChance()).blocks.items():
            expect_finite(block, f"block {name!r}")


def check_odd_delta(subject: Subject, case: Case) -> None:
    """Of a delta with huge, infinite or missing numbers it makes a finite one, or refuses it with an EdgeRecError."""
    one = subject.make()
    for value in (LARGEST, np.nan, np.inf, -np.inf):
        try:
            made = one.filter(delta_with(case, value), FixedChance())
        except EdgeRecError:
            continue
        for name, block in made.blocks.items():
            expect_finite(block, f"block {name!r} of a delta with {value:g}")


def _expect_form(delta: Delta, made: object) -> None:
    expect(isinstance(made, Delta), f"filter must return a Delta, not {type(made).__name__}")
    assert isinstance(made, Delta)
    expect((made.id, made.bundle_version) == (delta.id, delta.bundle_version), "another id or bundle version")
    expect(set(made.blocks) == set(delta.blocks), f"blocks {sorted(made.blocks)} instead of {sorted(delta.blocks)}")
    for name, block in made.blocks.items():
        form = f"{getattr(block, 'dtype', type(block).__name__)} {getattr(block, 'shape', '')}"
        sound = isinstance(block, np.ndarray) and block.dtype == np.float32 and block.ndim == 1
        expect(sound, f"block {name!r} must be float32 (size,), not {form}")


def _sizes(delta: Delta) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((name, len(block)) for name, block in delta.blocks.items()))


DELTA_FILTER_CHECKS = (
    *COMMON,
    check_no_memory,
    check_delta_form,
    check_constant_size,
    check_finite_delta,
    check_odd_delta,
)
