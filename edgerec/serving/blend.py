"""The blend: standardised source scores, combined by weights per scenario.

score(item) = Σ_j w_j · (s_j(item) − mean_j) / std_j          mean, std over the whole catalogue
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgerec.interfaces import Settings
from edgerec.types import Float32, Float64


def starting_weights(names: Sequence[str], weights: Mapping[str, float], disabled: Sequence[str] = ()) -> Float64:
    """Weights in the order of `names`, float64 (S,); 0 for a source that is disabled or not mentioned."""
    return np.array([0.0 if name in disabled else float(weights.get(name, 0.0)) for name in names])


def cold_start_boost(settings: Settings, n_events: int) -> float:
    """What popularity counts in addition while little is known: boost · 0.5^(n_events / half_events)."""
    boost = float(settings.get("boost", 0.0))
    return boost * 0.5 ** (n_events / float(settings.get("half_events", 5.0))) if boost else 0.0


def blend(weights: Float64, z: Float32) -> Float32:
    """Σ_j w_j z_j, float32 (n,), from weights (S,) and standardised scores (S, n)."""
    return weights.astype(np.float32) @ z
