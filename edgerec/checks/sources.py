"""Checks of candidate sources."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

import numpy as np

from edgerec.checks.cases import Case, Moment
from edgerec.checks.common import COMMON, check_no_memory
from edgerec.checks.comparing import expect, expect_finite
from edgerec.checks.subjects import Subject
from edgerec.interfaces import CandidateSource
from edgerec.records import changed
from edgerec.types import Float32, SourceScores

SHIFT_S = 1000 * 86400.0 + 3 * 3600.0


def check_shape(subject: Subject, case: Case) -> None:
    """Scores of all items, or of some, each once."""
    for scores in _all(subject.make(), case):
        _expect_shape(scores, case)


def check_dtype(subject: Subject, case: Case) -> None:
    """Scores are float32."""
    for scores in _all(subject.make(), case):
        expect(scores.values.dtype == np.float32, f"scores must be float32, not {scores.values.dtype}")


def check_finite(subject: Subject, case: Case) -> None:
    """No score is NaN or infinite."""
    for scores in _all(subject.make(), case):
        _expect_finite(scores)


def check_statistics(subject: Subject, case: Case) -> None:
    """Mean and standard deviation are those of the scores over the whole catalogue."""
    for scores in _all(subject.make(), case):
        dense = _dense(scores, case.model.n_items).astype(np.float64)
        for name, told, true in (("mean", scores.mean, dense.mean()), ("std", scores.std, dense.std())):
            near = np.isclose(told, true, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(dense).max())))
            expect(near, f"{name} is {told:g}, that of the scores {true:g}")


def check_empty_history(subject: Subject, case: Case) -> None:
    """It has scores for a user who has done nothing."""
    scores = _score(subject.make(), case, case.newcomer)
    _expect_shape(scores, case)
    _expect_finite(scores)


def check_time_shift(subject: Subject, case: Case) -> None:
    """A history and a request that are both a thousand days and three hours later score the same."""
    one = subject.make()
    for moment in case.moments:
        now = changed(moment, profile=changed(moment.profile, states={}))
        at = now.profile.at + SHIFT_S
        later = Moment(changed(now.request, now=now.request.now + SHIFT_S), changed(now.profile, at=at))
        first, second = (_dense(_score(one, case, each), case.model.n_items) for each in (now, later))
        expect(np.allclose(first, second, rtol=1e-4, atol=1e-6), "scores depend on more than the age of the events")


def _expect_shape(scores: object, case: Case) -> None:
    expect(isinstance(scores, SourceScores), f"score must return SourceScores, not {type(scores).__name__}")
    assert isinstance(scores, SourceScores)
    rows, shape = scores.rows, scores.values.shape
    if rows is None:
        expect(shape == (case.model.n_items,), f"{shape} values for {case.model.n_items} items")
        return
    expect(rows.dtype.kind in "iu", f"rows must be whole numbers, not {rows.dtype}")
    expect(rows.shape == shape and rows.ndim == 1, f"{rows.shape} rows with {shape} values")
    expect(len(np.unique(rows)) == len(rows), "an item is scored twice")
    inside = len(rows) == 0 or (rows.min() >= 0 and rows.max() < case.model.n_items)
    expect(inside, "scores an item that is not in the catalogue")


def _expect_finite(scores: SourceScores) -> None:
    expect_finite(scores.values, "a score")
    expect(isfinite(scores.mean) and isfinite(scores.std), "the mean or the standard deviation is not finite")


def _all(one: CandidateSource, case: Case) -> Iterator[SourceScores]:
    for moment in case.moments:
        yield _score(one, case, moment)


def _score(one: CandidateSource, case: Case, moment: Moment) -> SourceScores:
    return one.score(moment.request, moment.profile, case.model)


def _dense(scores: SourceScores, n_items: int) -> Float32:
    if scores.rows is None:
        return scores.values
    out = np.zeros(n_items, np.float32)
    out[scores.rows] = scores.values
    return out


SOURCE_CHECKS = (
    *COMMON,
    check_no_memory,
    check_shape,
    check_dtype,
    check_finite,
    check_statistics,
    check_empty_history,
    check_time_shift,
)
