"""Chooses the blend's weights: direct search on NDCG@10 over validation baskets, one set of weights per scenario."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

TOP = 10
DEEPEST = 100
_DISCOUNTS = 1 / np.log2(np.arange(2, DEEPEST + 2))
_IDEALS = np.r_[np.inf, np.cumsum(_DISCOUNTS)]
DISCOUNT, IDEAL = _DISCOUNTS[:TOP], _IDEALS[: TOP + 1]
PER_SOURCE = 60
"""Best items of each source that take part in the search; the others hardly ever reach a top 10."""
STEPS = (1.5, 0.5, 0.2, 0.1)


def standardise(scores: Float32) -> Float32:
    """(s − mean) / (std + 1e-9) per row, over the whole catalogue; 0 where std <= 1e-9. float32 (n, n_items)."""
    mean, std = scores.mean(1, keepdims=True), scores.std(1, keepdims=True)
    return np.where(std > 1e-9, (scores - mean) / (std + 1e-9), 0).astype(np.float32)


def ndcg(scores: Float32, targets: Bools, hidden: Bools | None = None, *, top: int = TOP) -> Float64:
    """NDCG@top per row, the ideal being min(top, |targets|) hits on top, NaN for rows without a target.

    `scores` (n, n_items), `targets` and `hidden` bool of that shape · `top`: at most DEEPEST. Ties by place.
    """
    scores = scores if hidden is None else np.where(hidden, np.float32(-np.inf), scores)
    n, m = scores.shape
    k = min(top, m)
    bound = np.partition(scores, m - k, axis=1)[:, m - k, None]
    # whatever ties with the k-th best competes by place: at most one row in many has such ties
    above, level = scores > bound, scores == bound
    chosen = above | (level & (np.cumsum(level, 1) <= k - above.sum(1, keepdims=True)))
    best = np.nonzero(chosen)[1].reshape(n, k)
    order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
    hit = np.take_along_axis(targets, np.take_along_axis(best, order, 1), 1)
    found = targets.sum(1)
    gain: Float64 = hit @ _DISCOUNTS[:k] / _IDEALS[np.minimum(found, top)]
    return np.where(found > 0, gain, np.nan)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A scenario's validation baskets, cut to the items that could win: `z` (S, n, c) · `targets` bool (n, c) ·
    `ideal` float64 (n,) · `half` bool (n,): which half of the users."""

    z: Float32
    targets: Bools
    ideal: Float64
    half: Bools

    @classmethod
    def of(cls, z: Sequence[Float32], targets: Bools, hidden: Bools | None, users: NDArray[np.int64]) -> Task:
        """`z` standardised scores per source, each (n, n_items); rows without a target are left out."""
        kept = targets.any(1)
        n_items = targets.shape[1]
        width = min(PER_SOURCE, n_items)
        picks = []
        for scores in (*z, np.sum(z, axis=0)):
            visible = scores[kept] if hidden is None else np.where(hidden[kept], -np.inf, scores[kept])
            picks.append(np.argpartition(-visible, width - 1, axis=1)[:, :width])
        rows = np.sort(np.concatenate(picks, 1), axis=1)
        out = np.zeros(rows.shape, np.bool_)
        out[:, 1:] = rows[:, 1:] == rows[:, :-1]
        if hidden is not None:
            out |= np.take_along_axis(hidden[kept], rows, 1)
        cut = np.stack([np.where(out, np.float32(-1e6), np.take_along_axis(s[kept], rows, 1)) for s in z])
        wanted = np.take_along_axis(targets[kept], rows, 1) & ~out
        return cls(cut, wanted, IDEAL[np.minimum(targets[kept].sum(1), TOP)], _half(users[kept]))

    @classmethod
    def joined(cls, tasks: Sequence[Task]) -> Task:
        """Several blocks of baskets as one."""
        return cls(
            np.concatenate([task.z for task in tasks], 1),
            np.concatenate([task.targets for task in tasks]),
            np.concatenate([task.ideal for task in tasks]),
            np.concatenate([task.half for task in tasks]),
        )

    def score(self, weights: Float64) -> Float64:
        """NDCG@10 per basket under non-negative `weights` (S,)."""
        n, m = self.targets.shape
        total = (weights.astype(np.float32) @ self.z.reshape(len(self.z), -1)).reshape(n, m)
        k = min(TOP, m)
        best = np.argpartition(-total, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(total, best, 1), axis=1)
        hit = np.take_along_axis(self.targets, np.take_along_axis(best, order, 1), 1)
        gain: Float64 = hit @ DISCOUNT[:k] / self.ideal
        return gain


def _half(users: NDArray[np.int64]) -> Bools:
    """A fixed half of the users, whatever their numbering's pattern."""
    mixed = users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(63)).astype(np.bool_)


def search(task: Task, chosen: Bools | None = None) -> Float64:
    """Non-negative weights, float64 (S,), sum 1, of the best mean NDCG@10 found by coordinate steps.

    From equal weights and from each source alone, every weight in turn is multiplied, divided or dropped.
    """
    n_sources = len(task.z)
    if chosen is not None:
        task = Task(task.z[:, chosen], task.targets[chosen], task.ideal[chosen], task.half[chosen])
    starts = [np.ones(n_sources), *(np.eye(n_sources) + 0.1)]
    values = [float(task.score(start).mean()) for start in starts]
    weights, best = starts[int(np.argmax(values))], max(values)
    for step in STEPS:
        improved = True
        while improved:
            weights, best, improved = _sweep(task, weights, best, step)
    total: Float64 = weights / weights.sum()
    return total


def _sweep(task: Task, weights: Float64, best: float, step: float) -> tuple[Float64, float, bool]:
    improved = False
    for source in range(len(weights)):
        now = weights[source]
        for value in (now * (1 + step), now / (1 + step), 0.0) if now else (weights.sum() * 0.1 * step,):
            moved = weights.copy()
            moved[source] = value
            if not moved.any():
                continue
            found = float(task.score(moved).mean())
            if found > best + 1e-5:
                weights, best, improved = moved, found, True
    return weights, best, improved


def fit(names: Sequence[str], task: Task) -> tuple[dict[str, float], dict[str, float]]:
    """The weights by source name, and NDCG@10: `fitted` on all the baskets, `crossed` with the weights that the
    other half of the users would have chosen, which is the honest one."""
    weights = search(task)
    crossed = np.empty(len(task.half))
    for half in (task.half, ~task.half):
        if half.any() and (~half).any():
            crossed[half] = task.score(search(task, ~half))[half]
        else:
            crossed[half] = task.score(weights)[half]
    values = {"fitted": float(task.score(weights).mean()), "crossed": float(crossed.mean())}
    return {name: round(float(w), 4) for name, w in zip(names, weights, strict=True)}, values
