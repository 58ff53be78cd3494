"""A loaded bundle with its sources and its learner: everything that turns a history into scores and lessons."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from edgerec import log
from edgerec.bundle import Bundle
from edgerec.config import Config
from edgerec.errors import BundleError, UnknownScenario
from edgerec.history import Happening, History
from edgerec.interfaces import FAILURES, Arrival, CandidateSource, Settings
from edgerec.learning.learner import GroupEvent, Learner, Situation
from edgerec.learning.replay import Replay, replay
from edgerec.learning.state import Learned
from edgerec.learning.updating import Updaters
from edgerec.plugins import Plugins
from edgerec.records import changed
from edgerec.score_table import ScoreTable
from edgerec.serving.blend import starting_weights
from edgerec.serving.encoder import query_of
from edgerec.serving.pipeline import Mix
from edgerec.serving.repeat import Repeat
from edgerec.serving.rules import ScenarioRules
from edgerec.serving.scorer import Lines, Scorer
from edgerec.serving.sources import Habit, Neighbours, Popular, Taste
from edgerec.store import EventRow
from edgerec.types import Float32, Float64, Profile, Request, SourceScores

NO_UPDATER = "none"


class Engine:
    """Pure but for caches: the store is nobody's business here. Shared by serving, learning and installation."""

    def __init__(self, bundle: Bundle, plugins: Plugins, config: Config, *, hooked: bool = False) -> None:
        """`hooked`: whether plugins' hooks may change what is learned and served; a golden test wants the bundle alone.

        Raises PluginNotFound or PluginError where there is no such updater, or it cannot be made.
        """
        self.bundle = bundle
        self.config = config
        self.control = False
        """Whether the device serves what the bundle says and nothing learned, for comparison."""
        manifest = bundle.manifest
        csr = bundle.neighbours
        self._neighbour_source = Neighbours(csr.indptr, csr.ids, csr.weights, self._constants("neighbours"))
        sources: list[CandidateSource] = [
            Taste(),
            self._neighbour_source,
            Popular(bundle.model),
            Habit(self._constants("habit")),
        ]
        if bundle.repeat is not None:
            sources.append(Repeat(bundle.repeat))
        wanted = {name: self._constants(name) for name in self._weighted() - {source.name for source in sources}}
        sources += plugins.sources(wanted)
        self.watch = plugins.isolation
        cold_start = plugins.hooks.cold_start if hooked and plugins.hooks.asked("edgerec_cold_start") else None
        review = plugins.hooks.review_update if hooked and plugins.hooks.asked("edgerec_review_update") else None
        self.scorer = Scorer(bundle.model, sources, self._constants("popular"), watch=self.watch, cold_start=cold_start)
        starts = {
            name: starting_weights(self.scorer.names, config.weights or scenario.weights, config.disabled_sources)
            for name, scenario in manifest.scenarios.items()
        }
        name = config.updater or manifest.updater
        updater = None if name == NO_UPDATER else plugins.updater(name, self._updater_settings(name))
        # the state of any other updater is served through a source of the same name
        aside = {n: self._updater_settings(n) for n in plugins.names("updater") if n in self.scorer.names and n != name}
        self.n_exposed = manifest.n_exposed if config.exposed_negatives is None else config.exposed_negatives
        self._rules = {name: ScenarioRules(name, name, of.seen) for name, of in manifest.scenarios.items()}
        if config.scenarios:
            # imported here because most apps have the bundle's scenarios alone
            from edgerec.serving.scenarios import all_rules, check_rules

            self._rules = all_rules(config.scenarios, manifest.scenarios)
            for rules in self._rules.values():
                check_rules(rules, bundle.catalogue)
        used = {name for rules in self._rules.values() for name in rules.rerankers}
        made = plugins.rerankers({name: config.rerankers.get(name, {}) for name in used})
        self.rerankers = {each.name: each for each in made}
        self.filters = plugins.filters(self._filter_settings())
        updaters = Updaters(
            bundle.model, updater, plugins.updaters(aside), manifest.guard, watch=self.watch, review=review
        )
        self.learner = Learner(bundle, updaters, starts, learn_blend=config.learn_blend, guarded=config.guard)

    def _constants(self, source: str) -> dict[str, object]:
        return {**self.bundle.manifest.sources.get(source, {}), **self.config.sources.get(source, {})}

    def _weighted(self) -> set[str]:
        """Sources that have a weight in some scenario; no other one need be made."""
        chosen = [self.config.weights] if self.config.weights else []
        weights = chosen or [scenario.weights for scenario in self.bundle.manifest.scenarios.values()]
        return {n for of in weights for n, weight in of.items() if weight > 0} - {*self.config.disabled_sources}

    def _updater_settings(self, name: str) -> Settings:
        return {**self.bundle.manifest.updaters.get(name, {}), **self.config.updaters.get(name, {})}

    def _filter_settings(self) -> dict[str, Settings]:
        of, own = self.bundle.manifest.filters, self.config.filters
        return {n: {**of.get(n, {}), **own.get(n, {})} for n in {*of, *own}} if self.config.filter_events else {}

    def scenario(self, name: str) -> str:
        """The scenario of the bundle that a scenario learns and blends as. Raises UnknownScenario."""
        return self.rules(name).based_on

    def learns_as(self, name: str) -> str | None:
        """The scenario of the bundle that learns from a page of a scenario; None where nobody knows the scenario."""
        try:
            return self.scenario(name)
        except UnknownScenario:
            return None

    def rules(self, name: str) -> ScenarioRules:
        """What holds in a scenario, the bundle's or the app's. Raises UnknownScenario."""
        if name in self._rules:
            return self._rules[name]
        from edgerec.serving.scenarios import rules_of  # which says what there is

        return rules_of(self.config.scenarios, self.bundle.manifest.scenarios, name)

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

    def profile(self, situation: Situation, learned: Learned) -> Profile:
        """The user as plugins see them."""
        return self._profile(situation.history, learned, situation.query)

    def _profile(self, history: History, learned: Learned, query: Float32) -> Profile:
        updaters = self.learner.updaters
        states = {**learned.aside, **({updaters.owner.name: learned.updater} if updaters.owner else {})}
        return history.profile(query, updaters.user_vector(learned.updater), states)

    @staticmethod
    def _request(profile: Profile) -> Request:
        # A function of the history: "now" is its newest event, and scores hold until it changes.
        return Request("", "", float(profile.at[-1]) if profile.n_events else 0.0)

    def mix(self, situation: Situation, learned: Learned, scenario: str) -> Mix:
        """How the scenario blends for this user now."""
        weights, use_vector = self.serving(learned, scenario)
        return Mix(weights + situation.table.extra, use_vector)

    def serving(self, learned: Learned, scenario: str) -> tuple[Float64, bool]:
        """The blend's weights, float64 (S,), and whether the user vector takes part: as the guard allows, or, on a
        device of the control group, those of a user who taught nothing."""
        return (self.learner.starts[scenario], False) if self.control else self.learner.serving(learned, scenario)

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
        """Events with their catalogue rows; -1 for an item, or a kind of event, that the bundle does not know."""
        items, kinds = self.bundle.catalogue.rows([row.item for row in rows]), self.bundle.manifest.event_kinds
        return [
            GroupEvent(row, item if row.kind in kinds else -1, self._passed(row))
            for row, item in zip(rows, items.tolist(), strict=True)
        ]

    def happenings(self, rows: Sequence[EventRow]) -> list[Happening]:
        """What the history keeps of stored events, in order of arrival."""
        sound = [row for row in rows if not row.set_aside]
        return [event.happening() for event in self.group_events(sound) if event.item >= 0]

    def _passed(self, row: EventRow) -> tuple[int, ...]:
        if row.passed is None:
            return ()
        rows = self.bundle.catalogue.rows(json.loads(row.passed))
        return tuple(rows[rows >= 0].tolist())

    def set_aside(self, arrival: Arrival, earlier: Sequence[Arrival]) -> str | None:
        """Why an event filter sets the event aside, None where all let it pass; one that fails lets it pass."""
        for each in self.filters:
            label = f"filter {each.name}"
            try:
                reason = each.review(arrival, earlier) if self.watch.usable(label) else None
            except FAILURES as error:  # a filter must never stop recording
                self.watch.failed(label, error)
                continue
            if reason is not None:
                return f"{each.name}: {reason}"
        return None

    def replay(self, rows: Iterable[EventRow], *, obey: bool) -> Replay:
        """Goes through stored events from zero (`learning.replay.replay`)."""
        return replay(self.learner, self.group_events(list(rows)), self.empty_history(), self.situation, obey=obey)
