"""Test, then learn: one step over a group of events. Pure: the same arguments give the same result."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgerec.bundle import Bundle
from edgerec.history import Happening, History
from edgerec.interfaces import Updater
from edgerec.learning import guard, progressive, weights
from edgerec.learning.draws import draw
from edgerec.learning.state import Learned, Progress, initial_progress
from edgerec.store import EventRow
from edgerec.types import (
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
    """An event on its way to be learned: its catalogue row (-1 unknown) and the scenario that led to it."""

    row: EventRow
    item: int
    scenario: str | None = None

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
        ranks: dict[int, int] = {}
        ndcg: dict[str, float] = {}
        for name in scenarios:
            targets = self._targets(group, situation.history, name)
            if targets:
                scenarios[name], served = self._tested(learned, situation, group, targets, name)
                ranks = {**dict(zip(targets, served.tolist(), strict=True)), **ranks}
                ndcg[name] = float(progressive.group_ndcg(served[:, None])[0])
        state, verdict = self._updated(learned.updater, situation, group, decided)
        places = tuple(ranks.get(n) for n in range(len(group)))
        return Step(Learned(scenarios, state, learned.steps + 1), verdict, places, ndcg)

    def _targets(self, group: Sequence[GroupEvent], history: History, scenario: str) -> list[int]:
        """Places of the positive events that this scenario could have led to."""
        hides = self.manifest.scenarios[scenario].seen == "hide"
        blocked = (history.seen | history.disliked) if hides else history.disliked
        return [
            n
            for n, event in enumerate(group)
            if event.item >= 0
            and self.manifest.event_kinds[event.row.kind].weight > 0
            and (event.scenario in (None, scenario))
            and not blocked[event.item]
        ]

    def _tested(
        self, learned: Learned, situation: Situation, group: Sequence[GroupEvent], targets: list[int], name: str
    ) -> tuple[Progress, Int64]:
        """The scenario's progress after the group, and each target's rank in the served ranking, int64 (T,)."""
        table, progress = situation.table, learned.scenarios[name]
        scores = self._rankings(table, progress.weights, name)
        blocked = situation.history.disliked
        if self.manifest.scenarios[name].seen == "hide":
            blocked = blocked | situation.history.seen
        scores = progressive.masked(scores, blocked)
        ranks = np.stack([progressive.ranks(scores, group[n].item) for n in targets])
        ndcg = progressive.group_ndcg(ranks)
        differences = np.array([ndcg[1] - ndcg[0], ndcg[2] - ndcg[1]])
        served = ranks[:, self._served_ranking(progress)]
        return (
            Progress(
                self._learned_weights(progress.weights, table, group, targets, name),
                guard.watched(progress.guard, differences, self.manifest.guard),
                progress.sums + progressive.metric_sums(ranks),
            ),
            served,
        )

    def _rankings(self, table: ScoreTable, learned_weights: Float64, name: str) -> Float32:
        """float32 (3 + S, n_items): base, learned blend, that with the user vector, and each source alone."""
        pair = np.stack((self.starts[name] + table.extra, learned_weights + table.extra)).astype(np.float32)
        scores = np.empty((3 + len(table.z), table.z.shape[1]), np.float32)
        np.matmul(pair, table.z, out=scores[:2])
        np.multiply(table.personal - table.z[table.taste], pair[1, table.taste], out=scores[2])
        scores[2] += scores[1]
        scores[3:] = table.z
        return scores

    def _learned_weights(
        self, current: Float64, table: ScoreTable, group: Sequence[GroupEvent], targets: list[int], name: str
    ) -> Float64:
        if not self.learn_blend:
            return current
        settings = self.manifest.blend
        rows = np.array([group[n].item for n in targets])
        negatives = np.stack([self._negatives(group[n].row.event_id) for n in targets])
        gradient = weights.softmax_gradient(
            current + table.extra, table.z[:, rows], table.z[:, negatives], float(settings.get("clip", 3.0))
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
        except Exception as error:  # an updater must never stop recording
            log.warning("updater %s failed: %s", updater.name, type(error).__name__)
            reason = f"updater failed: {type(error).__name__}"
        return (new, LEARNED) if reason is None else (old, f"refused: {reason}")

    def _batch(self, situation: Situation, group: Sequence[GroupEvent]) -> LearningBatch:
        kinds = self.manifest.event_kinds
        events = tuple(event.row.event() for event in group)
        size = len(group)
        return LearningBatch(
            events=events,
            rows=np.array([event.item for event in group], np.int32),
            weight=np.array([kinds[event.row.kind].weight for event in group], np.float32),
            value=np.array([np.nan if e.row.value is None else e.row.value for e in group], np.float32),
            query=np.broadcast_to(situation.query, (size, len(situation.query))),
            replayed=self._replayed(situation, group[0].row.event_id),
            negatives=np.stack([self._negatives(event.row.event_id) for event in group]),
            now=max(event.row.seconds for event in group),
            model=self.bundle.model,
        )

    def _replayed(self, situation: Situation, event_id: str) -> Replayed:
        """A few of the last positive events, drawn from the event's id; their query is today's."""
        rows, kinds = situation.history.rows[-_REPLAY_WINDOW:], situation.history.kinds[-_REPLAY_WINDOW:]
        weight = np.array([kind.weight for kind in self.manifest.event_kinds.values()], np.float32)[kinds]
        rows, weight = rows[weight > 0], weight[weight > 0]
        if not len(rows) or not self.manifest.n_replayed:
            none = np.empty(0, np.float32)
            return Replayed(np.empty(0, np.int32), none, none.reshape(0, self.manifest.dim))
        chosen = draw("replay:" + event_id, self.manifest.n_replayed, len(rows))
        query = np.broadcast_to(situation.query, (len(chosen), len(situation.query)))
        return Replayed(rows[chosen], weight[chosen], query)
