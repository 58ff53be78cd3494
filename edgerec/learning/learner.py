"""Test, then learn: one step over a group of events. Pure: the same arguments give the same result."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgerec.bundle import Bundle
from edgerec.history import Happening, History
from edgerec.interfaces import FAILURES, Updater
from edgerec.learning import guard, progressive, weights
from edgerec.learning.draws import draw
from edgerec.learning.state import Learned, Progress, initial_progress
from edgerec.store import EventRow
from edgerec.types import (
    Bools,
    Float32,
    Float64,
    Int32,
    Int64,
    LearningBatch,
    Replayed,
    ScoreTable,
    State,
)

log = logging.getLogger("edgerec")

LEARNED = "learned"
_REPLAY_WINDOW = 50


@dataclass(frozen=True, slots=True)
class Situation:
    """What was known just before a group of events: the past, the encoder's query, every source's scores."""

    history: History
    query: Float32
    table: ScoreTable


@dataclass(frozen=True, slots=True)
class GroupEvent:
    """An event on its way to be learned, with its catalogue row (-1 unknown)."""

    row: EventRow
    item: int

    def happening(self) -> Happening:
        """What the history keeps of it."""
        return self.item, self.row.kind, self.row.effective_seconds, self.row.group


@dataclass(frozen=True, slots=True)
class Step:
    """`ranks`: per event of the group, its place in the served ranking, None where it was not ranked · `ndcg`:
    the group's NDCG@10 in the served ranking, per scenario that was tested.
    """

    learned: Learned
    verdict: str
    ranks: tuple[int | None, ...]
    ndcg: Mapping[str, float]


class Learner:
    """The learning loop of one recommender: progressive validation, blend, updater, guard.

    `starts`: per scenario, the blend's starting weights, float64 (S,). `updater` None: no user vector.
    """

    def __init__(
        self,
        bundle: Bundle,
        updater: Updater | None,
        starts: Mapping[str, Float64],
        *,
        learn_blend: bool = True,
        guarded: bool = True,
    ) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self._kind_weights = np.array([kind.weight for kind in self.manifest.event_kinds.values()], np.float32)
        self.updater = updater
        self.starts = starts
        self.learn_blend = learn_blend
        self.guarded = guarded

    def initial(self) -> Learned:
        """What is known of a user who has done nothing."""
        state: State = self.updater.initial(self.bundle.model) if self.updater else {}
        return Learned({name: initial_progress(start) for name, start in self.starts.items()}, state)

    def user_vector(self, learned: Learned) -> Float32:
        """`u`, float32 (dim,); zeros where the updater has none."""
        vector = self.updater.user_vector(learned.updater) if self.updater else None
        return np.zeros(self.manifest.dim, np.float32) if vector is None else vector

    def serving(self, learned: Learned, scenario: str) -> tuple[Float64, bool]:
        """The blend's weights, float64 (S,), and whether the user vector takes part, as the guard allows."""
        progress = learned.scenarios[scenario]
        ranking = self._served_ranking(progress)
        return (self.starts[scenario] if ranking == 0 else progress.weights), ranking == 2

    def _served_ranking(self, progress: Progress) -> int:
        """Index into RANKINGS: the most personal ranking that the guard trusts."""
        if not self.guarded:
            return 2
        blend_ok, vector_ok = guard.trusted(progress.guard, self.manifest.guard)
        return (2 if vector_ok else 1) if blend_ok else 0

    def step(
        self, learned: Learned, situation: Situation, group: Sequence[GroupEvent], *, decided: str | None = None
    ) -> Step:
        """Tests the whole group against what was known before it, then learns from it.

        `decided`: the verdict of an earlier run, which a replay obeys.
        """
        scenarios = dict(learned.scenarios)
        served: dict[int, int] = {}
        ndcg: dict[str, float] = {}
        for name, (targets, ranks) in self._ranked(learned, situation, group).items():
            progress = learned.scenarios[name]
            scenarios[name], gains = self._tested(progress, situation.table, [group[n] for n in targets], ranks, name)
            ranking = self._served_ranking(progress)
            served = {**dict(zip(targets, ranks[:, ranking].tolist(), strict=True)), **served}
            ndcg[name] = float(gains[ranking])
        state, verdict = self._updated(learned.updater, situation, group, decided)
        places = tuple(served.get(n) for n in range(len(group)))
        return Step(Learned(scenarios, state, learned.steps + 1), verdict, places, ndcg)

    def _ranked(
        self, learned: Learned, situation: Situation, group: Sequence[GroupEvent]
    ) -> dict[str, tuple[list[int], Int64]]:
        """Per scenario that is tested: places of its targets in the group, and their ranks, int64 (T, 3 + S)."""
        blocked = {name: self._blocked(situation.history, name) for name in learned.scenarios}
        targets = {name: found for name in blocked if (found := self._targets(group, blocked[name], name))}
        if not targets:
            return {}
        names = list(targets)
        scores = self._rankings(situation.table, learned, names)
        hidden = [blocked[name].nonzero()[0] for name in names]
        ranks: dict[str, list[Int64]] = {name: [] for name in names}
        for n in sorted({n for chosen in targets.values() for n in chosen}):
            ahead = progressive.ahead(scores, group[n].item)
            for k, (name, places) in enumerate(zip(names, progressive.places(ahead, hidden), strict=True)):
                if n in targets[name]:
                    ranks[name].append(np.concatenate((places[3 * k : 3 * k + 3], places[3 * len(names) :])))
        return {name: (targets[name], np.array(ranks[name])) for name in names}

    def _blocked(self, history: History, scenario: str) -> Bools:
        """Items that the scenario may not serve, bool (n_items,)."""
        hides = self.manifest.scenarios[scenario].seen == "hide"
        return history.seen | history.disliked if hides else history.disliked

    def _targets(self, group: Sequence[GroupEvent], blocked: Bools, scenario: str) -> list[int]:
        """Places of the positive events that this scenario could have led to."""
        return [
            n
            for n, event in enumerate(group)
            if event.item >= 0
            and self.manifest.event_kinds[event.row.kind].weight > 0
            and event.row.scenario in (None, scenario)
            and not blocked[event.item]
        ]

    def _rankings(self, table: ScoreTable, learned: Learned, names: Sequence[str]) -> Float32:
        """float32 (3 K + S, n_items): base, learned blend and that with the user vector of each of K scenarios;
        then each source alone.
        """
        of = [(self.starts[name], learned.scenarios[name].weights) for name in names]
        blends = np.array([weights for base, blend in of for weights in (base, blend, blend)]) + table.extra
        blends = blends.astype(np.float32)
        scores = np.empty((len(blends) + len(table.z), table.z.shape[1]), np.float32)
        np.matmul(blends, table.z, out=scores[: len(blends)])
        if not table.impersonal:
            moved = table.personal - table.z[table.taste]
            for k in range(2, len(blends), 3):
                scores[k] += blends[k, table.taste] * moved
        scores[len(blends) :] = table.z
        return scores

    def _tested(
        self, progress: Progress, table: ScoreTable, targets: Sequence[GroupEvent], ranks: Int64, name: str
    ) -> tuple[Progress, Float64]:
        """The scenario's progress after the targets, and their NDCG@10 in each ranking, float64 (3 + S,)."""
        sums = progressive.metric_sums(ranks)
        ndcg = progressive.ndcg_of(sums)
        differences = np.array([ndcg[1] - ndcg[0], ndcg[2] - ndcg[1]])
        return (
            Progress(
                self._learned_weights(progress.weights, table, targets, name),
                guard.watched(progress.guard, differences, self.manifest.guard),
                progress.sums + sums,
            ),
            ndcg,
        )

    def _learned_weights(
        self, current: Float64, table: ScoreTable, targets: Sequence[GroupEvent], name: str
    ) -> Float64:
        if not self.learn_blend:
            return current
        settings = self.manifest.blend
        rows = np.array([event.item for event in targets])
        negatives = np.array([self._negatives(event.row.event_id) for event in targets])
        gradient = weights.softmax_gradient(
            current + table.extra,
            table.z.take(rows, axis=1),
            table.z.take(negatives, axis=1),
            float(settings.get("clip", 3.0)),
        )
        return weights.exponentiated_step(current, self.starts[name], gradient, settings)

    def _negatives(self, event_id: str) -> Int32:
        pool = self.bundle.negatives
        return pool[draw(event_id, self.manifest.n_negatives, len(pool))]

    def _updated(
        self, old: State, situation: Situation, group: Sequence[GroupEvent], decided: str | None
    ) -> tuple[State, str]:
        updater = self.updater
        if updater is None or (decided is not None and decided != LEARNED):
            return old, decided or LEARNED
        try:
            new = updater.update(old, self._batch(situation, group))
            vectors = self.user_vector(Learned({}, old)), updater.user_vector(new)
            reason = guard.refusal(old, new, vectors, self.manifest.guard)
        except FAILURES as error:  # an updater must never stop recording
            log.warning("updater %s failed: %s", updater.name, type(error).__name__)
            reason = f"updater failed: {type(error).__name__}"
        return (new, LEARNED) if reason is None else (old, f"refused: {reason}")

    def _batch(self, situation: Situation, group: Sequence[GroupEvent]) -> LearningBatch:
        kinds = self.manifest.event_kinds
        events = tuple(event.row.event() for event in group)
        return LearningBatch(
            events=events,
            rows=np.array([event.item for event in group], np.int32),
            weight=np.array([kinds[event.row.kind].weight for event in group], np.float32),
            value=np.array([np.nan if e.row.value is None else e.row.value for e in group], np.float32),
            query=_repeated(situation.query, len(group)),
            replayed=self._replayed(situation, group[0].row.event_id),
            negatives=np.array([self._negatives(event.row.event_id) for event in group]),
            now=max(event.row.seconds for event in group),
            model=self.bundle.model,
        )

    def _replayed(self, situation: Situation, event_id: str) -> Replayed:
        """A few of the last positive events, drawn from the event's id; their query is today's."""
        rows, kinds = situation.history.rows[-_REPLAY_WINDOW:], situation.history.kinds[-_REPLAY_WINDOW:]
        weight = self._kind_weights.take(kinds)
        if (positive := weight > 0).sum() < len(rows):
            rows, weight = rows[positive], weight[positive]
        if not len(rows) or not self.manifest.n_replayed:
            none = np.empty(0, np.float32)
            return Replayed(np.empty(0, np.int32), none, none.reshape(0, self.manifest.dim))
        chosen = draw("replay:" + event_id, self.manifest.n_replayed, len(rows))
        return Replayed(rows.take(chosen), weight.take(chosen), _repeated(situation.query, len(chosen)))


def _repeated(query: Float32, count: int) -> Float32:
    """The query once per event, float32 (count, dim), read-only."""
    queries = query[None, :].repeat(count, axis=0)
    queries.flags.writeable = False
    return queries
