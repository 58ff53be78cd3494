"""Item-to-item weights: EASE on decayed purchases, what follows what, what is called alike; cut to the best."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from edgerec.serving.sources import Neighbours
from edgerec_exporters import device_scores
from edgerec_exporters.affinity import Csr, Markov, successions, title_similarity, transitions
from edgerec_exporters.examples import DAY, Baskets

Float32 = NDArray[np.float32]
Rows = NDArray[np.int64]
MAX_DENSE = 20_000
"""More items than that are too many for EASE, whose matrices of items by items are dense."""


def gram(baskets: Baskets, until: float, half_life_days: float, lasting: float = 0.0) -> Float32:
    """XᵀX float32 (n, n), x_ui = c · (lasting + (1 − lasting) · 0.5^(age / half-life)), with the age before `until` of
    u's newest event with i.

    c makes the trace what it is without decay, so that one ridge penalty suits every half-life.
    """
    out = np.zeros((baskets.n_items, baskets.n_items), np.float32)
    total = distinct = 0.0
    bounds = np.flatnonzero(np.diff(np.append(baskets.user, -1)) != 0)
    for last in bounds.tolist():
        events = slice(int(baskets.first[last]), int(baskets.stop[last]))
        rows, newest = np.unique(baskets.item[events][::-1], return_index=True)
        age = (until - baskets.at[events][::-1][newest]) / DAY
        x = (lasting + (1 - lasting) * np.exp2(-age / half_life_days)).astype(np.float32)
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


NEAR = Markov(window=5, decay=0.8, backwards=1.0, out=0.0)


def near_factors(baskets: Baskets, dim: int, norm: float, seed: int) -> Float32:
    """V float32 (n, dim), |V_i| = `norm`, with V Vᵀ near D^-½ (C + N) D^-½: who stands near whom in a sequence.

    C are the symmetric `successions` within five events, N the items' counts on the diagonal, D = N + 1. Its best
    rank-`dim` part by subspace iteration, as in `item_factors`. From there a sequence encoder needs a fifth of the
    epochs that it needs from small random vectors, and ends better.
    """
    from scipy import sparse  # type: ignore[import-untyped]

    n = baskets.n_items
    indptr, ids, weights = markov(baskets, NEAR)
    count = np.bincount(baskets.item, minlength=n)
    scale = sparse.diags((1 / np.sqrt(count + 1.0)).astype(np.float32))
    near = sparse.csr_matrix((weights, ids, indptr), (n, n)) + sparse.diags(count.astype(np.float32))
    near = (scale @ near @ scale).astype(np.float32)
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((n, min(n, dim + 16))).astype(np.float32)
    for _ in range(4):
        basis, _ = np.linalg.qr(near @ basis)
    values, rotation = np.linalg.eigh(basis.T @ (near @ basis))
    best = np.argsort(-values)[:dim]
    out = (rng.standard_normal((n, dim)) * 1e-3).astype(np.float32)
    out[:, : len(best)] += basis @ rotation[:, best] * np.sqrt(np.maximum(values[best], 0))
    scaled: Float32 = (out * (norm / np.linalg.norm(out, axis=1, keepdims=True))).astype(np.float32)
    return scaled


@dataclass(frozen=True, slots=True)
class Recency:
    """How much an item of the history counts: constants of the device's `neighbours` source; None: it has none."""

    half_life_days: float = 90.0
    half_life_events: float | None = None
    last: int | None = None

    def constants(self) -> dict[str, float | int]:
        """As the manifest holds them."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def scores(baskets: Baskets, chosen: Rows, weights: Csr, recency: Recency) -> Float32:
    """What the device's own source gives before each of the chosen baskets, float32 (n, n_items)."""
    return device_scores.scores(baskets, chosen, Neighbours(*weights, recency.constants()))


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


def markov(baskets: Baskets, constants: Markov) -> Csr:
    """`affinity.successions` of the data's events."""
    user = np.repeat(baskets.user, baskets.stop - baskets.start)
    return successions(user, baskets.item, baskets.n_items, constants)


def mixed(parts: list[tuple[float, Csr]]) -> Csr:
    """The weighted sum of sparse matrices, each first scaled to a mean absolute weight of 1 per item."""
    n_items = len(parts[0][1][0]) - 1
    cells, values = [], []
    for share, (indptr, ids, weights) in parts:
        scale = share * n_items / max(float(np.abs(weights).sum()), 1e-30)
        cells.append(np.repeat(np.arange(n_items), np.diff(indptr)) * n_items + ids)
        values.append(weights * scale)
    kept, place = np.unique(np.concatenate(cells), return_inverse=True)
    sums = np.bincount(place, np.concatenate(values), len(kept)).astype(np.float32)
    indptr = np.searchsorted(kept, np.arange(n_items + 1) * n_items).astype(np.int32)
    return indptr, (kept % n_items).astype(np.int32), sums


def cut_csr(csr: Csr, per_item: int) -> Csr:
    """The `per_item` weights of each source that are largest, by target."""
    indptr, ids, weights = csr
    source = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    order = np.lexsort((-np.abs(weights), source))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - indptr[source[order]]
    keep = rank < per_item
    lengths = np.bincount(source[keep], minlength=len(indptr) - 1)
    return np.append(0, np.cumsum(lengths)).astype(np.int32), ids[keep], weights[keep]
