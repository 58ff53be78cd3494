"""Constants of central training, all in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgerec_exporters.encoder_fit import EncoderRecipe


@dataclass(frozen=True, slots=True)
class Recipe:
    """Constants of training; the defaults were chosen on Online Retail's validation period.

    Half-lives in days. `text` and `follows` are what similar titles and next baskets count beside EASE; `cut` is the
    `by` of `neighbours.cut`. `validation_days`: length of the period before the cut-off on which weights and epochs are
    chosen, at most MAX_VALIDATION_SHARE of the data. `blend`, `guard`, `updaters`: constants of learning on the device.
    """

    dim: int = 64
    history_length: int = 128
    encoder: EncoderRecipe = field(default_factory=EncoderRecipe)
    factor_half_life_days: float = 90.0
    factor_l2: float = 120.0
    gain: float = 20.0
    ease_half_life_days: float = 45.0
    ease_l2: float = 400.0
    text: float = 0.05
    follows: float = 1.0
    per_item: int = 200
    cut: str = "positive"
    neighbour_half_life_days: float = 90.0
    popular_half_life_days: float = 15.0
    boost_half_events: float = 40.0
    habit_half_life_days: float = 120.0
    validation_days: float = 92.0
    blend: Mapping[str, Any] = field(default_factory=dict)
    guard: Mapping[str, Any] = field(default_factory=dict)
    updaters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with another greatest number of epochs."""
    return replace(recipe, encoder=replace(recipe.encoder, epochs=epochs))
