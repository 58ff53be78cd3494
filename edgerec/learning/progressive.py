"""Progressive validation: the rank of what happened, before it is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log2

import numpy as np

from edgerec.types import Bools, Float32, Float64, Int64

METRICS = ("n", "hit@10", "ndcg@10", "mrr")
_K = 10


def ahead(scores: Float32, row: int) -> Bools:
    """Which items come before one item in each of R rankings; bool (R, n_items).

    `scores` float32 (R, n_items). Ties by catalogue row: of equal scores the lower row comes first.
    """
    target = scores[:, row, None]
    out = np.empty(scores.shape, np.bool_)
    np.greater_equal(scores[:, :row], target, out=out[:, :row])
    np.greater(scores[:, row:], target, out=out[:, row:])
    return out


def places(ahead: Bools, hidden: Sequence[Int64]) -> list[Int64]:
    """The item's place, from 1, in each of R rankings, int64 (R,), for each set of rows, int64, that are not served."""
    counts = np.array([np.count_nonzero(line) for line in ahead]) + 1  # twice as fast as along an axis
    return [counts - ahead.take(rows, axis=1).sum(axis=1, dtype=np.int64) for rows in hidden]


def ranks(scores: Float32, row: int) -> Int64:
    """The place, from 1, of one item in each of R rankings, int64 (R,), from scores float32 (R, n_items)."""
    return places(ahead(scores, row), [np.empty(0, np.int64)])[0]


def metric_sums(ranks: Int64) -> Float64:
    """Sums over T targets of METRICS per ranking, float64 (R, 4), from ranks int64 (T, R)."""
    columns = np.ones((len(METRICS), *ranks.shape))
    _, hit, gain, reciprocal = columns
    np.less_equal(ranks, _K, out=hit)
    np.divide(hit, np.log2(ranks + 1), out=gain)
    np.divide(1, ranks, out=reciprocal)
    sums: Float64 = columns.sum(axis=1).T
    return sums


def ndcg_of(sums: Float64) -> Float64:
    """The group's NDCG@10 in each ranking, float64 (R,), from its `metric_sums` (R, 4)."""
    ndcg: Float64 = sums[:, 2] / _ideal_gain(min(int(sums[0, 0]), _K))
    return ndcg


@lru_cache(maxsize=_K + 1)
def _ideal_gain(count: int) -> float:
    """What `count` targets gain in the first places."""
    return sum(1.0 / log2(place + 1) for place in range(1, count + 1))
