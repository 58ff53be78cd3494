"""Another policy, judged by the device's own log: what was shown, how probable that was, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from edgerec.device import Device, Snapshot
from edgerec.engine import Engine
from edgerec.errors import PluginError, RequestError
from edgerec.interfaces import FAILURES, ChancePolicy
from edgerec.isolation import told
from edgerec.learning.replay import walk
from edgerec.off_policy import Estimates, LoggedPage, estimates
from edgerec.pages import Ranking
from edgerec.records import record
from edgerec.serving import pipeline
from edgerec.serving.reranking import slate_of, slate_size
from edgerec.store import EventRow, ExposureTable
from edgerec.types import Float64, Int64, PageRequest, Request, Slate

_ROUNDING = 1e-6


@record
class _Page:
    id: str
    at: int
    items: tuple[str, ...]
    propensity: Float64


def evaluate_policy(device: Device, policy: str, *, logged: str = "default") -> Estimates:
    """What the scenario `policy` would have earned on the pages of the scenario `logged`: expected events of positive
    weight per page, by the estimators of `off_policy`.

    Every page is made again as of its time, by going through the events up to it. Pages that were asked for with
    `where`, `only` or `exclude` are taken as if they had not been; do not mix them in. Pages on which nothing was left
    to chance are left out: they say nothing of another policy.

    Raises UnknownScenario; RequestError for a policy whose probabilities nobody knows, pages whose propensities caps
    made wrong, or too few pages; PluginError for a reranker that fails to tell its probabilities.
    """
    device.flush()
    engine = device.snapshot().engine
    judge = _Judge(engine, policy)
    if engine.rules(logged).caps:
        raise RequestError(f"scenario {logged!r} has caps", hint="they change the propensities in a way nobody logged")
    events = device.events()
    with device.database.read() as connection:
        rows = [row for row in ExposureTable.all(connection) if row[1] == logged]
    pages = _drawn([_page(id_, list(group)) for id_, group in groupby(rows, key=lambda row: row[0])], logged)
    rewards = _rewards(engine, events)
    return estimates(
        [
            judge.page(snapshot, page, np.array([rewards.get((page.id, item), 0.0) for item in page.items]))
            for snapshot, page in _as_of(engine, events, pages)
        ]
    )


def _drawn(pages: Sequence[_Page], logged: str) -> list[_Page]:
    """The pages on which something was left to chance. Raises RequestError where they are too few."""
    drawn = [page for page in pages if (page.propensity < 1).any()]
    if len(pages) >= 2 and not drawn:
        raise RequestError(
            "nothing was left to chance in these pages",
            hint="log with a scenario that has a reranker such as epsilon or softmax",
        )
    if len(drawn) < 2:
        raise RequestError(f"{len(drawn)} pages of scenario {logged!r} were logged", hint="at least two are needed")
    return drawn


def _page(id_: str, rows: Sequence[tuple[str, str, str, float, int]]) -> _Page:
    return _Page(id_, rows[0][4], tuple(row[2] for row in rows), np.array([row[3] for row in rows]))


def _rewards(engine: Engine, events: Sequence[EventRow]) -> Mapping[tuple[str, str], float]:
    """1 for each (page, item) that a sound event of positive weight came from."""
    kinds = engine.bundle.manifest.event_kinds
    return {
        (row.recommendation_id, row.item): 1.0
        for row in events
        if row.recommendation_id is not None and kinds[row.kind].weight > 0 and not row.set_aside
    }


def _as_of(engine: Engine, events: Sequence[EventRow], pages: Sequence[_Page]) -> Iterator[tuple[Snapshot, _Page]]:
    """Each page with the user as of when it was made."""
    waiting = sorted(pages, key=lambda page: page.at)
    history = engine.empty_history()
    snapshot = Snapshot(engine, history, engine.learner.initial())
    for stop in walk(engine.learner, engine.group_events(events), history, engine.situation, obey=True):
        first = min([event.row.received for event in stop.events])
        while waiting and waiting[0].at <= first:  # at the same moment the page came before what came of it
            yield snapshot, waiting.pop(0)
        snapshot = Snapshot(engine, stop.history, stop.learned)
    for page in waiting:
        yield snapshot, page


class _Judge:
    """Says with what probability a scenario would have made a page."""

    def __init__(self, engine: Engine, policy: str) -> None:
        rules = engine.rules(policy)
        self.engine, self.policy = engine, policy
        self.reranker: ChancePolicy | None = None
        if rules.caps or len(rules.rerankers) > 1:
            raise RequestError(f"scenario {policy!r} has caps or several rerankers", hint="one reranker can be judged")
        for name in rules.rerankers:
            reranker = engine.rerankers.get(name)
            if not isinstance(reranker, ChancePolicy):
                raise RequestError(f"reranker {name!r} does not say how probable its choices are")
            self.reranker = reranker

    def page(self, snapshot: Snapshot, page: _Page, reward: Float64) -> LoggedPage:
        """The page as the estimators want it."""
        n = len(page.items)
        ranking = Ranking(snapshot, PageRequest(n, self.policy), page.at / 1e6)
        candidates, _ = pipeline.best(ranking.scores(), ranking.eligible(), slate_size(n))
        _, parts = ranking.parts(candidates)
        slate = slate_of(candidates, parts.sum(axis=0), n, 0)
        shown = self.engine.bundle.catalogue.rows(list(page.items))
        _, own = ranking.parts(np.maximum(shown, 0))
        target, expected = np.zeros(n), np.full(n, np.nan)
        left: Int64 = np.arange(len(candidates))
        for place, row in enumerate(shown.tolist()):
            if not len(left):
                break
            chances = self._probabilities(slate, left, ranking)
            expected[place] = chances @ slate.scores[left]
            taken = slate.rows[left] == row
            target[place] = chances[taken].sum()
            left = left[~taken]
        return LoggedPage(reward, page.propensity, target, own.sum(axis=0), expected)

    def _probabilities(self, slate: Slate, left: Int64, ranking: Ranking) -> Float64:
        if self.reranker is None:  # the best that is left, for certain
            best: Float64 = np.eye(1, len(left))[0]
            return best
        request = Request(self.policy, ranking.seen, ranking.now)
        profile = self.engine.profile(ranking.situation, ranking.snapshot.learned)
        try:
            chances = np.asarray(
                self.reranker.probabilities(slate, left, request, profile, self.engine.bundle.model), np.float64
            )
            if chances.shape != left.shape or not (chances >= 0).all() or not abs(chances.sum() - 1) < _ROUNDING:
                raise ValueError(f"{chances.shape} for {left.shape} candidates, below 0 or not adding up to 1")
        except FAILURES as error:
            raise PluginError(f"the probabilities of scenario {self.policy!r} cannot be had: {told(error)}") from error
        return chances
