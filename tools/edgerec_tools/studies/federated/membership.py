"""Item-membership inference: which items did a user consume, judged by what leaves the device or the server.

An attacker sees values float32 (n, n_items), one row per user, knows the bundle's popularity, and learns on half of
the users, whose items are known, how to name items. What counts is the F1 on the other half, against the same attacker
given the row of another user: popularity alone already gives something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from edgerec.types import Float32, Float64, Int64
from edgerec_tools import intervals
from edgerec_tools.intervals import Interval
from edgerec_tools.studies.federated.harness import Bools

GRID = 80
PER_USER = 200
"""Items of a user that the classifier learns from, beside those that were consumed."""
LEAST = 1e-6


class Seen(NamedTuple):
    """`value` float32 (n, n_items), what is seen of each user · `other`, the same had another user been in their place
    · `truth` bool (n, n_items) · `user` int64 (n,)."""

    value: Float32
    other: Float32
    truth: Bools
    user: Int64


Scores = Callable[[Float32], Float32]
"""From values to how likely each item is, both float32 (n, n_items)."""
Learn = Callable[[Float32, Bools, Float64], Scores]
"""An attacker: learns from values, truths and the logarithm of the items' popularity."""


def by_value(value: Float32, truth: Bools, popularity: Float64) -> Scores:
    """The larger the value, the likelier the item."""
    return lambda seen: seen


def by_likelihood(value: Float32, truth: Bools, popularity: Float64) -> Scores:
    """Naive Bayes: values are normal, with a mean and spread for items that were consumed and for others; the prior
    odds are the item's popularity."""
    held, free = value[truth], value[~truth]
    means = float(held.mean(dtype=np.float64)), float(free.mean(dtype=np.float64))
    spreads = [max(float(part.std(dtype=np.float64)), 1e-3) for part in (held, free)]
    prior = np.log(truth.mean(0, dtype=np.float64) + np.exp(popularity - popularity.max()) / 100 + LEAST)

    def scores(seen: Float32) -> Float32:
        far, near = ((seen - np.float32(m)) / np.float32(s) for m, s in zip(means, spreads, strict=True))
        ratio = (near**2 - far**2) / 2
        return np.asarray(np.clip(ratio, -60, 60) + prior, np.float32)

    return scores


def by_classifier(value: Float32, truth: Bools, popularity: Float64) -> Scores:
    """Logistic regression on the value, its size, the item's popularity, and both together."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    random = np.random.default_rng(0)
    rows = np.repeat(np.arange(len(value)), PER_USER)
    columns = random.integers(value.shape[1], size=len(rows))
    held = np.nonzero(truth)
    rows, columns = np.concatenate((rows, held[0])), np.concatenate((columns, held[1]))
    spread = float(np.median(np.abs(value))) or float(np.abs(value).max()) or 1.0
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    model.fit(_features(value[rows, columns], popularity[columns], spread), truth[rows, columns])

    def scores(seen: Float32) -> Float32:
        found = [model.decision_function(_features(row, popularity, spread)) for row in seen]
        return np.array(found, np.float32)

    return scores


def _features(value: Float32, popularity: Float64, spread: float) -> Float64:
    scaled = np.arcsinh(value.astype(np.float64) / spread)
    return np.stack((scaled, np.abs(scaled), popularity, scaled * popularity), axis=-1)


ATTACKERS: Mapping[str, Learn] = {
    "values": by_value,
    "likelihood": by_likelihood,
    "classifier": by_classifier,
}


class Verdict(NamedTuple):
    """F1 of an attacker, of the same given another user, and their paired difference."""

    attacker: str
    f1: float
    other: float
    apart: Interval


def best(seen: Seen, popularity: Float64, seed: int = 0) -> Verdict:
    """The attacker with the largest difference. Half of the users teach, the others are judged."""
    found = [judged(name, seen, popularity, seed) for name in ATTACKERS]
    return max(found, key=lambda one: one.apart.value)


def judged(name: str, seen: Seen, popularity: Float64, seed: int = 0) -> Verdict:
    users = np.unique(seen.user)
    taught = np.isin(seen.user, np.random.default_rng(seed).permutation(users)[: len(users) // 2])
    scores = ATTACKERS[name](seen.value[taught], seen.truth[taught], popularity)
    threshold = _threshold(scores(seen.value[taught]), seen.truth[taught])
    truth, user = seen.truth[~taught], seen.user[~taught]
    own = f1(scores(seen.value[~taught]) >= threshold, truth)
    other = f1(scores(seen.other[~taught]) >= threshold, truth)
    return Verdict(name, float(own.mean()), float(other.mean()), intervals.bootstrap_difference(user, own, other))


def _threshold(scores: Float32, truth: Bools) -> float:
    """The best of a grid, by the mean F1."""
    places = np.unique(np.quantile(scores, 1 - np.geomspace(1 / scores.shape[1] / 4, 1, GRID)))
    return float(max(places, key=lambda at: f1(scores >= at, truth).mean()))


def f1(named: Bools, truth: Bools) -> Float64:
    """2 · both / (named + true) per row, float64 (n,)."""
    both = (named & truth).sum(1)
    return np.asarray(2 * both / np.maximum(named.sum(1) + truth.sum(1), 1), np.float64)
