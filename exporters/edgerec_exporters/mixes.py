"""Item-to-item weights where order matters: EASE, what follows what, or a mix of both, the best on validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgerec_exporters import neighbours
from edgerec_exporters.affinity import Csr
from edgerec_exporters.examples import Baskets
from edgerec_exporters.recipe import Mix, Recipe
from edgerec_exporters.validation import Linear

if TYPE_CHECKING:
    from edgerec_exporters.validation import Judge


def fit(recipe: Recipe, baskets: Baskets, until: float, judge: Judge | None, chosen: Mix | None) -> tuple[Linear, Mix]:
    """The weights of the mix `chosen`, else of the one of `recipe.mixes` that the judge finds best."""
    small = baskets.n_items <= recipe.ease_items
    tried = [mix for mix in recipe.mixes if small or not mix.ease] if chosen is None else [chosen]
    parts = _Parts(recipe, baskets, until, any(mix.ease for mix in tried))
    if judge is None or len(tried) == 1:
        return parts.linear(tried[0]), tried[0]
    values = [judge.linear(parts.linear(mix)) for mix in tried]
    best = tried[int(np.argmax(values))]
    return parts.linear(best), best


class _Parts:
    """EASE and successions, made once."""

    def __init__(self, recipe: Recipe, baskets: Baskets, until: float, with_ease: bool) -> None:
        self.recipe = recipe
        self.markov = neighbours.cut_csr(neighbours.markov(baskets, recipe.markov), recipe.per_item)
        self.ease: Csr | None = None
        if with_ease:
            co_occurrence = neighbours.gram(baskets, until, recipe.ease_half_life_days, recipe.ease_lasting)
            dense = neighbours.ease(co_occurrence, recipe.ease_l2)
            self.ease = neighbours.to_csr(neighbours.cut(dense, recipe.per_item, recipe.cut))
        self.made: tuple[tuple[float, float], Csr] | None = None

    def linear(self, mix: Mix) -> Linear:
        """The weights of one mix."""
        shares = (mix.ease, mix.markov)
        if self.made is None or self.made[0] != shares:
            parts = [(mix.markov, self.markov)] if mix.markov else []
            parts += [(mix.ease, self.ease)] if mix.ease and self.ease is not None else []
            self.made = (shares, neighbours.mixed(parts))
        return Linear(self.made[1], mix.recency)
