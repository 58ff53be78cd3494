"""Candidate sources, rerankers and event filters that do one thing wrong each, and one of each that is sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgerec.interfaces import Arrival
from edgerec.types import Float32, Model, Profile, Request, Reranking, Slate, SourceScores


class Source:
    """What is like the last item."""

    name = "sound"

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        return SourceScores.dense(self.values(profile, model))

    def values(self, profile: Profile, model: Model) -> Float32:
        if not profile.n_events:
            return model.popularity
        return model.vectors @ model.vectors[profile.rows[-1]]


class SparseSource(Source):
    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        rows, counts = np.unique(profile.rows, return_counts=True)
        return SourceScores.sparse(rows, counts.astype(np.float32), model.n_items)


class ShortSource(Source):
    def values(self, profile: Profile, model: Model) -> Float32:
        return super().values(profile, model)[1:]


class TwiceSource(SparseSource):
    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        return SourceScores(profile.rows * 0 + np.float32(1), profile.rows, 0.0, 1.0)


class DoubleSource(Source):
    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        values: Any = self.values(profile, model).astype(np.float64)
        return SourceScores.dense(values)


class NanSource(Source):
    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        values = self.values(profile, model).copy()
        values[3] = np.inf
        return SourceScores(values, None, 0.0, 1.0)


class LyingSource(Source):
    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        return SourceScores(self.values(profile, model), None, 0.0, 1.0)


class ExperiencedSource(Source):
    """Has nothing to say of a new user, in the wrong way."""

    def values(self, profile: Profile, model: Model) -> Float32:
        return model.vectors @ model.vectors[profile.rows[-1]]


class MorningSource(Source):
    """Knows the hour."""

    def values(self, profile: Profile, model: Model) -> Float32:
        hour = profile.at[-1:] // 3600 % 24
        return super().values(profile, model) * np.float32(hour[0] if len(hour) else 1)


class LearningSource(Source):
    """Remembers how many it has answered."""

    def __init__(self) -> None:
        self.asked = 0

    def values(self, profile: Profile, model: Model) -> Float32:
        self.asked += 1
        return super().values(profile, model) * np.float32(self.asked > 3)


class Reranker:
    """Draws the first place from three, evenly."""

    name = "sound"

    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        few = min(3, len(slate.rows))
        if few < 2:
            return Reranking(slate.rows)
        place = int(np.random.default_rng(slate.seed).integers(few))
        rows = np.concatenate((slate.rows[[place]], np.delete(slate.rows, place)))
        return Reranking(rows, np.r_[1 / few, np.ones(len(rows) - 1)])


class Strangers(Reranker):
    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        rows = slate.rows + np.int32(0 if len(slate.rows) < 2 else model.n_items)
        return Reranking(rows)


class Repeats(Reranker):
    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        return Reranking(slate.rows if len(slate.rows) < 2 else slate.rows[:1].repeat(len(slate.rows)))


class Few(Reranker):
    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        return Reranking(slate.rows if len(slate.rows) < 5 else slate.rows[:3])


class Crowd(Reranker):
    """Cannot do with nothing."""

    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        best = slate.scores.argmax()
        return Reranking(np.concatenate((slate.rows[[best]], np.delete(slate.rows, best))))


class ForRegulars(Reranker):
    """Puts the last item first, if it is there."""

    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        if len(slate.rows) < 2:
            return Reranking(slate.rows)
        return Reranking(slate.rows[np.argsort(slate.rows != profile.rows[-1], kind="stable")])


class Percent(Reranker):
    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        return Reranking(slate.rows, np.full(len(slate.rows), 100.0))


class Silent(Reranker):
    """Leaves to chance what it calls certain."""

    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        return Reranking(super().rerank(slate, request, profile, model).rows)


class Boasts(Reranker):
    def rerank(self, slate: Slate, request: Request, profile: Profile, model: Model) -> Reranking:
        found = super().rerank(slate, request, profile, model)
        return Reranking(found.rows, None if found.propensity is None else np.sqrt(found.propensity))


class Filter:
    """Sets aside what comes at once after the same item."""

    name = "sound"

    def review(self, arrival: Arrival, earlier: Sequence[Arrival]) -> str | None:
        return "again" if earlier and earlier[-1].item == arrival.item else None


class Judge(Filter):
    def review(self, arrival: Arrival, earlier: Sequence[Arrival]) -> Any:
        return arrival.kind != "dislike"


class Experienced(Filter):
    def review(self, arrival: Arrival, earlier: Sequence[Arrival]) -> str | None:
        return "again" if earlier[-1].item == arrival.item else None


class Tired(Filter):
    """Says no to whoever asks too often."""

    def __init__(self) -> None:
        self.asked = 0

    def review(self, arrival: Arrival, earlier: Sequence[Arrival]) -> str | None:
        self.asked += 1
        return "too many" if self.asked > 40 else None
