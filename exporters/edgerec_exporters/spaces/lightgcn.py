"""LightGCN: user and item vectors smoothed over the graph of who took what (He et al. 2020).

Layer k + 1 is Â times layer k, with Â = D^-½ A D^-½ the normalised adjacency of users and items; a vector is the mean
of its layers 0 … K (eqs. 3-8). Trained by softmax over a shared sample of items, as in Wu et al. (2022, "On the
effectiveness of sampled softmax loss for item recommendation"), not by BPR: it needs far fewer epochs.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from edgerec.errors import TrainingError
from edgerec_exporters.losses import draw_candidates, sampled_softmax
from edgerec_exporters.spaces.ials import Progress, Sparse
from edgerec_exporters.spaces.recipes import GraphRecipe

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Â in its two blocks: `to_users` (n_users, n_items) and `to_items`, its transpose, both sparse."""

    to_users: Tensor
    to_items: Tensor

    @classmethod
    def of(cls, taken: Sparse, device: torch.device | str = "cpu") -> Graph:
        """From weights by users: w_ui / √(Σ_i w_ui · Σ_u w_ui)."""
        transposed = taken.transposed()
        users, items = np.sqrt(taken.row_sums()), np.sqrt(transposed.row_sums())
        return cls(_csr(taken, users, items, device), _csr(transposed, items, users, device))

    def propagate(self, users: Tensor, items: Tensor, layers: int) -> tuple[Tensor, Tensor]:
        """The mean of layers 0 … `layers` of the vectors (n_users, dim) and (n_items, dim)."""
        smooth_users, smooth_items = users, items
        for _ in range(layers):
            users, items = self.to_users @ items, self.to_items @ users
            smooth_users, smooth_items = smooth_users + users, smooth_items + items
        return smooth_users / (layers + 1), smooth_items / (layers + 1)


class _Propagation(torch.autograd.Function):
    """`Graph.propagate` with its gradient: it is a symmetric linear map, so the gradient is propagated the same."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, graph: Graph, layers: int) -> tuple[Tensor, Tensor]:
        ctx.graph, ctx.layers = graph, layers
        return graph.propagate(users, items, layers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return *ctx.graph.propagate(gradients[0], gradients[1], ctx.layers), None, None


def propagate(users: Tensor, items: Tensor, graph: Graph, layers: int) -> tuple[Tensor, Tensor]:
    """`Graph.propagate`, differentiable."""
    smooth: tuple[Tensor, Tensor] = _Propagation.apply(users, items, graph, layers)  # type: ignore[no-untyped-call]
    return smooth


@dataclass(frozen=True, slots=True, eq=False)
class GraphVectors:
    """Smoothed `items` float32 (n_items, dim) and `users` float32 (n_users, dim), and the `losses` of the epochs."""

    items: Float32
    users: Float32
    losses: tuple[float, ...]


def fit(
    users: ArrayLike,
    items: ArrayLike,
    weights: ArrayLike,
    n_users: int,
    n_items: int,
    *,
    dim: int = 64,
    recipe: GraphRecipe | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> GraphVectors:
    """The smoothed vectors after training; a user's score of an item is the dot product of both.

    `users`, `items` integers (n_events,) · `weights` (n_events,) >= 0 are those of the graph's edges; the events of
    one user with one item are added. The same seed gives the same vectors on one CPU. Raises TrainingError where
    arguments contradict each other or the vectors do not stay finite.
    """
    recipe = recipe or GraphRecipe()
    taken = Sparse.of(users, items, weights, n_users, n_items)
    run = _Run(taken, dim, recipe, seed, torch.device(device))
    losses = []
    for done in range(recipe.epochs):
        if progress:
            progress("LightGCN", done, recipe.epochs)
        losses.append(run.epoch())
        if not math.isfinite(losses[-1]):
            raise TrainingError("training the graph did not stay finite", hint="lower its learning rate")
    if progress:
        progress("LightGCN", recipe.epochs, recipe.epochs)
    with torch.no_grad():
        smooth_users, smooth_items = run.graph.propagate(run.users, run.items, recipe.layers)
    return GraphVectors(smooth_items.cpu().numpy(), smooth_users.cpu().numpy(), tuple(losses))


class _Run:
    """One training run; all randomness from `seed`."""

    def __init__(self, taken: Sparse, dim: int, recipe: GraphRecipe, seed: int, device: torch.device) -> None:
        self.taken, self.recipe, self.device = taken, recipe, device
        self.graph = Graph.of(taken, device)
        self.rng = np.random.default_rng(seed)
        self.users = self._start(len(taken.indptr) - 1, dim)
        self.items = self._start(taken.n_columns, dim)
        self.known = np.flatnonzero(np.diff(taken.indptr))
        if not len(self.known):
            raise TrainingError("the graph has no edge")
        chance = (np.bincount(taken.columns, minlength=taken.n_columns) + 1.0) ** recipe.alpha
        self.chance = chance / chance.sum()
        self.optimiser = torch.optim.Adam([self.users, self.items], lr=recipe.learning_rate)

    def _start(self, n: int, dim: int) -> Tensor:
        drawn = self.rng.standard_normal((n, dim)).astype(np.float32) / np.float32(math.sqrt(dim))
        return torch.from_numpy(drawn).to(self.device).requires_grad_()

    def epoch(self) -> float:
        """One pass over the users, who are asked for all that they took. Returns the mean loss."""
        order = self.rng.permutation(self.known)
        parts = np.array_split(order, math.ceil(len(order) / self.recipe.batch_size))
        return sum(self._step(part) for part in parts) / len(parts)

    def _step(self, chosen: NDArray[np.int64]) -> float:
        place, item = _edges(self.taken, chosen)
        rows, log_inclusion = draw_candidates(
            item, self.taken.n_columns, self.recipe.n_negatives, self.chance, self.rng
        )
        wanted = np.zeros((len(chosen), len(rows)), np.bool_)
        wanted[place, np.searchsorted(rows, item)] = True
        weight = (1 / np.sqrt(wanted.sum(1))).astype(np.float32)
        users, items = propagate(self.users, self.items, self.graph, self.recipe.layers)
        logits = self.recipe.gain * users[self._to(chosen)] @ items[self._to(rows)].T
        loss = sampled_softmax(logits, self._to(wanted), self._to(log_inclusion), None, self._to(weight))
        norms = self.users[self._to(chosen)].square().sum(1).mean() + self.items[self._to(rows)].square().sum(1).mean()
        self.optimiser.zero_grad()
        (loss + self.recipe.l2 * norms).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(loss.detach())

    def _to(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def _edges(taken: Sparse, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The items of the chosen users: (place in `chosen`, item), flat."""
    begin, lengths = taken.indptr[chosen], np.diff(taken.indptr)[chosen]
    place = np.repeat(np.arange(len(chosen)), lengths)
    offset = np.arange(len(place)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return place, taken.columns[begin[place] + offset]


def _csr(taken: Sparse, rows: NDArray[np.float64], columns: NDArray[np.float64], device: Any) -> Tensor:
    row = np.repeat(np.arange(len(taken.indptr) - 1), np.diff(taken.indptr))
    scale = np.maximum(rows[row] * columns[taken.columns], 1e-30)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(taken.indptr),
            torch.from_numpy(taken.columns),
            torch.from_numpy((taken.weights / scale).astype(np.float32)),
            (len(taken.indptr) - 1, taken.n_columns),
            check_invariants=True,
            device=device,
        )
