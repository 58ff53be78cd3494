"""Progressive validation: the rank of what happened, before it is learned from."""

from __future__ import annotations

import numpy as np

from edgerec.types import Bools, Float32, Float64, Int64

METRICS = ("n", "hit@10", "ndcg@10", "mrr")
_K = 10


def masked(scores: Float32, blocked: Bools) -> Float32:
    """Scores with −inf where an item may not be served; float32, same shape (R, n_items)."""
    out = scores.copy()
    out[:, blocked] = -np.inf
    return out


def ranks(scores: Float32, row: int) -> Int64:
    """The place, from 1, of one item in each of R rankings; int64 (R,).

    `scores` float32 (R, n_items). Ties by catalogue row: of equal scores the lower row comes first.
    """
    target = scores[:, row, None]
    before = np.count_nonzero(scores[:, :row] >= target, axis=1)
    after = np.count_nonzero(scores[:, row + 1 :] > target, axis=1)
    places: Int64 = before + after + 1
    return places


def group_ndcg(ranks: Int64) -> Float64:
    """NDCG@10 of each ranking for a group of targets, float64 (R,), from ranks int64 (T, R)."""
    gains = np.where(ranks <= _K, 1.0 / np.log2(ranks + 1.0), 0.0)
    ideal = (1.0 / np.log2(np.arange(2, min(len(ranks), _K) + 2))).sum()
    out: Float64 = gains.sum(axis=0) / ideal
    return out


def metric_sums(ranks: Int64) -> Float64:
    """Sums over T targets of METRICS per ranking, float64 (R, 4), from ranks int64 (T, R)."""
    top = ranks <= _K
    columns = (np.ones(ranks.shape), top, top / np.log2(ranks + 1.0), 1.0 / ranks)
    return np.stack([column.sum(axis=0) for column in columns], axis=1)
