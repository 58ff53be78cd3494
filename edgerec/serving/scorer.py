"""Every source's standardised scores for one profile: the table that serving and learning both read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgerec.interfaces import FAILURES, CandidateSource, Settings
from edgerec.serving.blend import cold_start_boost
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

    def table(self, profile: Profile, request: Request) -> ScoreTable:
        """The sources' scores under u = 0, and taste's under the user's own u."""
        base_profile = replace(profile, user_vector=np.zeros_like(profile.user_vector))
        z = np.empty((len(self.sources), self.model.n_items), np.float32)
        failed = []
        for place, source in enumerate(self.sources):
            row = self._standardised(source, request, base_profile)
            if row is None:
                failed.append(source.name)
            z[place] = 0.0 if row is None else row
        extra = np.zeros(len(self.names))
        extra[self.names.index("popular")] = cold_start_boost(self.popular, profile.n_events)
        return ScoreTable(self.names, z, self._personal(profile, request, z), extra, tuple(failed))

    def _personal(self, profile: Profile, request: Request, z: Float32) -> Float32:
        taste = self.names.index("taste")
        if not profile.user_vector.any():
            return z[taste]
        row = self._standardised(self.sources[taste], request, profile)
        return z[taste] if row is None else row

    def _standardised(self, source: CandidateSource, request: Request, profile: Profile) -> Float32 | None:
        try:
            return _checked(source.score(request, profile, self.model), self.model.n_items)
        except FAILURES as error:  # a source must never stop serving
            log.warning("candidate source %s failed: %s", source.name, type(error).__name__)
            return None


def _checked(scores: SourceScores, n_items: int) -> Float32:
    z: Float32 = scores.standardised(n_items)
    if z.shape != (n_items,):
        raise ValueError(f"scores for {z.shape} instead of ({n_items},)")
    if not np.isfinite(z @ z):
        raise ValueError("scores are not finite")
    return z
