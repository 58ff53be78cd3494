"""Item spaces: item vectors from who took what, for an encoder to start from or to stand on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.errors import TrainingError
from edgerec_exporters.examples import DAY, Baskets
from edgerec_exporters.spaces import ials
from edgerec_exporters.spaces.recipes import GraphRecipe, IalsRecipe, SpaceRecipe

__all__ = ["SPACES", "GraphRecipe", "IalsRecipe", "SpaceRecipe", "item_space", "newest_events"]

Float32 = NDArray[np.float32]
Rows = NDArray[np.int64]
Events = tuple[Rows, Rows, NDArray[np.float64]]
"""Users, items, weights (n_events,)."""

SPACES = ("ials", "lightgcn")
MEAN_SQUARED_NORM = 0.016
"""What vectors are scaled to: that of `neighbours.item_factors` on Online Retail, which the encoders' gain was set
for."""


def item_space(
    name: str,
    baskets: Baskets,
    until: float,
    dim: int,
    recipe: SpaceRecipe,
    *,
    seed: int = 0,
    device: Any = "cpu",
    progress: ials.Progress | None = None,
) -> Float32:
    """The item vectors of the space of that name, float32 (n_items, dim); 0 for an item that nobody took.

    `until`: POSIX seconds from which ages count back. Raises TrainingError where there is no such space.
    """
    if name not in SPACES:
        raise TrainingError(f"there is no item space '{name}'", hint=f"one of {', '.join(SPACES)}")
    events = newest_events(baskets, until, recipe.half_life_days)
    shape = int(baskets.user.max(initial=-1)) + 1, baskets.n_items
    if name == "ials":
        vectors = _ials(events, shape, dim, recipe.ials, seed, progress)
    else:
        vectors = _lightgcn(events, shape, dim, recipe.lightgcn, seed, device, progress)
    vectors = np.where(np.isin(np.arange(baskets.n_items), baskets.item)[:, None], vectors, np.float32(0))
    norm = float(np.square(vectors, dtype=np.float64).sum(1).mean())
    scaled: Float32 = vectors * np.float32(np.sqrt(MEAN_SQUARED_NORM / max(norm, 1e-30)))
    return scaled


def _ials(
    events: Events, shape: tuple[int, int], dim: int, recipe: IalsRecipe, seed: int, progress: ials.Progress | None
) -> Float32:
    factors = ials.fit(
        *events,
        *shape,
        dim=dim,
        l2=recipe.l2,
        alpha=recipe.alpha,
        nu=recipe.nu,
        iterations=recipe.iterations,
        seed=seed,
        progress=progress,
    )
    return ials.typical_kernel(factors, ials.Sparse.of(*events, *shape))


def _lightgcn(
    events: Events,
    shape: tuple[int, int],
    dim: int,
    recipe: GraphRecipe,
    seed: int,
    device: Any,
    progress: ials.Progress | None,
) -> Float32:
    from edgerec_exporters.spaces import lightgcn

    smooth = lightgcn.fit(*events, *shape, dim=dim, recipe=recipe, seed=seed, device=device, progress=progress).items
    taken = ials.Sparse.of(*events, *shape)
    weight = np.bincount(taken.columns, taken.weights, shape[1]) / shape[0]
    spectrum = float(((1 + weight) @ np.square(smooth, dtype=np.float64)).mean())
    return ials.kernel(smooth, taken, 1.0, recipe.ridge * spectrum)


def newest_events(baskets: Baskets, until: float, half_life_days: float) -> Events:
    """Users, items and 0.5^(age before `until` / half-life) of each user's newest event with each item, flat."""
    user = np.repeat(baskets.user, baskets.stop - baskets.start)
    cell = user * baskets.n_items + baskets.item
    _, from_the_end = np.unique(cell[::-1], return_index=True)
    newest = len(cell) - 1 - from_the_end
    age = (until - baskets.at[newest]) / DAY
    return user[newest], baskets.item[newest], np.exp2(-age / half_life_days)
