"""Every source's standardised scores for one profile: the table that serving and learning both read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

import numpy as np

from edgerec.interfaces import FAILURES, CandidateSource, Settings
from edgerec.serving.blend import cold_start_boost
from edgerec.serving.sources import Taste
from edgerec.types import Float32, Model, Profile, Request, ScoreTable, SourceScores

log = logging.getLogger("edgerec")


class Scorer:
    """Runs the sources over a profile. A source that fails scores zero everywhere and is named in the table."""

    def __init__(self, model: Model, sources: Sequence[CandidateSource], popular: Settings) -> None:
        """`popular`: the popularity prior's constants (`serving.blend.cold_start_boost`)."""
        self.model = model
        self.sources = tuple(sources)
        self.popular = popular
        self.names = tuple(source.name for source in sources)
        self._taste, self._popular = self.names.index("taste"), self.names.index("popular")

    def table(self, profile: Profile, request: Request) -> ScoreTable:
        """The sources' scores under u = 0, and taste's under the user's own u."""
        personal = bool(profile.user_vector.any())
        base = replace(profile, user_vector=np.zeros_like(profile.user_vector)) if personal else profile
        z = np.zeros((len(self.sources), self.model.n_items), np.float32)
        own, failed = z[self._taste], []
        for place, source in enumerate(self.sources):
            rows = self._standardised(source, request, base, profile)
            if rows is None:
                failed.append(source.name)
                continue
            z[place] = rows[0]
            if len(rows) == 2:
                own = rows[1]
        extra = np.zeros(len(self.names))
        extra[self._popular] = cold_start_boost(self.popular, profile.n_events)
        return ScoreTable(self.names, z, own, extra, tuple(failed))

    def _standardised(
        self, source: CandidateSource, request: Request, base: Profile, profile: Profile
    ) -> list[Float32] | None:
        """The source's scores under u = 0; taste's also under the user's own u, where there is one."""
        try:
            if isinstance(source, Taste) and base is not profile:
                scores: tuple[SourceScores, ...] = source.score_both(profile, self.model)
            else:
                scores = (source.score(request, base, self.model),)
            return [_checked(one, self.model.n_items) for one in scores]
        except FAILURES as error:  # a source must never stop serving
            log.warning("candidate source %s failed: %s", source.name, type(error).__name__)
            return None


def _checked(scores: SourceScores, n_items: int) -> Float32:
    z: Float32 = scores.standardised(n_items)
    if z.shape != (n_items,):
        raise ValueError(f"scores for {z.shape} instead of ({n_items},)")
    if not isfinite(z.dot(z)):
        raise ValueError("scores are not finite")
    return z
