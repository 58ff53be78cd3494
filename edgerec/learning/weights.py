"""The blend learned per user: exponentiated gradient with fixed share, from the manifest's weights.

Kivinen & Warmuth 1997 (exponentiated gradient), Herbster & Warmuth 1998 (fixed share).
"""

from __future__ import annotations

import numpy as np

from edgerec.interfaces import Settings
from edgerec.types import Float64


def softmax_gradients(weights: Float64, z: Float64, clip: float) -> Float64:
    """Gradients, float64 (T, K, S), of the sampled softmax losses of T events in the weights of K blends (K, S).

    `z` float64 (T, 1 + m, S): standardised scores of each event's item and of its m negatives. With p the softmax of
    the blended scores, d loss / d w_j = Σ p z_j − z_j(item). Entries are clipped to ± `clip`.
    """
    p = z @ weights.T
    p -= p.max(axis=1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=1, keepdims=True)
    gradients: Float64 = p.transpose(0, 2, 1) @ z
    gradients -= z[:, :1]
    np.minimum(np.maximum(gradients, -clip, out=gradients), clip, out=gradients)
    return gradients


def exponentiated_step(weights: Float64, start: Float64, gradient: Float64, settings: Settings) -> Float64:
    """Weights (…, S) after one step, float64, with the same sum as `start`.

    w_j ← w_j · exp(−rate · g_j), rescaled, then w ← (1 − share) · w + share · start. A source that starts at 0
    stays at 0.
    """
    rate, share = float(settings.get("rate", 0.02)), float(settings.get("share", 0.01))
    moved = np.exp(gradient * -rate)
    moved *= weights
    moved *= start.sum(axis=-1, keepdims=True) * (1.0 - share) / moved.sum(axis=-1, keepdims=True)
    moved += share * start
    return moved
