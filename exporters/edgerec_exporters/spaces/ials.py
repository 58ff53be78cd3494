"""Implicit alternating least squares: user and item vectors from who took what, and the fold-in of new users.

The loss, Hu, Koren & Volinsky (2008) in the form of Rendle, Krichene, Zhang & Koren (2022, "Revisiting the
performance of iALS on item recommendation benchmarks", eqs. 1-5), with c_ui the weight of an event, 0 where there is
none:

    Σ_ui c_ui (w_u · h_i - 1)² + α Σ_u Σ_i (w_u · h_i)²
      + λ Σ_u (c_u + α n_items)^ν |w_u|² + λ Σ_i (c_i + α n_users)^ν |h_i|²

c_u, c_i are the sums of weights of a user and an item: their counts where all weights are 1. ν = 1 holds frequent
users and items back in proportion to what they contribute to the loss. Needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from edgerec.errors import TrainingError

Float32 = NDArray[np.float32]
Float = NDArray[np.floating[Any]]
Rows = NDArray[np.int64]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

MAX_CELLS = 4_000_000
"""Numbers held at once by a block of users: gathered vectors and normal matrices."""
START_DEVIATION = 0.1
"""Deviation of a random dot product at the start; entries are drawn with this / √dim (Rendle et al., section 3.4)."""


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """The matrix of weights by rows: of row r, columns `columns[indptr[r]:indptr[r + 1]]` and their `weights`."""

    indptr: Rows
    columns: Rows
    weights: Float
    n_columns: int

    @classmethod
    def of(cls, rows: ArrayLike, columns: ArrayLike, weights: ArrayLike, n_rows: int, n_columns: int) -> Sparse:
        """From coordinates (n_events,) in any order; the weights of a cell named twice are added.

        Raises TrainingError where they differ in length, lie outside, or a weight is negative or not finite.
        """
        row, column = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
        weight = np.asarray(weights, np.float64)
        if not len(row) == len(column) == len(weight):
            raise TrainingError("users, items and weights differ in length")
        if not (_within(row, n_rows) and _within(column, n_columns)):
            raise TrainingError("an event names a user or an item that does not exist")
        if not (np.isfinite(weight) & (weight >= 0)).all():
            raise TrainingError("weights of events are finite and not negative")
        cells, place = np.unique(row * n_columns + column, return_inverse=True)
        total = np.bincount(place, weight, len(cells)).astype(np.float64)
        indptr = np.searchsorted(cells, np.arange(n_rows + 1) * n_columns)
        return cls(indptr, cells % n_columns, total, n_columns)

    def transposed(self) -> Sparse:
        """The same by columns."""
        row = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        return Sparse.of(self.columns, row, self.weights, self.n_columns, len(self.indptr) - 1)

    def row_sums(self) -> NDArray[np.float64]:
        """(n_rows,)."""
        return np.add.reduceat(np.append(self.weights, 0.0), self.indptr[:-1]) * (np.diff(self.indptr) > 0)


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """`items` float32 (n_items, dim) · `users` float32 (n_users, dim) · the constants they were fitted with."""

    items: Float32
    users: Float32
    l2: float
    alpha: float
    nu: float


def fit(
    users: ArrayLike,
    items: ArrayLike,
    weights: ArrayLike,
    n_users: int,
    n_items: int,
    *,
    dim: int = 64,
    l2: float = 0.01,
    alpha: float = 0.1,
    nu: float = 1.0,
    iterations: int = 12,
    seed: int = 0,
    dtype: DTypeLike = np.float32,
    progress: Progress | None = None,
) -> Factors:
    """The factors after `iterations` sweeps, each of all users and then all items, exact for one side given the other.

    `users`, `items` integers (n_events,) · `weights` (n_events,) >= 0, c in the module's formula; the events of one
    user with one item are added · `l2` λ, `alpha` α, `nu` ν there · `dtype` of the computation. The same seed gives
    the same factors. Raises TrainingError where arguments contradict each other or the factors do not stay finite.
    """
    if dim < 1 or iterations < 1 or l2 <= 0 or alpha < 0:
        raise TrainingError("iALS needs dim >= 1, iterations >= 1, l2 > 0 and alpha >= 0")
    by_user = Sparse.of(users, items, weights, n_users, n_items)
    by_item = by_user.transposed()
    rng = np.random.default_rng(seed)
    deviation = START_DEVIATION / np.sqrt(dim)
    item_vectors = (rng.standard_normal((n_items, dim)) * deviation).astype(dtype)
    for done in range(iterations):
        if progress:
            progress("iALS", done, iterations)
        user_vectors = solve(item_vectors, by_user, l2=l2, alpha=alpha, nu=nu)
        item_vectors = solve(user_vectors, by_item, l2=l2, alpha=alpha, nu=nu)
    if not (np.isfinite(user_vectors).all() and np.isfinite(item_vectors).all()):
        raise TrainingError("iALS did not stay finite", hint="raise l2, or compute in float64")
    if progress:
        progress("iALS", iterations, iterations)
    return Factors(item_vectors.astype(np.float32), user_vectors.astype(np.float32), l2, alpha, nu)


def fold_in(factors: Factors, rows: ArrayLike, weights: ArrayLike) -> Float32:
    """The vector that a user with these items gets while the item vectors stay, float32 (dim,).

    `rows` catalogue rows (k,) · `weights` (k,) as in `fit`. A user of nothing gets zeros.
    """
    indptr = np.array([0, len(np.asarray(rows))])
    vector: Float32 = fold_in_many(factors, indptr, rows, weights)[0]
    return vector


def fold_in_many(factors: Factors, indptr: ArrayLike, rows: ArrayLike, weights: ArrayLike) -> Float32:
    """`fold_in` of many users at once, float32 (n, dim); user k's `rows` and `weights` are indptr[k]:indptr[k + 1]."""
    bounds = np.asarray(indptr, np.int64)
    user = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    taken = Sparse.of(user, rows, weights, len(bounds) - 1, len(factors.items))
    return solve(factors.items, taken, l2=factors.l2, alpha=factors.alpha, nu=factors.nu).astype(np.float32)


