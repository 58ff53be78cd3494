"""Test, then learn: one step over a group of events. Pure: the same arguments give the same result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle import Bundle
from edgerec.history import Happening, History
from edgerec.learning import guard, progressive, weights
from edgerec.learning.draws import indices, streams
from edgerec.learning.state import Learned, Progress, initial_progress
from edgerec.learning.updating import LEARNED, Updaters
from edgerec.records import record
from edgerec.score_table import ScoreTable
from edgerec.store import EventRow
from edgerec.types import (
    Bools,
    Float32,
    Float64,
    Int32,
    Int64,
    LearningBatch,
    Replayed,
)

_REPLAY_WINDOW = 50
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_NO_ROWS = np.empty(0, np.int32)


@record
class Situation:
    """What was known just before a group of events: the past, the encoder's query, every source's scores."""

    history: History
    query: Float32
    table: ScoreTable


@record
class GroupEvent:
    """An event on its way to be learned, with its catalogue row (-1 unknown); `passed`: rows of the items that its page
    showed and the user passed over."""

    row: EventRow
    item: int
    passed: tuple[int, ...] = ()

    def happening(self) -> Happening:
        """What the history keeps of it."""
        return self.item, self.row.kind, self.row.effective_seconds, self.row.group


@record
class Step:
    """`ranks`: per event of the group, its place in the served ranking, None where it was not ranked · `ndcg`:
    the group's NDCG@10 in the served ranking, per scenario that was tested.
    """

    learned: Learned
    verdict: str
    ranks: tuple[int | None, ...]
    ndcg: Mapping[str, float]


@record
class Targets:
    """What a step tests: T events and the K scenarios that any of them could have come from.

    `events`: places in the group (T) · `items`: their catalogue rows (T) · `scenarios`: places among all (K) · `asked`
    bool (T, K): which event is tested in which · `counts`: events per scenario (K) · `hidden`: rows, int64, that each
    scenario may not serve (K).
    """

    events: list[int]
    items: list[int]
    scenarios: list[int]
    asked: Bools
    counts: list[int]
    hidden: list[Int64]

    @property
    def all(self) -> bool:
        """Whether every event is tested in every scenario."""
        return sum(self.counts) == len(self.events) * len(self.scenarios)


@record
class Drawn:
    """`negatives`: catalogue rows, int32 (B, m) · `replayed`: numbers to draw past events with, uint64 (r,)."""

    negatives: Int32
    replayed: NDArray[np.uint64]


class Learner:
    """The learning loop of one recommender: progressive validation, blend, updater, guard.

    `starts`: per scenario, the blend's starting weights, float64 (S,).
    """

    def __init__(
        self,
        bundle: Bundle,
        updaters: Updaters,
        starts: Mapping[str, Float64],
        *,
        learn_blend: bool = True,
        guarded: bool = True,
    ) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self._kind_weights = np.array([kind.weight for kind in self.manifest.event_kinds.values()], np.float32)
        self.updaters = updaters
        self.starts = starts
        self._names = tuple(starts)
        self._starts = np.stack(list(starts.values()))
        self._hides = [self.manifest.scenarios[name].seen == "hide" for name in starts]
        self.learn_blend = learn_blend
        self.guarded = guarded

    def initial(self) -> Learned:
        """What is known of a user who has done nothing."""
        scenarios = {name: initial_progress(start) for name, start in self.starts.items()}
        state, aside = self.updaters.initial()
        return Learned.of(scenarios, state, aside=aside)

    def serving(self, learned: Learned, scenario: str) -> tuple[Float64, bool]:
        """The blend's weights, float64 (S,), and whether the user vector takes part, as the guard allows."""
        place = learned.names.index(scenario)
        blend, vector = self.trusted(learned.progress.guard[place])
        return (learned.progress.weights[place] if blend else self.starts[scenario]), vector

    def trusted(self, sums: Float64) -> tuple[bool, bool]:
        """Whether the (blend, user vector) are served, from a scenario's `guard` sums."""
        return guard.trusted(sums, self.manifest.guard) if self.guarded else (True, True)

    def step(
        self, learned: Learned, situation: Situation, group: Sequence[GroupEvent], *, decided: str | None = None
    ) -> Step:
        """Tests the whole group against what was known before it, then learns from it.

        `decided`: the verdict of an earlier run, which a replay obeys.
        """
        drawn, rivals = self._drawn(group), _NO_ROWS
        progress, places, ndcg = learned.progress, dict[int, int](), dict[str, float]()
        targets = self._targets(situation.history, group)
        if targets.events:
            trust = [self.trusted(progress.guard[scenario]) for scenario in targets.scenarios]
            blends = [int(blend) for blend, _ in trust]
            rankings = self._rankings(situation.table, progress.weights, targets.scenarios, blends)
            ranks = self._ranks(rankings, targets)
            if self.manifest.n_rivals and self.updaters:
                rivals = self._rivals(rankings, targets, group)
            values = progressive.metric_values(ranks)
            if not targets.all:
                values[~targets.asked] = 0
            sums = values.sum(axis=0) if len(values) > 1 else values[0]
            gains = progressive.ndcg_of(sums, targets.counts)
            for k, scenario in enumerate(targets.scenarios):
                served = 2 if trust[k][1] else blends[k]
                ndcg[self._names[scenario]] = float(gains[k, served])
                for event, asked, rank in zip(
                    targets.events, targets.asked[:, k].tolist(), ranks[:, k, served].tolist(), strict=True
                ):
                    if asked:
                        places.setdefault(event, rank)
            differences = np.array([[g[1] - g[0], g[2] - g[own]] for g, own in zip(gains, blends, strict=True)])
            progress = self._learned_from(progress, situation.table, targets, sums, differences, drawn.negatives)
        state, aside, verdict = learned.updater, learned.aside, decided or LEARNED
        if self.updaters:
            batch = self._batch(situation, group, drawn, rivals)
            state, aside, verdict = self.updaters.updated(state, aside, batch, verdict)
        told = tuple([places.get(n) for n in range(len(group))])
        return Step(Learned(learned.names, progress, state, learned.steps + 1, aside), verdict, told, ndcg)

    def _targets(self, history: History, group: Sequence[GroupEvent]) -> Targets:
        """The positive events that each scenario could have led to."""
        hidden = [history.seen | history.disliked if hides else history.disliked for hides in self._hides]
        found: list[tuple[int, list[bool]]] = []
        for n, event in enumerate(group):
            if event.item >= 0 and self.manifest.event_kinds[event.row.kind].weight > 0:
                of = event.row.scenario
                in_each = [
                    of in (None, name) and not mask[event.item] for name, mask in zip(self._names, hidden, strict=True)
                ]
                if any(in_each):
                    found.append((n, in_each))
        scenarios = [k for k in range(len(self._names)) if any(in_each[k] for _, in_each in found)]
        asked = np.array([[in_each[k] for k in scenarios] for _, in_each in found], np.bool_)
        return Targets(
            [n for n, _ in found],
            [group[n].item for n, _ in found],
            scenarios,
            asked,
            asked.sum(axis=0).tolist() if len(found) > 1 else [1] * len(scenarios),
            [hidden[k].nonzero()[0] for k in scenarios],
        )

    def _ranks(self, scores: Float32, targets: Targets) -> Int64:
        """Places of T targets in K scenarios' rankings, int64 (T, K, 3 + S), from the scores of `_rankings`."""
        count = len(targets.scenarios)
        out = np.empty((len(targets.items), count, 3 + len(scores) - 3 * count), np.int64)
        for line, item in zip(out, targets.items, strict=True):
            ahead = progressive.ahead(scores, item)
            places = progressive.counted(ahead) + 1
            for k, hidden in enumerate(targets.hidden):
                seen = places - ahead.take(hidden, axis=1).sum(axis=1) if len(hidden) else places
                line[k, :3] = seen[3 * k : 3 * k + 3]
                line[k, 3:] = seen[3 * count :]
        return out

    def _rankings(
        self, table: ScoreTable, learned: Float64, scenarios: Sequence[int], served: Sequence[int]
    ) -> Float32:
        """float32 (3 K + S, n_items): of each of K scenarios the base, the learned blend, and what is served of these
        two (`served`: 0 or 1 per scenario) with the user vector; then each source alone."""
        table.complete()
        n, blends = len(table.names), 3 * len(scenarios)
        weights = np.empty((len(scenarios), 3, n))
        weights[:, 0] = self._starts[scenarios]
        weights[:, 1] = learned[scenarios]
        weights[:, 2] = weights[range(len(scenarios)), served]
        weights += table.extra
        coefficients = np.zeros((blends + n, len(table.scores)), np.float32)
        np.multiply(weights.reshape(blends, n), table.scale[:n], out=coefficients[:blends, :n], casting="same_kind")
        if not table.impersonal:
            coefficients[2:blends:3, table.taste] = 0
            coefficients[2:blends:3, n] = weights[:, 2, table.taste] * table.scale[n]
        coefficients[blends:].flat[:: len(table.scores) + 1] = 1
        scores: Float32 = coefficients @ table.scores
        return scores

    def _learned_from(
        self, old: Progress, table: ScoreTable, targets: Targets, sums: Float64, differences: Float64, negatives: Int32
    ) -> Progress:
        """The progress after the targets, from their metrics' `sums` (K, 3 + S, 4) and what each watched part brought,
        `differences` (K, 2)."""
        chosen = targets.scenarios
        if len(chosen) == len(self._names):
            return Progress(
                self._learned_weights(old.weights, self._starts, table, targets, negatives),
                guard.watched(old.guard, differences, self.manifest.guard),
                old.sums + sums,
            )
        new = Progress(old.weights.copy(), old.guard.copy(), old.sums.copy())
        new.weights[chosen] = self._learned_weights(
            old.weights[chosen], self._starts[chosen], table, targets, negatives
        )
        new.guard[chosen] = guard.watched(old.guard[chosen], differences, self.manifest.guard)
        new.sums[chosen] += sums
        return new

    def _learned_weights(
        self, current: Float64, starts: Float64, table: ScoreTable, targets: Targets, negatives: Int32
    ) -> Float64:
        """The blends' weights (K, S) after one step."""
        if not self.learn_blend:
            return current
        settings = self.manifest.blend
        candidates = np.empty((len(targets.items), 1 + negatives.shape[1]), np.int64)
        candidates[:, 0] = targets.items
        candidates[:, 1:] = negatives[targets.events]
        z = table.z(candidates).transpose(1, 2, 0)
        gradients = weights.softmax_gradients(current + table.extra, z, float(settings.get("clip", 3.0)))
        if len(gradients) == 1:
            return weights.exponentiated_step(current, starts, gradients[0], settings)
        gradients *= targets.asked[:, :, None]
        mean = gradients.sum(axis=0) / np.array(targets.counts)[:, None]
        return weights.exponentiated_step(current, starts, mean, settings)

    def _drawn(self, group: Sequence[GroupEvent]) -> Drawn:
        """The random numbers of a step; what is replayed is drawn from the first event's id."""
        manifest = self.manifest
        m, r = manifest.n_negatives, manifest.n_replayed
        ids = [event.row.event_id for event in group]
        stream = streams([*ids, f"replay:{ids[0]}"], max(m, r))
        pool = self.bundle.negatives
        negatives = pool.take(indices(stream[:-1, :m], len(pool)))
        for line, event in zip(negatives, group, strict=True):
            if event.passed:
                line[: len(event.passed)] = event.passed[:m]
        return Drawn(negatives, stream[-1, :r])

    def _rivals(self, scores: Float32, targets: Targets, group: Sequence[GroupEvent]) -> Int32:
        """What a ranking of `_rankings` with the user vector put among its first instead of the group's items: that of
        the scenario that shows what the user knows, where one was tested, for it ranks more."""
        place = next((k for k, scenario in enumerate(targets.scenarios) if not self._hides[scenario]), 0)
        first = progressive.leaders(scores[3 * place + 2], self.manifest.n_rivals, targets.hidden[place])
        taken = {event.item for event in group}
        return np.array([row for row in first.tolist() if row not in taken], np.int32)

    def _batch(self, situation: Situation, group: Sequence[GroupEvent], drawn: Drawn, rivals: Int32) -> LearningBatch:
        kinds = self.manifest.event_kinds
        rows, weight = self._replayed(situation.history, drawn.replayed)
        queries = situation.query[None, :].repeat(len(group) + len(rows), axis=0)
        queries.flags.writeable = False
        return LearningBatch(
            events=tuple([event.row.event() for event in group]),
            rows=np.array([event.item for event in group], np.int32),
            weight=np.array([kinds[event.row.kind].weight for event in group], np.float32),
            value=np.array([_bounded(event.row.value) for event in group], np.float32),
            query=queries[: len(group)],
            replayed=Replayed(rows, weight, queries[len(group) :]),
            negatives=drawn.negatives,
            now=max([event.row.seconds for event in group]),
            model=self.bundle.model,
            rivals=rivals,
        )

    def _replayed(self, history: History, stream: NDArray[np.uint64]) -> tuple[Int32, Float32]:
        """Rows and weights of a few of the last positive events."""
        rows = history.rows[-_REPLAY_WINDOW:]
        weight = self._kind_weights.take(history.kinds[-_REPLAY_WINDOW:])
        positive = weight > 0
        if not positive.all():
            rows, weight = rows[positive], weight[positive]
        chosen = indices(stream, len(rows)) if len(rows) else np.empty(0, np.int64)
        return rows.take(chosen), weight.take(chosen)


def _bounded(value: float | None) -> float:
    """An event's value as float32 can hold it; NaN where there is none."""
    return math.nan if value is None else max(-_FLOAT32_MAX, min(value, _FLOAT32_MAX))
