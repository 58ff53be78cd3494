"""Constants of the item spaces; the defaults were chosen on Online Retail's validation period."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class IalsRecipe:
    """As in `ials.fit`."""

    l2: float = 0.003
    alpha: float = 0.3
    nu: float = 1.0
    iterations: int = 8


@dataclass(frozen=True, slots=True)
class GraphRecipe:
    """How the graph's vectors are trained.

    `layers` K · `gain` what a dot product of two vectors is multiplied by before the softmax · `l2` penalty on the
    vectors of layer 0 · negatives are drawn by popularity^alpha · `ridge`: the vectors serve as `ials.kernel` of
    them, held by that many times the mean of their spectrum.
    """

    layers: int = 1
    epochs: int = 40
    batch_size: int = 128
    learning_rate: float = 1e-2
    l2: float = 0.03
    gain: float = 1.0
    n_negatives: int = 1024
    alpha: float = 0.75
    ridge: float = 3.0


@dataclass(frozen=True, slots=True)
class SpaceRecipe:
    """An event counts 0.5^(age before the cut-off / half_life_days), the newest of each user with each item."""

    half_life_days: float = 60.0
    ials: IalsRecipe = field(default_factory=IalsRecipe)
    lightgcn: GraphRecipe = field(default_factory=GraphRecipe)
