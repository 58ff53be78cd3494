"""Item-to-item mathematics that baselines and reference arms share: co-occurrence, EASE, sums over a past."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec_tools.baselines.pasts import Pasts
from edgerec_tools.datasets import Dataset

Float32 = NDArray[np.float32]


def invert(matrix: Float32, leaf: int = 256) -> Float32:
    """The inverse of a symmetric positive definite matrix by halves (Schur complements, Banachiewicz 1937).

    Nearly all of it is matrix products, several times as fast as a general inverse. `matrix` (n, n).
    """
    n = len(matrix)
    if n <= leaf:
        return np.linalg.inv(matrix)
    half = n // 2
    first = invert(np.ascontiguousarray(matrix[:half, :half]), leaf)
    side = matrix[:half, half:]
    product = first @ side
    last = invert(matrix[half:, half:] - side.T @ product, leaf)
    corner = product @ last
    inverse = np.empty_like(matrix)
    inverse[:half, :half] = first + corner @ product.T
    inverse[:half, half:] = -corner
    inverse[half:, :half] = -corner.T
    inverse[half:, half:] = last
    return inverse


def ease(gram: Float32, l2: float = 200.0) -> Float32:
    """EASE (Steck 2019, eq. 8) from the item co-occurrence matrix XᵀX float32 (n, n): weights (n, n), from row to
    column, with a zero diagonal. A user's scores are the sum of the rows of the user's items."""
    penalised = gram.copy()
    penalised[np.diag_indices_from(penalised)] += np.float32(l2)
    inverse = invert(penalised)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def co_occurrence(train: Dataset) -> Float32:
    """XᵀX float32 (n_items, n_items) of the binary matrix of who had what: how many users had both items."""
    gram = np.zeros((train.n_items, train.n_items), np.float32)
    order = np.argsort(train.user, kind="stable")
    ends = np.cumsum(np.bincount(train.user, minlength=train.n_users))
    for events in np.split(train.item[order], ends[:-1]):
        rows = np.unique(events)
        gram[rows[:, None], rows] += 1
    return gram


def sums(pasts: Pasts, strength: NDArray[np.floating[Any]], weights: Float32) -> Float32:
    """Σ_i strength_i · weights[i] over the distinct items of each past, float32 (n, n_items).

    `strength` (n_events,): of each event; an item's newest event counts · `weights` (n_items, n_items).
    """
    out = np.empty((len(pasts), weights.shape[1]), np.float32)
    kept = np.flatnonzero(pasts.newest() & (strength != 0))
    bounds = np.searchsorted(kept, pasts.start)
    for line, first, last in zip(out, bounds.tolist(), bounds[1:].tolist(), strict=False):
        events = kept[first:last]
        np.matmul(strength[events].astype(np.float32), weights[pasts.item[events]], out=line)
    return out
