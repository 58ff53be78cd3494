"""Candidate source `recency`: more of what the user was at just now.

Each of the user's last `last` events counts w_k = 0.5^(g_k / half_life_groups) · 0.5^(a_k / half_life_days): g_k is how
many groups (baskets, sessions; an event without one is a group of its own) came after it, a_k its age in days behind
the newest event. An item scores

    Σ_k w_k cos(v_i, v_k)        over the events k that are not of the item itself

so that what the user has in hand does not recommend itself. It is a function of the history alone, one pass over the
vectors; a user without a history is met with silence.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import numpy as np

from edgerec.hookspecs import hookimpl
from edgerec.interfaces import Settings, SourceFactory
from edgerec.types import Float32, Float64, Model, Profile, Request, SourceScores
from edgerec_plugins.settings import SettingsReader


class Recency:
    """Dense scores over the catalogue."""

    name = "recency"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader(self.name, settings)
        self.last = take.whole("last", 20, 1, 1000)
        self.half_life_groups = take.number("half_life_groups", 1.0, 0, 1e6, above_low=True)
        self.half_life_days = take.number("half_life_days", 30.0, 0, 1e6, above_low=True)
        take.done()
        self._lengths: tuple[weakref.ref[Float32], Float32] | None = None

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        rows = profile.rows[-self.last :]
        if not len(rows):
            return SourceScores.sparse(rows, np.empty(0, np.float32), model.n_items)
        lengths = self._of(model.vectors)
        weight = self._weights(profile).astype(np.float32)
        directions = model.vectors[rows] / lengths[rows, None]
        scores: Float32 = model.vectors.dot(weight.dot(directions))
        scores /= lengths
        np.subtract.at(scores, rows, weight * np.einsum("kd,kd->k", directions, directions))
        return SourceScores.dense(scores)

    def _weights(self, profile: Profile) -> Float64:
        """w of the last events, float64 (K,)."""
        groups = profile.groups[-self.last :]
        later = np.concatenate(((groups[1:] != groups[:-1])[::-1].cumsum()[::-1], [0]))
        age_days = profile.age_days()[-self.last :]
        return np.exp2(-later / self.half_life_groups - age_days / self.half_life_days)

    def _of(self, vectors: Float32) -> Float32:
        """The vectors' lengths, float32 (n_items,), 1 where there is none; kept while the same vectors are in use."""
        known = self._lengths
        if known is None or known[0]() is not vectors:
            lengths = np.sqrt(np.einsum("id,id->i", vectors, vectors))
            lengths[lengths == 0] = 1
            self._lengths = known = weakref.ref(vectors), lengths
        return known[1]


@hookimpl
def edgerec_sources() -> Mapping[str, SourceFactory]:
    return {Recency.name: Recency}
