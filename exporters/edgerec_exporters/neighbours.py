"""Item-to-item weights: EASE on decayed purchases, what follows what, what is called alike; cut to the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgerec_exporters.affinity import title_similarity, transitions
from edgerec_exporters.examples import DAY, Baskets

Float32 = NDArray[np.float32]
Csr = tuple[NDArray[np.int32], NDArray[np.int32], Float32]
"""indptr int32 (n_items + 1,) · ids int32 (nnz,) · weights float32 (nnz,), by source item."""

MAX_DENSE = 20_000
"""Items that take part, the most popular first: matrices of items by items are dense."""


def gram(baskets: Baskets, until: float, half_life_days: float) -> Float32:
    """XᵀX float32 (n, n) with x_ui = c · 0.5^(age before `until` of u's newest event with i / half-life).

    c makes the trace what it is without decay, so that one ridge penalty suits every half-life.
    """
    out = np.zeros((baskets.n_items, baskets.n_items), np.float32)
    total = distinct = 0.0
    bounds = np.flatnonzero(np.diff(np.append(baskets.user, -1)) != 0)
    for last in bounds.tolist():
        events = slice(int(baskets.first[last]), int(baskets.stop[last]))
        rows, newest = np.unique(baskets.item[events][::-1], return_index=True)
        age = (until - baskets.at[events][::-1][newest]) / DAY
        x = np.exp2(-age / half_life_days).astype(np.float32)
        out[np.ix_(rows, rows)] += np.outer(x, x)
        total, distinct = total + float(x @ x), distinct + len(rows)
    return out * np.float32(distinct / max(total, 1e-30))


def ease(co_occurrence: Float32, l2: float) -> Float32:
    """EASE (Steck 2019, eq. 8) from XᵀX float32 (n, n): B = I − P · diag(1 / diag P), P = (XᵀX + l2 · I)⁻¹.

    Weights (n, n) from row to column, zero diagonal; a user's scores are the sum of the rows of the user's items.
    """
    import torch

    penalised = torch.from_numpy(co_occurrence.copy())
    penalised.diagonal().add_(l2)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(penalised)).numpy()
    weights: Float32 = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def item_factors(co_occurrence: Float32, dim: int, l2: float, seed: int) -> Float32:
    """V float32 (n, dim) with V Vᵀ ≈ XᵀX (XᵀX + l2 · I)⁻¹, its best rank-`dim` part: ridge regression on items.

    By subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4). They are where the encoder's training
    starts: from random vectors, a few thousand baskets do not get as far.
    """
    rng = np.random.default_rng(seed)
    n = len(co_occurrence)
    basis = rng.standard_normal((n, min(n, dim + 16))).astype(np.float32)
    for _ in range(6):
        basis, _ = np.linalg.qr(co_occurrence @ basis)
    values, rotation = np.linalg.eigh(basis.T @ co_occurrence @ basis)
    best = np.argsort(-values)[:dim]
    strength = np.sqrt(np.maximum(values[best], 0) / (np.maximum(values[best], 0) + l2))
    out = (rng.standard_normal((n, dim)) * 1e-3).astype(np.float32)
    out[:, : len(best)] += (basis @ rotation[:, best] * strength).astype(np.float32)
    return out


@dataclass(frozen=True, slots=True)
class Shares:
    """How much the parts count beside EASE: `text` that of similar titles, `follows` that of next baskets."""

    text: float
    follows: float


def item_to_item(baskets: Baskets, co_occurrence: Float32, titles: list[str], l2: float, shares: Shares) -> Float32:
    """EASE + text · similarity of titles + follows · transitions, float32 (n, n), zero diagonal."""
    weights = ease(co_occurrence, l2)
    if shares.text:
        weights += np.float32(shares.text) * title_similarity(titles)
    if shares.follows:
        in_order = ((u, baskets.item[a:b].astype(np.int32)) for u, a, b in _by_time(baskets))
        weights += np.float32(shares.follows) * transitions(in_order, baskets.n_items)
    np.fill_diagonal(weights, 0)
    return weights


def _by_time(baskets: Baskets) -> list[tuple[int, int, int]]:
    return list(zip(baskets.user.tolist(), baskets.start.tolist(), baskets.stop.tolist(), strict=True))


def cut(weights: Float32, per_item: int, by: str = "target") -> Float32:
    """The `per_item` weights that count most, the others 0: of each target's by |weight|, of each source's by
    |weight|, or of each target's positive ones."""
    n = len(weights)
    per_item = min(per_item, n)
    size = np.maximum(weights, 0) if by == "positive" else np.abs(weights)
    axis = 1 if by == "source" else 0
    bound = np.partition(size, n - per_item, axis=axis).take([n - per_item], axis=axis)
    return np.where((size >= bound) & (size > 0), weights, np.float32(0))


def to_csr(weights: Float32) -> Csr:
    """The weights that are not 0, by source item."""
    source, target = np.nonzero(weights)
    indptr = np.searchsorted(source, np.arange(len(weights) + 1)).astype(np.int32)
    return indptr, target.astype(np.int32), weights[source, target]
