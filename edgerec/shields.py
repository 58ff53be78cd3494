"""Implementations of the interfaces that stand before a plugin's own: every call goes through a runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgerec.errors import PluginError
from edgerec.interfaces import Arrival, CandidateSource, EventFilter, Reranker, Updater
from edgerec.types import Float32, LearningBatch, Model, Profile, Request, Reranking, Slate, SourceScores, State

Runner = Callable[..., Any]


class ShieldedSource:
    """A `CandidateSource` of somebody else's."""

    def __init__(self, inner: CandidateSource, name: str, run: Runner) -> None:
        self.name, self._inner, self._run = name, inner, run

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        scores = self._run(self._inner.score, request, profile, model)
        if not isinstance(scores, SourceScores):
            raise TypeError(f"score must return SourceScores, not {type(scores).__name__}")
        return scores


class ShieldedReranker:
    """A `Reranker` of somebody else's."""

    def __init__(self, inner: Reranker, name: str, run: Runner) -> None:
        self.name, self._inner, self._run = name, inner, run

    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        reranking: Reranking = self._run(self._inner.rerank, slate, request, profile, model)
        return reranking


class ShieldedFilter:
    """An `EventFilter` of somebody else's."""

    def __init__(self, inner: EventFilter, name: str, run: Runner) -> None:
        self.name, self._inner, self._run = name, inner, run

    def review(self, arrival: Arrival, earlier: Sequence[Arrival]) -> str | None:
        reason = self._run(self._inner.review, arrival, earlier)
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"review must return text or None, not {type(reason).__name__}")
        return reason


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
        views = {name: array.view() for name, array in state.items()}  # whose lock has no key on this side
        return _copied(self._run(self._inner.update, views, batch))

    def user_vector(self, state: State) -> Float32 | None:
        vector = self._run(self._inner.user_vector, state)
        return None if vector is None else np.array(vector)

    def migrate(self, state: State, old_schema: int) -> State:
        return _copied(self._run(self._inner.migrate, state, old_schema))


def _copied(state: State) -> State:
    return {name: np.array(array) for name, array in dict(state).items()}
