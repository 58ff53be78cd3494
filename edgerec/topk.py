"""Exact top-k by block maxima: only blocks that can hold a winner are looked into."""

from __future__ import annotations

import numpy as np

from edgerec.types import Float32, Int64

BLOCK = 64
TINY = 4_096  # below it one partition of everything is faster
SMALL = 12_000  # below it one look at everything is faster than one into each block that matters


def top_k(scores: Float32, k: int) -> Int64:
    """Rows of the k largest scores, best first, ties by row; int64 (min(k, finite scores),).

    `scores` float32 (n,); −inf marks what may not be returned. Each of the k blocks with the largest maxima
    holds a score of at least the smallest of these maxima, so the k-th best score is no less, and only blocks
    that reach it matter.
    """
    n = len(scores)
    k = min(k, n)
    n_blocks = n // BLOCK
    if n < TINY or n_blocks <= k:
        rows = (scores >= _kth_largest(scores, k)).nonzero()[0]
        return _best_of(rows, scores[rows], k)
    # Strided blocks: block j holds rows j, j + n_blocks, … so that the maxima are one vectorised pass.
    blocks = scores[: n_blocks * BLOCK].reshape(BLOCK, n_blocks)
    maxima = blocks.max(axis=0)
    bound = _kth_largest(maxima, k)
    if bound == -np.inf:  # so little may be returned that the bound holds nothing back
        rows = (scores > bound).nonzero()[0]
        return _best_of(rows, scores[rows], k)
    if n < SMALL:
        rows = (scores >= bound).nonzero()[0]
    else:
        holding = (maxima >= bound).nonzero()[0]
        place, block = (blocks.take(holding, axis=1) >= bound).nonzero()
        tail = n_blocks * BLOCK + (scores[n_blocks * BLOCK :] >= bound).nonzero()[0]
        rows = np.concatenate((place * n_blocks + holding[block], tail))  # ascending: place grows, then block
    values = scores[rows]
    if len(rows) > 8 * k:
        best = (values >= _kth_largest(values, k)).nonzero()[0]
        rows, values = rows[best], values[best]
    return _best_of(rows, values, k)


def _kth_largest(values: Float32, k: int) -> np.float32:
    place = len(values) - k
    kth: np.float32 = np.partition(values, place)[place]
    return kth


def _best_of(rows: Int64, values: Float32, k: int) -> Int64:
    """The k best of some rows in ascending order, without those at −inf."""
    order = np.argsort(-values, kind="stable")[:k]
    if len(order) and values[order[-1]] == -np.inf:
        order = order[values[order] > -np.inf]
    return rows[order]
