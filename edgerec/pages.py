"""Making a page: the scores of a snapshot, the scenario's rules, the best candidates, the rerankers, the caps."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerec.bundle import Bundle
from edgerec.device import Device, Snapshot
from edgerec.errors import RequestError, UnknownItem
from edgerec.records import changed, record
from edgerec.serving import pipeline
from edgerec.serving.pipeline import Mix, Stopwatch
from edgerec.serving.rules import Eligibility, ScenarioRules, eligibility, item_ids, why_blocked
from edgerec.types import Float32, Float64, Int64, Page, PageRequest, Request

if TYPE_CHECKING:
    from edgerec.serving.reranking import Reranked

MOST_PLACES = 1000
"""Where caps leave a page short, rerankers are asked for more places: for so many at most."""


class Ranking:
    """What one request ranks: the blended scores with the scenario's boosts, and what may be served.

    `added` float32 (n_items,), or None: what the rules add.
    """

    def __init__(self, snapshot: Snapshot, request: PageRequest, now: float) -> None:
        """Raises RequestError, UnknownScenario or UnknownAttribute for a request that cannot be answered."""
        if not isinstance(request.scenario, str):
            raise RequestError(f"scenario = {request.scenario!r}", hint="scenarios are named by texts")
        if not isinstance(request.context, (Mapping, NoneType)):
            raise RequestError(f"context = {request.context!r}", hint="give an object, {'screen': 'home'}")
        self.snapshot, self.request, self.now = snapshot, request, now
        engine = self.engine = snapshot.engine
        self.rules: ScenarioRules = engine.rules(request.scenario)
        self.seen = request.seen or self.rules.seen
        self.situation = snapshot.situation
        self.mix: Mix = engine.mix(self.situation, snapshot.learned, self.rules.based_on)
        self.added: Float32 | None = self._added()

    def _added(self) -> Float32 | None:
        if self.rules.boosted is None and self.rules.fresh is None:
            return None
        from edgerec.serving.scenarios import adjustments  # the bundle's own scenarios add nothing

        return adjustments(self.rules, self.engine.bundle.catalogue, self.now)

    def scores(self) -> Float32:
        """Blended scores less a constant, with what the rules add; float32 (n_items,), the caller's to change."""
        scores = pipeline.blended(self.situation.table, self.mix)
        return scores if self.added is None else scores + self.added

    def eligible(self) -> Eligibility:
        """What may be served."""
        return eligibility(self.engine.bundle.catalogue, self.snapshot.history, **self._limits())

    def why_blocked(self, row: int) -> str | None:
        """The first rule that keeps the item out, None if none does."""
        return why_blocked(self.engine.bundle.catalogue, self.snapshot.history, row, **self._limits())

    def _limits(self) -> dict[str, Any]:
        asked, rules = self.request, self.rules
        return {
            "seen": self.seen,
            "exclude": [*item_ids("exclude", asked.exclude), *rules.exclude],
            "only": asked.only,
            "where": asked.where,
            "within": rules.where,
        }

    def parts(self, rows: Int64) -> tuple[tuple[str, ...], Float64]:
        """Names of the terms of some items' scores, (P,), and the terms, float64 (P, …), from rows int64 (…)."""
        table = self.situation.table
        blend = pipeline.score_parts(table, self.mix, rows)
        if self.added is None:
            return table.names, blend
        from edgerec.serving.scenarios import adjustment_parts

        added = adjustment_parts(self.rules, self.engine.bundle.catalogue, self.now, rows)
        return (*table.names, *added), np.concatenate((blend, np.array([*added.values()], np.float64)))


@record
class Choice:
    """The rows of a page, best first, int64 (k,); their propensities, float64 (k,); why there are fewer than asked;
    what the rerankers did, None where there are none; `order` int64 (m,): what the caps chose from, best first."""

    rows: Int64
    propensity: Float64
    reason: str | None
    reranked: Reranked | None
    order: Int64


