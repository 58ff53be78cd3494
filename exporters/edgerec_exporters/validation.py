"""The validation period: judges sources on it, and chooses the blend and when training stops."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.manifest import Scenario
from edgerec.errors import TrainingError
from edgerec_exporters import blend_fit
from edgerec_exporters.encoder_fit import Progress, Taste, taste_scores
from edgerec_exporters.examples import Baskets
from edgerec_exporters.recipe import Recipe

Float32 = NDArray[np.float32]

SCENARIOS = {"default": "hide", "reorder": "show"}
SOURCES = {
    "default": ("taste", "neighbours", "popular"),
    "reorder": ("taste", "neighbours", "popular", "habit"),
}
MAX_CELLS = 16_000_000
"""Validation baskets × items held at once, per source."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What the sources score with, fitted to the baskets before one moment. `dense`: weights before the cut."""

    taste: Taste
    bias: Float32
    dense: Float32
    weights: Float32
    popularity: Float32


class Judge:
    """The validation period: baskets whose user has a past, each predicted from it, test-then-train."""

    def __init__(self, baskets: Baskets, since: float, seed: int) -> None:
        chosen = baskets.with_past(since=since)
        most = max(MAX_CELLS // baskets.n_items, 1)
        if len(chosen) > most:
            chosen = np.sort(np.random.default_rng(seed).choice(chosen, most, replace=False))
        self.baskets, self.chosen = baskets, chosen
        self.targets, self.seen = baskets.target_mask(chosen), baskets.seen_mask(chosen)
        self.novel = self.targets & ~self.seen
        if not self.novel.any():
            raise TrainingError(
                f"nobody comes back for something new after {iso(since)}, so nothing can be chosen there",
                hint="train on a longer period",
            )

    def measure(self, scores: Float32) -> dict[str, float]:
        """Mean NDCG@10 of the views `novel` (seen items hidden) and `all`."""
        return {
            "novel": round(float(np.nanmean(blend_fit.ndcg(scores, self.novel, self.seen))), 5),
            "all": round(float(np.nanmean(blend_fit.ndcg(scores, self.targets))), 5),
        }

    def taste(self, taste: Taste, length: int) -> float:
        """What early stopping looks at: taste alone, the mean of both views."""
        scores = taste_scores(taste, self.baskets, self.chosen, length, np.zeros(self.baskets.n_items, np.float32))
        return float(np.mean(list(self.measure(scores).values())))

    def scores(self, parts: Parts, recipe: Recipe) -> dict[str, Float32]:
        """Every source's scores before each basket, float32 (n, n_items)."""
        baskets, chosen = self.baskets, self.chosen
        return {
            "taste": taste_scores(parts.taste, baskets, chosen, recipe.history_length, parts.bias),
            "neighbours": baskets.recency(chosen, recipe.neighbour_half_life_days) @ parts.weights,
            "popular": np.tile(parts.popularity, (len(chosen), 1)),
            "habit": baskets.habits(chosen, recipe.habit_half_life_days),
        }

    def choose(
        self, parts: Parts, recipe: Recipe, progress: Progress
    ) -> tuple[dict[str, Scenario], float, dict[str, Any]]:
        """Weights per scenario, the boost of popularity for short histories, and the metrics."""
        found: dict[str, Any] = {"baskets": len(self.chosen), "sources": {}, "scenarios": {}}
        z = {}
        for name, scores in self.scores(parts, recipe).items():
            found["sources"][name] = self.measure(scores)
            z[name] = blend_fit.standardise(scores)
        found["cut"] = self._cut(parts, recipe)
        n_events = self.baskets.start[self.chosen] - self.baskets.first[self.chosen]
        fading = np.exp2(-n_events / recipe.boost_half_events).astype(np.float32)
        users = self.baskets.user[self.chosen]
        scenarios, boost = {}, 0.0
        for done, (name, seen) in enumerate(SCENARIOS.items()):
            progress("choosing: blend", done, len(SCENARIOS))
            hidden = self.seen if seen == "hide" else None
            columns = {source: z[source] for source in SOURCES[name]}
            if seen == "hide":
                columns["boost"] = z["popular"] * fading[:, None]
            task = blend_fit.Task.of(
                list(columns.values()), self.targets if hidden is None else self.novel, hidden, users
            )
            weights, values = blend_fit.fit(list(columns), task)
            boost = weights.pop("boost", boost)
            scenarios[name] = Scenario("hide" if seen == "hide" else "show", weights)
            found["scenarios"][name] = {"ndcg@10": values}
        progress("choosing: blend", len(SCENARIOS), len(SCENARIOS))
        return scenarios, boost, {"validation": found}

    def _cut(self, parts: Parts, recipe: Recipe) -> dict[str, Any]:
        """What the cut of the item-to-item weights costs."""
        before = self.baskets.recency(self.chosen, recipe.neighbour_half_life_days) @ parts.dense
        return {
            "by": recipe.cut,
            "per_item": recipe.per_item,
            "kept": int((parts.weights != 0).sum()),
            "dense": self.measure(before),
        }


def iso(at: float) -> str:
    """ISO 8601 in UTC."""
    return datetime.fromtimestamp(float(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
