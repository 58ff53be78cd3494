"""Why an item stands where it stands, in a scenario, for one user."""

from __future__ import annotations

import numpy as np

from edgerec.device import Device, Snapshot
from edgerec.history import History
from edgerec.learning.progressive import ranks
from edgerec.pages import Choice, Ranking, choose, places_of, row_of
from edgerec.serving import pipeline
from edgerec.serving.caps import why_capped
from edgerec.serving.explain import influences
from edgerec.types import Explanation, Influence, PageRequest

PAGE = 10
"""Rerankers are asked for a page of this length."""


def explanation(device: Device, item: str, scenario: str, *, page: str | None = None) -> Explanation:
    """Parts that add up to the item's score, its place, what the rerankers did to it, the events that moved it most,
    or the rule or cap that keeps it out. `page`: id of the page whose chance the rerankers repeat.

    Raises UnknownItem or UnknownScenario.
    """
    snapshot = device.snapshot()
    ranking = Ranking(snapshot, PageRequest(PAGE, scenario), device.clock())
    catalogue = snapshot.engine.bundle.catalogue
    row = row_of(snapshot.engine.bundle, item)
    names, parts = ranking.parts(np.array(row))
    score = float(parts.sum())
    blocked = ranking.why_blocked(row)
    choice = None if blocked else choose(ranking, seed=_seed(page))
    return Explanation(
        item=item,
        title=catalogue.title(row),
        scenario=scenario,
        score=score,
        rank=None if blocked else _rank(ranking, row),
        parts=dict(zip(names, parts.tolist(), strict=True)),
        weights=dict(zip(ranking.situation.table.names, ranking.mix.weights.tolist(), strict=True)),
        events=_influences(snapshot, ranking.rules.based_on, row, float(parts[: len(ranking.mix.weights)].sum())),
        filtered=blocked if choice is None else _why_capped(ranking, choice, row),
        reranked={} if choice is None else places_of(choice.reranked, row),
    )


def _seed(page: str | None) -> int:
    """What the chance of a page is drawn from; that of a page whose id is not ours is not known."""
    try:
        return int(page or "0", 16)
    except ValueError:
        return 0


def _why_capped(ranking: Ranking, choice: Choice, row: int) -> str | None:
    caps = ranking.rules.caps
    if not caps or (choice.rows == row).any():
        return None
    return why_capped(choice.order, ranking.engine.bundle.catalogue, caps, row)


def _rank(ranking: Ranking, row: int) -> int:
    scores, eligible = ranking.scores(), ranking.eligible()
    if eligible.blocked is not None:
        scores[eligible.blocked] = -np.inf
    return int(ranks(scores[None, :], row)[0])


def _influences(snapshot: Snapshot, scenario: str, row: int, score: float) -> tuple[Influence, ...]:
    engine, history = snapshot.engine, snapshot.history

    def score_of(changed: History) -> float:
        situation = engine.situation(changed, snapshot.learned)
        mix = engine.mix(situation, snapshot.learned, scenario)
        return float(pipeline.score_parts(situation.table, mix, np.array(row)).sum())

    catalogue, kinds = engine.bundle.catalogue, engine.bundle.manifest.kinds
    return tuple(
        Influence(
            catalogue.item(int(history.rows[place])), kinds[history.kinds[place]], float(history.at[place]), effect
        )
        for place, effect in influences(history, score, score_of, last=30, keep=5)
    )
