"""A loaded bundle with its sources and its learner: everything that turns a history into scores and lessons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edgerec import log
from edgerec.bundle import Bundle
from edgerec.config import Config
from edgerec.errors import BundleError, UnknownScenario
from edgerec.history import History
from edgerec.interfaces import FAILURES, Arrival, CandidateSource, Settings
from edgerec.learning.learner import GroupEvent, Learner, Situation
from edgerec.learning.replay import Replay, replay
from edgerec.learning.state import Learned
from edgerec.plugins import Plugins
from edgerec.records import changed
from edgerec.serving.blend import starting_weights
from edgerec.serving.encoder import query_of
from edgerec.serving.pipeline import Mix
from edgerec.serving.scorer import Lines, Scorer
from edgerec.serving.sources import Habit, Neighbours, Popular, Taste
from edgerec.store import EventRow
from edgerec.types import Float32, Profile, Request, ScoreTable, SourceScores

NO_UPDATER = "none"


class Engine:
    """Pure but for caches: the store is nobody's business here. Shared by serving, learning and installation."""

    def __init__(self, bundle: Bundle, plugins: Plugins, config: Config) -> None:
        self.bundle = bundle
        self.config = config
        manifest = bundle.manifest
        csr = bundle.neighbours
        self._neighbour_source = Neighbours(csr.indptr, csr.ids, csr.weights, self._constants("neighbours"))
        sources: list[CandidateSource] = [
            Taste(),
            self._neighbour_source,
            Popular(bundle.model),
            Habit(self._constants("habit")),
        ]
        sources += plugins.sources(self._constants)
        self.scorer = Scorer(bundle.model, sources, self._constants("popular"))
        starts = {
            name: starting_weights(self.scorer.names, config.weights or scenario.weights, config.disabled_sources)
            for name, scenario in manifest.scenarios.items()
        }
        name = config.updater or manifest.updater
        settings = {**manifest.updaters.get(name, {}), **config.updaters.get(name, {})}
        updater = None if name == NO_UPDATER else plugins.updater(name, settings)
        self.filters = plugins.filters(self._filter_settings())
        self.learner = Learner(bundle, updater, starts, learn_blend=config.learn_blend, guarded=config.guard)

    def _constants(self, source: str) -> dict[str, object]:
        return {**self.bundle.manifest.sources.get(source, {}), **self.config.sources.get(source, {})}

    def _filter_settings(self) -> dict[str, Settings]:
        of, own = self.bundle.manifest.filters, self.config.filters
        return {n: {**of.get(n, {}), **own.get(n, {})} for n in {*of, *own}} if self.config.filter_events else {}

    def scenario(self, name: str) -> str:
        """The name, if the bundle has such a scenario. Raises UnknownScenario."""
        if name not in self.bundle.manifest.scenarios:
            known = ", ".join(self.bundle.manifest.scenarios)
            raise UnknownScenario(f"the bundle has no scenario {name!r}", hint=f"it has: {known}")
        return name

    def empty_history(self) -> History:
        return History.empty(self.bundle.manifest, self.config.history_until)

    def situation(self, history: History, learned: Learned) -> Situation:
        """Runs the encoder and every source. An encoder that fails counts as one that has nothing to say."""
        failed: tuple[str, ...] = ()
        try:
            query = query_of(self.bundle, history)
        except BundleError as error:
            log.warning("the encoder failed: %s", error)
            query, failed = np.zeros(self.bundle.manifest.dim, np.float32), ("encoder",)
        profile = self._profile(history, learned, query)
        table = self.scorer.table(profile, self._request(profile))
        return Situation(history, query, changed(table, failed=failed + table.failed) if failed else table)

    def _profile(self, history: History, learned: Learned, query: Float32) -> Profile:
        updater = self.learner.updater
        states = {updater.name: learned.updater} if updater else {}
        return history.profile(query, self.learner.user_vector(learned.updater), states)

    @staticmethod
    def _request(profile: Profile) -> Request:
        # A function of the history: "now" is its newest event, and scores hold until it changes.
        return Request("", "", float(profile.at[-1]) if profile.n_events else 0.0)

    def mix(self, situation: Situation, learned: Learned, scenario: str) -> Mix:
        """How the scenario blends for this user now."""
        weights, use_vector = self.learner.serving(learned, scenario)
        return Mix(weights + situation.table.extra, use_vector)

    def similar_to(self, row: int) -> tuple[ScoreTable, Mix]:
        """Scores of every item as a companion of one: its neighbours, and the closeness of the vectors."""
        model = self.bundle.model
        sums = self._neighbour_source.sum_rows(np.array([row], np.int32), np.zeros(1), model.n_items)
        norms = np.linalg.norm(model.vectors, axis=1)
        cosine = model.vectors @ model.vectors[row] / np.maximum(norms * norms[row], np.float32(1e-12))
        lines = Lines(2, model.n_items)
        for place, scores in enumerate((cosine, sums)):
            lines.put(place, SourceScores.dense(scores))
        return lines.table(("taste", "neighbours"), 0, np.zeros(2)), Mix(np.array([0.5, 1.0]), False)

    def group_events(self, rows: Sequence[EventRow]) -> list[GroupEvent]:
        """Events with their catalogue rows."""
        items = self.bundle.catalogue.rows([row.item for row in rows])
        return [GroupEvent(row, item) for row, item in zip(rows, items.tolist(), strict=True)]

    def set_aside(self, arrival: Arrival, earlier: Sequence[Arrival]) -> str | None:
        """Why an event filter sets the event aside, None where all let it pass; one that fails lets it pass."""
        for each in self.filters:
            try:
                reason = each.review(arrival, earlier)
            except FAILURES as error:  # a filter must never stop recording
                log.warning("event filter %s failed: %s", each.name, type(error).__name__)
                continue
            if reason is not None:
                return f"{each.name}: {reason}"
        return None

    def replay(self, rows: Iterable[EventRow], *, obey: bool) -> Replay:
        """Goes through stored events from zero (`learning.replay.replay`)."""
        return replay(self.learner, self.group_events(list(rows)), self.empty_history(), self.situation, obey=obey)
