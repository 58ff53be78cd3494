"""The blend learned per user: exponentiated gradient with fixed share, from the manifest's weights.

Kivinen & Warmuth 1997 (exponentiated gradient), Herbster & Warmuth 1998 (fixed share).
"""

from __future__ import annotations

import numpy as np

from edgerec.interfaces import Settings
from edgerec.types import Float32, Float64


def softmax_gradient(weights: Float64, positives: Float32, negatives: Float32, clip: float) -> Float64:
    """Mean gradient, float64 (S,), of the sampled softmax loss of T events in the blend's weights.

    `positives` float32 (S, T): standardised scores of the chosen items · `negatives` float32 (S, T, m): of each
    event's negatives. With p the softmax of the blended scores, d loss / d w_j = Σ p z_j − z_j(positive). Each
    event's entries are clipped to ± `clip`.
    """
    z = np.concatenate((positives[:, :, None], negatives), axis=2).astype(np.float64)
    scores = weights.dot(z.reshape(len(z), -1)).reshape(z.shape[1:])
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    gradients = (p * z).sum(axis=2) - z[:, :, 0]
    np.minimum(np.maximum(gradients, -clip, out=gradients), clip, out=gradients)
    mean: Float64 = gradients.sum(axis=1) / gradients.shape[1]
    return mean


def exponentiated_step(weights: Float64, start: Float64, gradient: Float64, settings: Settings) -> Float64:
    """Weights after one step, float64 (S,), with the same sum as `start`.

    w_j ← w_j · exp(−rate · g_j), rescaled, then w ← (1 − share) · w + share · start. A source that starts at 0
    stays at 0.
    """
    rate, share = float(settings.get("rate", 0.02)), float(settings.get("share", 0.01))
    moved = weights * np.exp(-rate * gradient)
    moved *= start.sum() / moved.sum()
    return (1.0 - share) * moved + share * start
