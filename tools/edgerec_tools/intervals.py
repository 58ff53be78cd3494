"""How sure a difference is: the per-user paired bootstrap, and how many users an arm makes worse.

Users are the units of resampling, because baskets of one user depend on each other; the statistic is the mean
over baskets, that is, the sum of the drawn users' sums over the sum of their counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]
Users = NDArray[np.integer[Any]]
_CHUNK = 1 << 22  # user draws held in memory at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over baskets with its percentile interval."""

    value: float
    low: float
    high: float
    n_baskets: int
    n_users: int


@dataclass(frozen=True, slots=True)
class Tail:
    """`worse_share`: users whose mean difference lies more than one standard error below 0, as a share of
    `n_users`, those with enough baskets. `worst_decile`: mean of the lowest tenth of the users' mean differences.
    Both are NaN without such users."""

    worse_share: float
    worst_decile: float
    n_users: int


def bootstrap_means(
    user: Users, values: Values, *, seed: int = 0, n_resamples: int = 2000, level: float = 0.95
) -> list[Interval]:
    """`bootstrap_mean` of every column of `values` (n_baskets, m), on the same draws of users."""
    _, inverse, counts = np.unique(user, return_inverse=True, return_counts=True)
    n_users, n_columns = len(counts), values.shape[1]
    if n_users == 0:
        return [Interval(float("nan"), float("nan"), float("nan"), 0, 0)] * n_columns
    sums = [np.bincount(inverse, weights=column) for column in values.T]
    totals = np.stack([*sums, counts], axis=1)
    rng = np.random.default_rng(seed)
    per_chunk = max(1, _CHUNK // n_users)
    means = []
    for first in range(0, n_resamples, per_chunk):
        rows = min(per_chunk, n_resamples - first)
        drawn = rng.integers(n_users, size=(rows, n_users)) + np.arange(rows)[:, None] * n_users
        times = np.bincount(drawn.ravel(), minlength=rows * n_users).reshape(rows, n_users)
        resampled = times.astype(np.float64) @ totals
        means.append(resampled[:, :-1] / resampled[:, -1:])
    edge = 100 * (1 - level) / 2
    low, high = np.percentile(np.concatenate(means), [edge, 100 - edge], axis=0)
    found = totals[:, :-1].sum(axis=0) / counts.sum()
    return [
        Interval(value, below, above, len(user), n_users)
        for value, below, above in zip(found.tolist(), low.tolist(), high.tolist(), strict=True)
    ]


def bootstrap_mean(
    user: Users, values: Values, *, seed: int = 0, n_resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean of `values` (n_baskets,) of the users `user` (n_baskets,). NaN throughout where there is no basket."""
    return bootstrap_means(user, values[:, None], seed=seed, n_resamples=n_resamples, level=level)[0]


def bootstrap_difference(
    user: Users, ours: Values, theirs: Values, *, seed: int = 0, n_resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean of `ours - theirs`, both (n_baskets,) over the same baskets in the same order."""
    if len(ours) != len(theirs):
        raise ValueError(f"a paired difference needs the same baskets: {len(ours)} against {len(theirs)}")
    return bootstrap_mean(user, ours - theirs, seed=seed, n_resamples=n_resamples, level=level)


def tail(user: Users, difference: Values, *, min_baskets: int = 5) -> Tail:
    """Worse share and worst decile of `difference` (n_baskets,), over users with at least `min_baskets` baskets.

    The standard error of a user's mean is the sample deviation (n - 1) of the user's differences over sqrt(n).
    """
    _, inverse, counts = np.unique(user, return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, weights=difference) / counts if len(counts) else np.zeros(0)
    square = np.bincount(inverse, weights=(difference - mean[inverse]) ** 2) if len(counts) else np.zeros(0)
    enough = counts >= max(min_baskets, 2)
    n_users = int(enough.sum())
    if n_users == 0:
        return Tail(float("nan"), float("nan"), 0)
    mean, counts = mean[enough], counts[enough]
    error = np.sqrt(square[enough] / (counts - 1) / counts)
    lowest = np.sort(mean)[: -(-n_users // 10)]
    return Tail(float((mean < -error).mean()), float(lowest.mean()), n_users)
