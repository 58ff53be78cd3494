"""Every source's standardised scores for one profile: the table that serving and learning both read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

import numpy as np

from edgerec import log
from edgerec.interfaces import FAILURES, CandidateSource, Settings, Watch
from edgerec.records import changed
from edgerec.score_table import ScoreTable
from edgerec.serving.blend import cold_start_boost
from edgerec.serving.repeat import Repeat
from edgerec.serving.sources import Habit, Neighbours, Popular, Taste
from edgerec.types import MIN_STD, Float32, Float64, Model, Profile, Request, SourceScores

CORE = (Taste, Neighbours, Popular, Habit, Repeat)
"""Sources whose scores are finite where their statistics are, and which know u from u = 0 by the query alone."""

ColdStart = Callable[[Request, Model], Float32 | None]

_FAR = 64.0
"""Squared distance of a source's mean from zero, in standard deviations, from which on it is taken off."""


class Scorer:
    """Runs the sources over a profile. A source that fails scores zero everywhere and is named in the table."""

    def __init__(
        self,
        model: Model,
        sources: Sequence[CandidateSource],
        popular: Settings,
        *,
        watch: Watch,
        cold_start: ColdStart | None = None,
    ) -> None:
        """`popular`: the popularity prior's constants (`serving.blend.cold_start_boost`) · `watch`: is told of what
        sources do wrong · `cold_start`: what stands in for popularity while the user has done nothing."""
        self.model = model
        self.sources = tuple(sources)
        self.popular = popular
        self._watch = watch
        self._cold_start = cold_start
        self.names = tuple(source.name for source in sources)
        self._taste, self._popular = self.names.index("taste"), self.names.index("popular")
        self._foreign = any(not isinstance(source, CORE) for source in sources)

    def table(self, profile: Profile, request: Request) -> ScoreTable:
        """The sources' scores under u = 0; taste's under the user's own u wait until somebody asks for them."""
        n, u = len(self.sources), profile.user_vector
        personal = bool(u.dot(u))
        base = changed(profile, user_vector=np.zeros_like(u)) if personal and self._foreign else profile
        lines = Lines(n + personal, self.model.n_items)
        failed = [
            source.name
            for place, source in enumerate(self.sources)
            if not self._put(lines, place, source, request, base, profile.query)
        ]
        if self._cold_start is not None and not profile.n_events:
            scores = self._cold_start(request, self.model)
            if scores is not None:
                lines.put(self._popular, SourceScores.dense(scores))
        pending: list[Callable[[], object]] = []
        if personal and "taste" not in failed:
            taste = self.sources[self._taste]
            pending = [lambda: self._put(lines, n, taste, request, profile, profile.query + u)]
        elif personal:
            lines.silence(n)
        extra = np.zeros(n)
        extra[self._popular] = cold_start_boost(self.popular, profile.n_events)
        return lines.table(self.names, self._taste, extra, tuple(failed), pending)

    def _put(
        self, lines: Lines, place: int, source: CandidateSource, request: Request, profile: Profile, query: Float32
    ) -> bool:
        """Fills one row; False, and zeros, where the source fails. `query`: taste's."""
        label = f"source {source.name}"
        try:
            if not self._watch.usable(label):
                lines.silence(place)
                return False
            if isinstance(source, Taste):
                line = lines.scores[place]
                # two threads may fill the last row at once while a third reads it: only what it will hold goes there
                out = line if place < len(self.sources) else np.empty_like(line)
                with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
                    lines.put(place, source.score_query(self.model, query, out))
            else:
                scores = source.score(request, profile, self.model)
                if not isinstance(source, CORE) and not np.isfinite(scores.values).all():
                    raise ValueError("scores are not finite")
                lines.put(place, scores)
        except FAILURES as error:  # a source must never stop serving
            if isinstance(source, CORE):
                # it fails for this history alone: were it given up, what is learned would not follow from the events
                log.warning("the source %s failed: %s", source.name, error)
            else:
                self._watch.failed(label, error)
            lines.silence(place)
            return False
        return True


class Lines:
    """The rows of a ScoreTable while they are filled in."""

    def __init__(self, count: int, n_items: int) -> None:
        self.scores: Float32 = np.empty((count, n_items), np.float32)
        self.mean, self.scale = np.zeros(count), np.zeros(count)

    def put(self, place: int, scores: SourceScores) -> None:
        """Takes a source's scores. Raises ValueError where they are not finite or not one per item."""
        values, rows, mean, std = scores.values, scores.rows, scores.mean, scores.std
        if not isfinite(mean + std):
            raise ValueError("scores are not finite")
        line = self.scores[place]
        if rows is None and values.shape != line.shape:
            raise ValueError(f"scores for {values.shape} instead of {line.shape}")
        if std <= MIN_STD:
            self.silence(place)
            return
        if rows is not None:
            line[:] = 0
            line[rows] = values
        elif mean * mean > _FAR * std * std:
            # far from zero, float32 would have no digits left for the differences once it is summed with others
            np.subtract(values, np.float32(mean), out=line)
            mean = 0.0
        elif values.base is not self.scores:
            line[:] = values
        self.mean[place], self.scale[place] = mean, 1.0 / std

    def silence(self, place: int) -> None:
        """Nothing is said: every item scores 0."""
        self.scores[place] = 0
        self.mean[place] = self.scale[place] = 0.0

    def table(
        self,
        names: tuple[str, ...],
        taste: int,
        extra: Float64,
        failed: tuple[str, ...] = (),
        pending: list[Callable[[], object]] | None = None,
    ) -> ScoreTable:
        """What was put; `pending` fills in the last row."""
        return ScoreTable(names, self.scores, self.mean, self.scale, taste, extra, failed, pending or [])
