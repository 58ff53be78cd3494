"""Implementations of the interfaces that stand before a plugin's own: every call goes through a runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgerec.deltas import Delta, DeltaError, filtered
from edgerec.errors import PluginError
from edgerec.interfaces import (
    Aggregator,
    Arrival,
    CandidateSource,
    ChancePolicy,
    DeltaFilter,
    EventFilter,
    KeepingTransport,
    Reranker,
    SecureChance,
    Transport,
    Updater,
)
from edgerec.isolation import said
from edgerec.types import (
    Float32,
    Float64,
    Int64,
    LearningBatch,
    Model,
    Profile,
    Request,
    Reranking,
    Slate,
    SourceScores,
    State,
)

Runner = Callable[..., Any]


class ShieldedSource:
    """A `CandidateSource` of somebody else's."""

    def __init__(self, inner: CandidateSource, name: str, run: Runner) -> None:
        self.name, self._inner, self._run = name, inner, run

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        scores = self._run(self._inner.score, request, profile, model)
        if not isinstance(scores, SourceScores):
            raise TypeError(f"score must return SourceScores, not {type(scores).__name__}")
        if scores.rows is not None:
            _check_rows(scores.rows, scores.values, model.n_items)
        return scores


class ShieldedReranker:
    """A `Reranker` of somebody else's."""

    def __init__(self, inner: Reranker, name: str, run: Runner) -> None:
        self.name, self._inner, self._run = name, inner, run

    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        reranking: Reranking = self._run(self._inner.rerank, slate, request, profile, model)
        return reranking


class ShieldedChance(ShieldedReranker):
    """A `Reranker` of somebody else's that is a `ChancePolicy` too."""

    _inner: Any

    def probabilities(self, slate: Slate, left: Int64, request: Request, profile: Profile, model: Model) -> Float64:
        chances: Float64 = self._run(self._inner.probabilities, slate, left, request, profile, model)
        return chances


def shielded_reranker(inner: Reranker, name: str, run: Runner) -> ShieldedReranker:
    """A shield that offers what the reranker does."""
    return (ShieldedChance if isinstance(inner, ChancePolicy) else ShieldedReranker)(inner, name, run)


class ShieldedFilter:
    """An `EventFilter` of somebody else's."""

    def __init__(self, inner: EventFilter, name: str, run: Runner) -> None:
        self.name, self._inner, self._run = name, inner, run

    def review(self, arrival: Arrival, earlier: Sequence[Arrival]) -> str | None:
        return said(self._run(self._inner.review, arrival, earlier), "review")


class ShieldedDeltaFilter:
    """A `DeltaFilter` of somebody else's. What it gives is checked and copied."""

    def __init__(self, inner: DeltaFilter, name: str, run: Runner) -> None:
        self.name, self._inner, self._run = name, inner, run

    def filter(self, delta: Delta, chance: SecureChance) -> Delta:
        return filtered(delta, self._run(self._inner.filter, delta, chance))


class ShieldedTransport:
    """A `Transport` of somebody else's."""

    def __init__(self, inner: Transport, name: str, run: Runner) -> None:
        self.name, self._inner, self._run = name, inner, run

    def send(self, payload: bytes, *, delta_id: str) -> None:
        def send() -> None:
            self._inner.send(payload, delta_id=delta_id)

        self._run(send)


class ShieldedKeeping(ShieldedTransport):
    """A `Transport` of somebody else's that is a `KeepingTransport` too."""

    _inner: Any

    def keep_in(self, folder: Path) -> None:
        self._run(self._inner.keep_in, folder)


def shielded_transport(inner: Transport, name: str, run: Runner) -> ShieldedTransport:
    """A shield that offers what the transport does."""
    return (ShieldedKeeping if isinstance(inner, KeepingTransport) else ShieldedTransport)(inner, name, run)


class ShieldedAggregator:
    """An `Aggregator` of somebody else's."""

    def __init__(self, inner: Aggregator, name: str, run: Runner) -> None:
        self.name, self._inner, self._run = name, inner, run
        least = getattr(inner, "least", None)
        if not isinstance(least, int):
            raise PluginError(f"aggregator {name} lacks `least: int`")
        self.least = least

    def aggregate(self, deltas: Float32) -> Float64:
        joined = np.array(self._run(self._inner.aggregate, deltas), np.float64)
        if joined.shape != deltas.shape[1:] or not np.isfinite(joined).all():
            raise DeltaError(f"{self.name} gives {joined.shape} of deltas {deltas.shape}, or is not finite")
        return joined


class ShieldedUpdater:
    """An `Updater` of somebody else's. States are copied, so that it cannot change one that it gave away."""

    def __init__(self, inner: Updater, name: str, run: Runner) -> None:
        self.name, self._inner, self._run = name, inner, run
        schema, item_space = getattr(inner, "schema", None), getattr(inner, "item_space", None)
        if not isinstance(schema, int) or not isinstance(item_space, bool):
            raise PluginError(f"updater {name} lacks `schema: int` or `item_space: bool`")
        self.schema, self.item_space = schema, item_space

    def initial(self, model: Model) -> State:
        return _copied(self._run(self._inner.initial, model))

    def update(self, state: State, batch: LearningBatch) -> State:
        return _copied(self._run(self._inner.update, _views(state), batch))

    def user_vector(self, state: State) -> Float32 | None:
        vector = self._run(self._inner.user_vector, _views(state))
        return None if vector is None else np.array(vector)

    def migrate(self, state: State, old_schema: int) -> State:
        return _copied(self._run(self._inner.migrate, _views(state), old_schema))


def _check_rows(rows: Any, values: Any, n_items: int) -> None:
    """Raises ValueError where scores are not of items, each once."""
    rows = np.asarray(rows)
    if rows.dtype.kind not in "iu" or rows.ndim != 1 or np.shape(values) != rows.shape:
        raise ValueError(f"rows {rows.dtype} {rows.shape} for values {np.shape(values)}")
    if len(rows) and (rows.min() < 0 or rows.max() >= n_items or len(np.unique(rows)) != len(rows)):
        raise ValueError("rows must be rows of the catalogue, each once")


def _views(state: State) -> State:
    """The state, its arrays as views: the key to their lock stays on this side."""
    return {name: array.view() for name, array in state.items()}


def _copied(state: State) -> State:
    return {name: np.array(array) for name, array in dict(state).items()}


SHIELDS: dict[str, Callable[..., Any]] = {
    "updater": ShieldedUpdater,
    "source": ShieldedSource,
    "filter": ShieldedFilter,
    "reranker": shielded_reranker,
    "delta_filter": ShieldedDeltaFilter,
    "transport": shielded_transport,
    "aggregator": ShieldedAggregator,
}
"""What stands before a plugin's own, by kind."""