def objective(users: Float, items: Float, taken: Sparse, *, l2: float, alpha: float, nu: float = 1.0) -> float:
    """The loss of the module's formula in float64; `taken` by users."""
    w, h = users.astype(np.float64), items.astype(np.float64)
    row = np.repeat(np.arange(len(w)), np.diff(taken.indptr))
    scores = np.einsum("ed,ed->e", w[row], h[taken.columns])
    observed = (taken.weights * (scores - 1) ** 2).sum()
    everywhere = ((w.T @ w) * (h.T @ h)).sum()
    held = _holds(taken, alpha, nu) @ (w**2).sum(1) + _holds(taken.transposed(), alpha, nu) @ (h**2).sum(1)
    return float(observed + alpha * everywhere + l2 * held)


def typical_kernel(factors: Factors, taken: Sparse) -> Float32:
    """`kernel` with M what a mean user's fold-in inverts; `taken` by users, what the factors were fitted to."""
    return kernel(
        factors.items, taken, factors.alpha, factors.l2 * float(_holds(taken, factors.alpha, factors.nu).mean())
    )


def kernel(items: Float32, taken: Sparse, alpha: float, hold: float) -> Float32:
    """Item vectors V float32 (n_items, dim) of the same space with V Vᵀ = H M⁻¹ Hᵀ, H being `items` and
    M = α HᵀH + mean over users of Σ c h hᵀ + hold · I: V_i · V_j is what item i of a history tells about j, so that a
    plain sum of V over a history stands in for a user's ridge regression on H.
    """
    h = items.astype(np.float64)
    weight = np.bincount(taken.columns, taken.weights, len(h)) / max(len(taken.indptr) - 1, 1)
    normal = alpha * h.T @ h + (h * weight[:, None]).T @ h + hold * np.eye(h.shape[1])
    values, rotation = np.linalg.eigh(normal)
    vectors: Float32 = (h @ rotation / np.sqrt(values)).astype(np.float32)
    return vectors


def solve(others: Float, taken: Sparse, *, l2: float, alpha: float, nu: float) -> Float:
    """The best vector of each row of `taken` given those of its columns, `others` (n_columns, dim); (n_rows, dim).

    w = (α HᵀH + Σ c h hᵀ + λ (c_u + α n)^ν I)⁻¹ Σ c h. Rows of similar length are solved together, so that little
    of a block is padding.
    """
    dim = others.shape[1]
    out = np.zeros((len(taken.indptr) - 1, dim), others.dtype)
    hold = (l2 * _holds(taken, alpha, nu)).astype(others.dtype)
    everywhere = alpha * (others.T @ others)
    eye = np.eye(dim, dtype=others.dtype)
    for block in _blocks(np.diff(taken.indptr), dim):
        columns, weights = _padded(taken, block, others.dtype)
        gathered = others[columns]
        weighted = gathered * weights[:, :, None]
        normal = np.matmul(weighted.transpose(0, 2, 1), gathered)
        normal += everywhere + hold[block, None, None] * eye
        out[block] = np.linalg.solve(normal, weighted.sum(1)[:, :, None])[:, :, 0]
    return out


def _within(values: Rows, size: int) -> bool:
    return not len(values) or bool(values.min() >= 0 and values.max() < size)


def _holds(taken: Sparse, alpha: float, nu: float) -> NDArray[np.float64]:
    """(c_u + α n_columns)^ν of each row."""
    held: NDArray[np.float64] = (taken.row_sums() + alpha * taken.n_columns) ** nu
    return held


def _blocks(lengths: Rows, dim: int) -> Iterator[Rows]:
    """Rows that are not empty, the longest first, as many at once as MAX_CELLS allows."""
    order = np.argsort(-lengths, kind="stable")
    order = order[: np.count_nonzero(lengths)]
    at = 0
    while at < len(order):
        size = max(1, MAX_CELLS // (dim * (2 * int(lengths[order[at]]) + dim)))
        yield order[at : at + size]
        at += size


def _padded(taken: Sparse, block: Rows, dtype: DTypeLike) -> tuple[Rows, Float]:
    """Columns and weights of the rows of a block, (len(block), longest), padded with weight 0."""
    begin, end = taken.indptr[block], taken.indptr[block + 1]
    place = begin[:, None] + np.arange(int((end - begin).max()))
    inside = place < end[:, None]
    place = np.where(inside, place, begin[:, None])
    return taken.columns[place], np.where(inside, taken.weights[place], 0.0).astype(dtype)
