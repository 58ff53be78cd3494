"""What devices may send of a model, and how its blend is weighed once rounds keep popularity fresh.

The weights are chosen on the baskets held out, where popularity is what everybody had done before the round that was
the last one then: as if rounds had been held all along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.federated import ITEM_COUNTS, MAX_PAYLOAD, METRICS, PAIR_SKETCH, RING_WIDTH
from edgerec.bundle.repeat import RepeatModel
from edgerec.records import changed
from edgerec_exporters import repeat_fit
from edgerec_exporters.examples import DAY, Baskets
from edgerec_exporters.repeat_fit import ItemHistory

if TYPE_CHECKING:
    from edgerec_exporters.recipe import Recipe
    from edgerec_exporters.validation import Judge, Parts

Float32 = NDArray[np.float32]
Rows = NDArray[np.int64]
HEAD = 256
"""More bytes than the heads of three blocks take."""


@dataclass(frozen=True, slots=True)
class FederatedRecipe:
    """Constants of a delta's blocks, see docs/delta-format.md; half-life and interval in days.

    `pairs`: values of the sketch of pairs, 0: no such block · `pair_bound`, `pair_unit`: its own · `few`: an item with
    fewer events than that is one whose pairs are counted, up to `focus` of them.
    """

    half_life_days: float = 7.0
    every_days: float = 7.0
    bound: float = 4.0
    unit: float = 0.0625
    pairs: int = 12_288
    pair_bound: float = 12.0
    pair_unit: float = 0.125
    few: int = 5
    focus: int = 1024
    metrics: int = 32


def blocks(recipe: FederatedRecipe, count: Rows, seed: int) -> list[dict[str, Any]]:
    """The manifest's blocks, from how many events each item has, int64 (n_items,); none where a share of a delta
    would be longer than a device may send."""
    n_items, left = len(count), (MAX_PAYLOAD - HEAD) // RING_WIDTH - recipe.metrics
    if n_items > left:
        return []
    made: list[dict[str, Any]] = [
        {
            "name": "popularity",
            "kind": ITEM_COUNTS,
            "size": n_items,
            "bound": recipe.bound,
            "unit": recipe.unit,
            "half_life_days": recipe.half_life_days,
        }
    ]
    focus = np.flatnonzero(count < recipe.few)[: recipe.focus].tolist()
    if recipe.pairs and focus and n_items + recipe.pairs <= left:
        shape = {"size": recipe.pairs, "bound": recipe.pair_bound, "unit": recipe.pair_unit}
        made.append({"name": "pairs", "kind": PAIR_SKETCH, **shape, "seed": seed, "focus": focus})
    made.append({"name": "metrics", "kind": METRICS, "size": recipe.metrics, "bound": 1.0, "unit": 2.0**-10})
    return made


def refreshed(
    baskets: Baskets, chosen: Rows, since: float, recipe: FederatedRecipe, repeat: RepeatModel | None = None
) -> dict[str, Float32]:
    """What rounds keep fresh, as of the last one before each basket, float32 (n, n_items) each: popularity, and with
    `repeat` what is taken again. Rounds are held every so many days from `since` on (POSIX seconds)."""
    history = None if repeat is None else ItemHistory(baskets)
    number = ((baskets.when[chosen] - since) // (recipe.every_days * DAY)).astype(np.int64)
    popular = np.empty((len(chosen), baskets.n_items), np.float32)
    again = np.empty_like(popular)
    for one in np.unique(number).tolist():
        until = since + one * recipe.every_days * DAY
        happened = baskets.at < until
        weight = np.exp2(-(until - baskets.at[happened]) / DAY / recipe.half_life_days)
        count = np.bincount(baskets.item[happened], weight, baskets.n_items)
        popular[number == one] = np.log1p(count).astype(np.float32)
        if repeat is not None and history is not None:
            model = changed(repeat, items=history.table(until))
            again[number == one] = repeat_fit.scores(baskets, chosen[number == one], model)
    return {"popular": popular} if repeat is None else {"popular": popular, "repeat": again}


def section(
    judge: Judge, parts: Parts, recipe: Recipe, since: float, count: Rows, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest's section `federated`, and what was measured; both empty where the model has no such blocks.

    `since`: where what is held out begins · `count` int64 (n_items,): events per item in all the data.
    """
    made = blocks(recipe.federated, count, seed)
    if not made:
        return {}, {}
    constants = recipe.federated
    scenarios, boost, told = judge.weigh(
        parts, recipe, lambda chosen: refreshed(judge.baskets, chosen, since, constants, parts.repeat)
    )
    popular = {"boost": boost, "half_events": recipe.boost_half_events}
    weights = {name: dict(scenario.weights) for name, scenario in scenarios.items()}
    return {"blocks": made, "weights": weights, "sources": {"popular": popular}}, {"federated": told}
