"""From a table of scores to a page: blend, rules, top-k."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from edgerec.bundle.catalogue import Catalogue
from edgerec.records import record
from edgerec.score_table import ScoreTable
from edgerec.serving.rules import Eligibility
from edgerec.topk import top_k
from edgerec.types import Float32, Float64, Int64, Recommendation


@record
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
    """The blended scores less a constant, which ranks alike: float32 (n_items,), Σ_j w_j scale_j s_j."""
    n = len(table.names)
    personal = mix.use_user_vector and not table.impersonal
    if personal:
        table.complete()
    weights = np.zeros(n + personal, np.float32)
    weights[:n] = mix.weights * table.scale[:n]
    if personal:
        weights[n] = mix.weights[table.taste] * table.scale[n]
        weights[table.taste] = 0
    scores: Float32 = weights.dot(table.scores[: n + personal])
    return scores


def score_parts(table: ScoreTable, mix: Mix, rows: Int64) -> Float64:
    """Some items' terms of the blend, float64 (S, …), from rows int64 (…); they add up to the scores."""
    z = table.z(rows, personal=mix.use_user_vector)
    z *= mix.weights.reshape((-1,) + (1,) * rows.ndim)
    return z


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
    rows: Int64, parts: Float64, names: Sequence[str], propensity: Float64, catalogue: Catalogue
) -> tuple[Recommendation, ...]:
    """The page's places; `parts` float64 (S, k): the terms of each score, by `names` (S)."""
    return tuple(
        Recommendation(item, title, place, score, dict(zip(names, terms, strict=True)), chance)
        for place, ((item, title), score, terms, chance) in enumerate(
            zip(catalogue.items(rows), parts.sum(axis=0).tolist(), parts.T.tolist(), propensity.tolist(), strict=True),
            1,
        )
    )
