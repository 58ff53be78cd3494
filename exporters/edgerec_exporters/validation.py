"""Judges sources on the baskets held out for choosing, and chooses the blend and when training stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.manifest import Scenario
from edgerec.bundle.repeat import RepeatModel
from edgerec.errors import TrainingError
from edgerec_exporters import blend_fit, neighbours, repeat_fit
from edgerec_exporters.affinity import Csr
from edgerec_exporters.encoder_fit import Progress, Taste, taste_scores
from edgerec_exporters.holdout import HoldOut
from edgerec_exporters.neighbours import Recency
from edgerec_exporters.recipe import Recipe

Float32 = NDArray[np.float32]
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]

SCENARIOS = {"default": "hide", "reorder": "show"}
SOURCES = {
    "default": ("taste", "neighbours", "popular"),
    "reorder": ("taste", "neighbours", "popular", "habit", "repeat"),
}
Refreshed = Callable[[Rows], Mapping[str, Float32]]
"""Sources' scores before some baskets, float32 (n, n_items) each."""
MAX_CELLS = 16_000_000
"""Baskets × items held at once, per source."""
MAX_JUDGED = 10_000
MAX_STOPPING = 4000
"""Baskets that early stopping and the choice of item-to-item weights look at."""


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """Item-to-item weights as they ship, with what the device multiplies them by; `dense`: EASE's before the cut."""

    weights: Csr
    recency: Recency
    dense: Float32 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What the sources score with, fitted to one part of the data."""

    taste: Taste
    bias: Float32
    linear: Linear
    popularity: Float32
    repeat: RepeatModel | None = None

    def sources(self, scenario: str) -> tuple[str, ...]:
        """What the scenario blends."""
        return tuple(name for name in SOURCES[scenario] if name != "repeat" or self.repeat is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Some baskets, and per basket over the catalogue what they hold, what the user had, and what is new to the user,
    all bool (n, n_items)."""

    baskets: Rows
    targets: Bools
    seen: Bools

    @property
    def novel(self) -> Bools:
        return self.targets & ~self.seen


