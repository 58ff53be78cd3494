"""From a table of scores to a page: blend, rules, top-k."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgerec.bundle.catalogue import Catalogue
from edgerec.serving.rules import Eligibility
from edgerec.serving.topk import top_k
from edgerec.types import Float32, Float64, Int64, Recommendation, ScoreTable


@dataclass(frozen=True, slots=True)
class Mix:
    """How a scenario blends now: weights float64 (S,), the cold-start extra included, and whether u takes part."""

    weights: Float64
    use_user_vector: bool


class Stopwatch:
    """Milliseconds per stage of a page."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.last = clock()
        self.timings: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = self.clock()
        self.timings[stage] = (now - self.last) * 1e3
        self.last = now


def blended(table: ScoreTable, mix: Mix) -> Float32:
    """Σ_j w_j z_j over the catalogue, float32 (n_items,)."""
    weights = mix.weights.astype(np.float32)
    scores: Float32 = weights @ table.z
    taste = table.taste
    if mix.use_user_vector and not table.impersonal:
        scores += weights[taste] * (table.personal - table.z[taste])
    return scores


def score_parts(table: ScoreTable, mix: Mix, row: int) -> dict[str, float]:
    """One item's terms of the blend, by source; they add up to its score."""
    z = table.z[:, row].astype(np.float64)
    if mix.use_user_vector:
        z[table.taste] = table.personal[row]
    return dict(zip(table.names, (mix.weights * z).tolist(), strict=True))


def best(scores: Float32, eligible: Eligibility, n: int) -> tuple[Int64, str | None]:
    """The n best rows that may be served, and why there are fewer where there are. Overwrites `scores`."""
    if eligible.blocked is not None:
        np.copyto(scores, -np.inf, where=eligible.blocked)
    rows = top_k(scores, n)
    if len(rows) == n:
        return rows, None
    rules = ", ".join(eligible.reasons) or "the catalogue is small"
    return rows, f"only {len(rows)} of {len(scores)} items may be served ({rules})"


def page_items(
    rows: Int64, scores: Float32, table: ScoreTable, mix: Mix, catalogue: Catalogue
) -> tuple[Recommendation, ...]:
    """The page's places, with each score's parts."""
    parts = mix.weights[:, None] * table.z[:, rows]
    if mix.use_user_vector:
        parts[table.taste] = mix.weights[table.taste] * table.personal[rows]
    names = table.names
    return tuple(
        Recommendation(item, title, place, score, dict(zip(names, terms, strict=True)))
        for place, ((item, title), score, terms) in enumerate(
            zip(catalogue.items(rows), scores[rows].tolist(), parts.T.tolist(), strict=True), 1
        )
    )