def choose(ranking: Ranking, seed: int) -> Choice:
    """Fills the page: candidates by score, reranked, no more per attribute value than the caps allow."""
    n, rules, engine = ranking.request.n, ranking.rules, ranking.engine
    scores, eligible = ranking.scores(), ranking.eligible()
    if not rules.rerankers and not rules.caps:
        rows, reason = pipeline.best(scores, eligible, n)
        return Choice(rows, np.ones(len(rows)), reason, None, rows)
    # the bundle's own scenarios need neither
    from edgerec.serving.caps import capped
    from edgerec.serving.reranking import slate_size

    size, asked = slate_size(n), n
    while True:
        candidates, reason = pipeline.best(scores.copy(), eligible, size)
        outcome = _reranked(ranking, candidates, asked, seed) if rules.rerankers and len(candidates) else None
        order = candidates if outcome is None else outcome.rows.astype(np.int64)
        places, capped_reason = capped(order, engine.bundle.catalogue, rules.caps, n)
        # a reranker that gave all that it was asked for, but not all there is, may give more
        more = asked <= len(order) < len(candidates) and asked < MOST_PLACES
        if len(places) == n or (reason is not None and not more):
            short = None if len(places) == n else capped_reason or reason
            propensity = np.ones(len(order)) if outcome is None else outcome.propensity
            return Choice(order.take(places), propensity.take(places), short, outcome, order)
        size *= 1 if reason else 4
        asked = min(4 * asked, MOST_PLACES) if more else asked


def _reranked(ranking: Ranking, candidates: Int64, places: int, seed: int) -> Reranked:
    """The candidates after the scenario's rerankers, which are asked for so many places."""
    from edgerec.serving.reranking import reranked, slate_of

    engine, request, wanted = ranking.engine, ranking.request, ranking.rules.rerankers
    profile = engine.profile(ranking.situation, ranking.snapshot.learned)
    slate = slate_of(candidates, ranking.parts(candidates)[1].sum(axis=0), places, seed)
    asked = Request(request.scenario, ranking.seen, ranking.now, request.context or {})
    rerankers = [engine.rerankers[name] for name in wanted if name in engine.rerankers]
    done = reranked(rerankers, slate, asked, profile, engine.bundle.model, engine.watch, least=request.n)
    missing = tuple([f"reranker {name}" for name in wanted if name not in engine.rerankers])
    return changed(done, failed=missing + done.failed) if missing else done


def row_of(bundle: Bundle, item: str) -> int:
    """The item's catalogue row. Raises UnknownItem."""
    row = bundle.catalogue.row(item)
    if row is None:
        raise UnknownItem(f"the catalogue has no item {item!r}")
    return row


def recommend(device: Device, request: PageRequest, page_id: str, *, log_exposure: bool) -> Page:
    """One page, inside the plugins' wrappers. Raises as `Ranking` does."""

    def make() -> Page:
        return _page(device, request, page_id)

    hooks = device.plugins.hooks
    page = hooks.recommend(request, make) if hooks.asked("edgerec_recommend") else make()
    if log_exposure:
        _expose(device, page)
    return page


def _page(device: Device, request: PageRequest, page_id: str) -> Page:
    watch = Stopwatch()
    snapshot = device.snapshot()
    ranking = Ranking(snapshot, request, device.clock())
    watch.lap("score")
    choice = choose(ranking, seed=int(page_id, 16))
    watch.lap("rank")
    names, parts = ranking.parts(choice.rows)
    items = pipeline.page_items(choice.rows, parts, names, choice.propensity, snapshot.engine.bundle.catalogue)
    failed = ranking.situation.table.failed
    if choice.reranked is not None:
        failed += choice.reranked.failed
    if device.trouble is not None:
        failed += ("store",)
    page = Page(page_id, items, request.scenario, choice.reason, failed, watch.timings)
    watch.lap("page")
    return page


def _expose(device: Device, page: Page) -> None:
    at = round(device.clock() * 1e6)
    device.expose([(page.id, page.scenario, r.item, r.rank, r.score, r.propensity, at) for r in page.items])


def places_of(reranked: Reranked | None, row: int) -> Mapping[str, int | None]:
    """Per reranker, the place (from 1) at which it left a row, None where it left it out."""
    if reranked is None:
        return {}
    places = {name: np.flatnonzero(order == row) for name, order in reranked.orders.items()}
    return {name: int(found[0]) + 1 if len(found) else None for name, found in places.items()}