class Judge:
    """The baskets held out, each predicted from its user's earlier ones, test-then-train."""

    def __init__(self, held: HoldOut, seed: int) -> None:
        self.baskets = held.baskets
        rng = np.random.default_rng(seed)
        self.chosen = _at_most(MAX_JUDGED, held.judged, rng)
        self.stopping = _at_most(MAX_STOPPING, self.chosen, rng)
        parts = list(self.wanted(self.chosen))
        self.repeats = any((part.targets & part.seen).any() for part in parts)
        if not any(part.novel.any() for part in parts):
            reason = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in held.told.items())
            raise TrainingError(
                f"nobody comes back for something new, so nothing can be chosen ({reason})",
                hint="train on a longer period",
            )

    def wanted(self, chosen: Rows) -> Iterator[Wanted]:
        """The baskets in blocks that fit into memory."""
        size = max(MAX_CELLS // self.baskets.n_items, 1)
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            yield Wanted(part, self.baskets.target_mask(part), self.baskets.seen_mask(part))

    def taste(self, taste: Taste, length: int) -> float:
        """What early stopping looks at: taste alone, the mean of both views, or `novel` where nobody repeats."""
        bias = np.zeros(self.baskets.n_items, np.float32)
        views = _Views()
        for part in self.wanted(self.stopping):
            views.add(taste_scores(taste, self.baskets, part.baskets, length, bias), part)
        found = views.means()
        return float(np.mean(list(found.values()))) if self.repeats else found["novel"]

    def linear(self, linear: Linear) -> float:
        """NDCG@10 of item-to-item weights alone, the same mean of views."""
        views = _Views()
        for part in self.wanted(self.stopping):
            views.add(neighbours.scores(self.baskets, part.baskets, linear.weights, linear.recency), part)
        found = views.means()
        return float(np.mean(list(found.values()))) if self.repeats else found["novel"]

    def scores(self, parts: Parts, recipe: Recipe, chosen: Rows) -> dict[str, Float32]:
        """Every source's scores before each basket, float32 (n, n_items)."""
        baskets, linear = self.baskets, parts.linear
        again = {} if parts.repeat is None else {"repeat": repeat_fit.scores(baskets, chosen, parts.repeat)}
        return {
            "taste": taste_scores(parts.taste, baskets, chosen, recipe.history_length, parts.bias),
            "neighbours": neighbours.scores(baskets, chosen, linear.weights, linear.recency),
            "popular": np.tile(parts.popularity, (len(chosen), 1)),
            "habit": baskets.habits(chosen, recipe.habit_half_life_days),
            **again,
        }

    def choose(
        self, parts: Parts, recipe: Recipe, progress: Progress
    ) -> tuple[dict[str, Scenario], float, dict[str, Any]]:
        """Weights per scenario, the boost of popularity for short histories, and the metrics."""
        views: dict[str, _Views] = {}
        tasks = self._tasks(parts, recipe, views)
        scenarios, boost, fitted = self._fitted(parts, tasks, progress)
        found: dict[str, Any] = {
            "baskets": len(self.chosen),
            "sources": {source: each.means() for source, each in views.items()},
            "scenarios": fitted,
            "neighbours": self._told(parts.linear, recipe),
        }
        return scenarios, boost, {"validation": found}

    def weigh(
        self, parts: Parts, recipe: Recipe, refreshed: Refreshed
    ) -> tuple[dict[str, Scenario], float, dict[str, Any]]:
        """Weights per scenario, the boost, and NDCG@10 where some sources' scores are others before each basket."""
        return self._fitted(parts, self._tasks(parts, recipe, {}, refreshed), lambda *_: None)

    def _tasks(
        self,
        parts: Parts,
        recipe: Recipe,
        views: dict[str, _Views],
        refreshed: Refreshed | None = None,
    ) -> dict[str, list[blend_fit.Task]]:
        """Scenario → what its weights are chosen by; every source's views are added to `views`."""
        # where nobody repeats there is nothing to choose by for those who see what they know: one blend serves both
        tasks: dict[str, list[blend_fit.Task]] = {
            name: [] for name, seen in SCENARIOS.items() if seen == "hide" or self.repeats
        }
        for part in self.wanted(self.chosen):
            found = self.scores(parts, recipe, part.baskets)
            if refreshed is not None:
                found |= refreshed(part.baskets)
            z = {}
            for source, scores in found.items():
                views.setdefault(source, _Views()).add(scores, part)
                z[source] = blend_fit.standardise(scores)
            for name in tasks:
                tasks[name].append(
                    self._task(name, [z[source] for source in parts.sources(name)], z["popular"], part, recipe)
                )
        return tasks

    def _fitted(
        self, parts: Parts, tasks: dict[str, list[blend_fit.Task]], progress: Progress
    ) -> tuple[dict[str, Scenario], float, dict[str, Any]]:
        """The best weights per scenario, the boost, and NDCG@10 under them."""
        scenarios: dict[str, Scenario] = {}
        told: dict[str, Any] = {}
        boost = 0.0
        for done, (name, seen) in enumerate(SCENARIOS.items()):
            progress("choosing: blend", done, len(SCENARIOS))
            columns = [*parts.sources(name), "boost"] if seen == "hide" else [*parts.sources(name)]
            if name not in tasks:
                scenarios[name] = Scenario("show", {**scenarios["default"].weights, "habit": 0.0})
                continue
            weights, values = blend_fit.fit(columns, blend_fit.Task.joined(tasks[name]))
            boost = weights.pop("boost", boost)
            scenarios[name] = Scenario("hide" if seen == "hide" else "show", weights)
            told[name] = {"ndcg@10": values}
        progress("choosing: blend", len(SCENARIOS), len(SCENARIOS))
        return scenarios, boost, told

    def _task(
        self, name: str, columns: list[Float32], popular: Float32, part: Wanted, recipe: Recipe
    ) -> blend_fit.Task:
        users = self.baskets.user[part.baskets]
        if SCENARIOS[name] == "show":
            return blend_fit.Task.of(columns, part.targets, None, users)
        n_events = self.baskets.start[part.baskets] - self.baskets.first[part.baskets]
        fading = np.exp2(-n_events / recipe.boost_half_events).astype(np.float32)
        return blend_fit.Task.of([*columns, popular * fading[:, None]], part.novel, part.seen, users)

    def _told(self, linear: Linear, recipe: Recipe) -> dict[str, Any]:
        """What was kept of the item-to-item weights, and what their cut costs."""
        told: dict[str, Any] = {"kept": len(linear.weights[1]), **linear.recency.constants()}
        if linear.dense is not None:
            views = _Views()
            for part in self.wanted(self.chosen):
                before = self.baskets.recency(part.baskets, recipe.neighbour_half_life_days) @ linear.dense
                views.add(before, part)
            told |= {"by": recipe.cut, "per_item": recipe.per_item, "dense": views.means()}
        return told


class _Views:
    """NDCG@10 of the views `novel` (seen items hidden) and `all`, block by block."""

    def __init__(self) -> None:
        self.found: dict[str, list[NDArray[np.float64]]] = {"novel": [], "all": []}

    def add(self, scores: Float32, part: Wanted) -> None:
        self.found["novel"].append(blend_fit.ndcg(scores, part.novel, part.seen))
        self.found["all"].append(blend_fit.ndcg(scores, part.targets))

    def means(self) -> dict[str, float]:
        return {view: round(float(np.nanmean(np.concatenate(parts))), 5) for view, parts in self.found.items()}


def _at_most(most: int, chosen: Rows, rng: np.random.Generator) -> Rows:
    return np.sort(rng.choice(chosen, most, replace=False)) if len(chosen) > most else chosen
