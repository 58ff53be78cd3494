"""Progressive validation: the rank of what happened, before it is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log2

import numpy as np

from edgerec.topk import top_k
from edgerec.types import Bools, Float32, Float64, Int64

METRICS = ("n", "hit@10", "ndcg@10", "mrr")
_K = 10
_GAINS = [1.0 / log2(place + 1) for place in range(1, _K + 1)]
_VALUES = np.array([[1.0, 1.0, gain, 0.0] for gain in [0.0, *_GAINS]] + [[1.0, 0.0, 0.0, 0.0]])
"""METRICS by rank, the reciprocal left out; the last row is that of every rank beyond the tenth."""


def ahead(scores: Float32, row: int) -> Bools:
    """Which items come before one item in each of R rankings; bool (R, n_items).

    `scores` float32 (R, n_items). Ties by catalogue row: of equal scores the lower row comes first.
    """
    target = scores[:, row, None]
    out = np.empty(scores.shape, np.bool_)
    np.greater_equal(scores[:, :row], target, out=out[:, :row])
    np.greater(scores[:, row:], target, out=out[:, row:])
    return out


def counted(ahead: Bools) -> Int64:
    """How many items come before one item in each of R rankings, int64 (R,), from bool (R, n_items)."""
    return np.array([np.count_nonzero(line) for line in ahead])  # twice as fast as along an axis


def ranks(scores: Float32, row: int) -> Int64:
    """The place, from 1, of one item in each of R rankings, int64 (R,), from scores float32 (R, n_items)."""
    return counted(ahead(scores, row)) + 1


def leaders(scores: Float32, most: int, hidden: Int64) -> Int64:
    """Rows of the `most` best scores, ascending, int64 (<= most,); of equal scores the lower row comes first.

    `scores` float32 (n_items,) · `hidden` int64: rows that are in no ranking.
    """
    shown = scores.copy()
    shown[hidden] = -np.inf
    return np.sort(top_k(shown, most))


def metric_values(ranks: Int64) -> Float64:
    """METRICS of each rank, float64 (…, 4), from ranks int64 (…)."""
    values = _VALUES.take(ranks, axis=0, mode="clip")
    np.divide(1, ranks, out=values[..., 3])
    return values


def ndcg_of(sums: Float64, counts: Sequence[int]) -> Float64:
    """NDCG@10 in each ranking, float64 (K, R), of K groups of targets, from the sums of their `metric_values`
    (K, R, 4) and their sizes.
    """
    ndcg: Float64 = sums[:, :, 2] / np.array([[_ideal_gain(min(count, _K))] for count in counts])
    return ndcg


@lru_cache(maxsize=_K + 1)
def _ideal_gain(count: int) -> float:
    """What `count` targets gain in the first places."""
    return sum(_GAINS[:count])
