"""Checks of rerankers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from math import sqrt

import numpy as np

from edgerec.checks.cases import Case
from edgerec.checks.common import COMMON, check_no_memory
from edgerec.checks.comparing import expect
from edgerec.checks.subjects import Subject
from edgerec.interfaces import Reranker
from edgerec.records import changed
from edgerec.types import Reranking, Slate

SEEDS = 1000


def check_from_slate(subject: Subject, case: Case) -> None:
    """It gives candidates of the slate, each once."""
    for slate, reranking in _all(subject.make(), case):
        _expect_choice(slate, reranking)


def check_fills_page(subject: Subject, case: Case) -> None:
    """It gives as many candidates as the page has places, where the slate has so many."""
    for slate, reranking in _all(subject.make(), case):
        wanted = min(slate.n, len(slate.rows))
        expect(len(reranking.rows) >= wanted, f"{len(reranking.rows)} of {len(slate.rows)} candidates for {slate.n}")


def check_small_slates(subject: Subject, case: Case) -> None:
    """Nothing comes of nothing, and a slate of one item stays as it is."""
    one = subject.make()
    for moment in (case.newcomer, *case.moments):
        for slate in case.small_slates:
            rows = one.rerank(slate, moment.request, moment.profile, case.model).rows
            expect(np.array_equal(rows, slate.rows), f"{rows} of a slate of {slate.rows}")


def check_empty_history(subject: Subject, case: Case) -> None:
    """It makes a page for a user who has done nothing."""
    one, (request, profile) = subject.make(), (case.newcomer.request, case.newcomer.profile)
    for slate in case.slates:
        _expect_choice(slate, one.rerank(slate, request, profile, case.model))


def check_propensity(subject: Subject, case: Case) -> None:
    """Propensities lie in (0, 1], one for each item that is given; or there are none."""
    for _, reranking in _all(subject.make(), case):
        if (given := reranking.propensity) is not None:
            share = np.asarray(given)
            expect(share.dtype.kind == "f", f"propensities must be float64, not {share.dtype}")
            expect(share.shape == reranking.rows.shape, f"{share.shape} propensities of {reranking.rows.shape} items")
            expect(((share > 0) & (share <= 1)).all(), "a propensity is not in (0, 1]")


def check_propensity_is_frequency(subject: Subject, case: Case) -> None:
    """Over 1,000 seeds an item comes first as often as its propensity says, and always where there is none.

    Propensities may be estimates: it is their inverse that is weighted with, so it is their harmonic mean that counts.
    """
    one, moment = subject.make(), case.moments[-1]
    slate = changed(case.slates[1], n=3)
    first: Counter[int] = Counter()
    inverse: defaultdict[int, float] = defaultdict(float)
    for seed in range(SEEDS):
        given = one.rerank(changed(slate, seed=seed * 7919), moment.request, moment.profile, case.model)
        row = int(given.rows[0])
        first[row] += 1
        inverse[row] += 1.0 if given.propensity is None else 1.0 / float(given.propensity[0])
    for row, count in first.items():
        share, expected = count / SEEDS, count / inverse[row]
        near = abs(share - expected) <= 5 * sqrt(max(expected * (1 - expected), 1e-9) / SEEDS) + 0.01
        expect(near, f"item {row} comes first in {share:.1%} of the pages, with propensity {expected:.3f}")


def _expect_choice(slate: Slate, reranking: object) -> None:
    expect(isinstance(reranking, Reranking), f"rerank must return a Reranking, not {type(reranking).__name__}")
    assert isinstance(reranking, Reranking)
    rows = np.asarray(reranking.rows)
    expect(rows.ndim == 1 and rows.dtype.kind in "iu", f"rows must be whole numbers, not {rows.dtype} {rows.shape}")
    expect(np.isin(rows, slate.rows).all(), "an item is not of the slate")
    expect(len(np.unique(rows)) == len(rows), "an item is given twice")


def _all(one: Reranker, case: Case) -> Iterator[tuple[Slate, Reranking]]:
    for moment in case.moments:
        for slate in case.slates:
            yield slate, one.rerank(slate, moment.request, moment.profile, case.model)


RERANKER_CHECKS = (
    *COMMON,
    check_no_memory,
    check_from_slate,
    check_fills_page,
    check_small_slates,
    check_empty_history,
    check_propensity,
    check_propensity_is_frequency,
)
