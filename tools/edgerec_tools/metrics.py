"""Ranking metrics over the full catalogue. Ties go by item order; the ideal DCG has min(k, |targets|) targets.

`recall` divides by min(k, |targets|) as well, so that a perfect list of k scores 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]


def top_k(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Rows of the k largest scores, best first, ties by row: the first k of a stable argsort of -scores.

    `scores` (n,) or (batch, n), without NaN. Returns int64 (min(k, n),) or (batch, min(k, n)).
    """
    if scores.ndim == 2:
        return np.stack([top_k(row, k) for row in scores]) if len(scores) else np.zeros((0, k), np.int64)
    k = min(k, len(scores))
    if k <= 0:
        return np.zeros(0, np.int64)
    bound = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= bound)
    return candidates[np.argsort(-scores[candidates], kind="stable")[:k]]


def target_rank(scores: NDArray[Any], target: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Rank, from 1, of one target per list, ties by row. `scores` (batch, n), `target` (batch,) → int64 (batch,)."""
    own = np.take_along_axis(scores, target[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < target[:, None]
    before: NDArray[np.int64] = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return 1 + before


def hits(top: NDArray[np.integer[Any]], targets: NDArray[np.integer[Any]], k: int = 10) -> NDArray[np.bool_]:
    """Which places of a ranked list hold a target: bool (k,), False beyond the list's end."""
    found = np.zeros(k, np.bool_)
    top = np.asarray(top)[:k]
    found[: len(top)] = (top[:, None] == np.asarray(targets)).any(axis=1)
    return found


def recall(hit: NDArray[np.bool_], n_targets: ArrayLike) -> Any:
    """Hits / min(k, |targets|). `hit` (..., k), `n_targets` (...) and at least 1 → float64 (...)."""
    return hit.sum(axis=-1) / np.minimum(hit.shape[-1], n_targets)


def ndcg(hit: NDArray[np.bool_], n_targets: ArrayLike) -> Any:
    """DCG with binary gains and discount 1 / log2(rank + 1), over that of min(k, |targets|) targets on top.

    `hit` (..., k), `n_targets` (...) and at least 1 → float64 (...). Järvelin and Kekäläinen, 2002.
    """
    discount = 1.0 / np.log2(np.arange(2, hit.shape[-1] + 2))
    ideal = np.cumsum(discount)[np.minimum(hit.shape[-1], n_targets) - 1]
    return (hit * discount).sum(axis=-1) / ideal


def hit_rate(hit: NDArray[np.bool_]) -> Any:
    """1 where any target is in the list, else 0. `hit` (..., k) → float64 (...)."""
    return hit.any(axis=-1).astype(np.float64)


def reciprocal_rank(hit: NDArray[np.bool_]) -> Any:
    """1 / rank of the first target in the list, 0 where there is none (its mean is MRR). `hit` (..., k) → (...)."""
    return np.where(hit.any(axis=-1), 1.0 / (1 + hit.argmax(axis=-1)), 0.0)
