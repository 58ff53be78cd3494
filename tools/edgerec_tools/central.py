"""The central reference arms, computed dense: what scorers see that keep everybody's data in one place.

Protocol: baskets before the cut-off are training data; every later basket is predicted from that user's earlier
baskets, in time order, before it is revealed to anyone. View `novel`: targets are the items the user never bought,
seen items are masked. View `all`: targets are the whole basket, nothing is masked. Users without any earlier basket
are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec_tools import metrics
from edgerec_tools.baselines.linear import ease
from edgerec_tools.datasets.dataset import Basket, Dataset

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Rows = NDArray[np.int64]
VIEWS = ("novel", "all")
WEEK = 7 * 86400.0
HABIT_HALF_LIFE_DAYS = 120.0
_NO_ROWS = np.zeros(0, np.int64)

ARMS: Mapping[str, str] = {
    "popular": "users per item before the cut-off",
    "recent": "recently popular (needs everybody's events)",
    "ease-frozen": "EASE, model and profile frozen at the cut-off",
    "ease-fresh": "EASE, model frozen, profile fresh",
    "ease-fresh+recent": "EASE, model frozen, profile fresh, + recently popular",
    "ease-weekly": "EASE retrained weekly on everybody's raw data",
    "ease-weekly+recent": "EASE retrained weekly on everybody's raw data, + recently popular",
    "habit": "the user's own decayed counts (120 days)",
}


@dataclass(frozen=True, slots=True)
class ViewMetrics:
    """One entry per scored basket: `basket` int64 its number in the replayed data set, `user` int32 row,
    `recall` and `ndcg` float64."""

    basket: Rows
    user: NDArray[np.int32]
    recall: Float64
    ndcg: Float64


@dataclass(frozen=True, slots=True)
class CentralArm:
    """An arm's metrics per view (`novel`, `all`); `baskets` are numbered as in `dataset.since(cutoff)`."""

    name: str
    title: str
    views: Mapping[str, ViewMetrics]


class Profiles:
    """Per user the sum of weight rows of the items seen, kept up to date by adding what is new."""

    def __init__(self, weights: Float32) -> None:
        self.weights = weights
        self._sums: dict[int, tuple[int, Float32]] = {}

    def scores(self, user: int, seen: Rows) -> Float32:
        """`seen`: the user's items in order of first appearance; it may only grow. Returns float32 (n_items,)."""
        known, total = self._sums.get(user, (0, None))
        if total is None:
            total = np.zeros(self.weights.shape[1], np.float32)
        if known < len(seen):
            total = total + self.weights[seen[known:]].sum(axis=0)
            self._sums[user] = len(seen), total
        return total


class Replay:
    """Everything that changes while baskets are revealed: histories, drifting popularity, weekly retraining."""

    def __init__(self, train: Dataset, cutoff: float, l2: float, arms: Iterable[str]) -> None:
        shape = train.n_users, train.n_items
        self.l2, self.retrained_at = l2, cutoff
        self.retrains = any(arm.startswith("ease-weekly") for arm in arms)
        self.bought = np.zeros(shape, np.bool_)
        self.seen: list[Rows] = [_NO_ROWS] * train.n_users
        self.history: list[tuple[Rows, Float64]] = [(_NO_ROWS, np.zeros(0))] * train.n_users
        self.recent = np.zeros(train.n_items)
        for basket in train.baskets():
            self._remember(basket)
        self.frozen_seen = list(self.seen)
        self.popularity = self.bought.sum(axis=0, dtype=np.float32)
        if any(arm.startswith("ease") for arm in arms):
            bought = self.bought.astype(np.float32)
            self.gram: Float32 = bought.T @ bought
            weights = ease(self.gram, l2)
            self.frozen, self.fresh, self.weekly = Profiles(weights), Profiles(weights), Profiles(weights)

    def reveal(self, basket: Basket) -> None:
        """Adds one basket to everything; retrains when a week has passed since the last time."""
        before = self.seen[basket.user]
        new = self._remember(basket)
        if not self.retrains:
            return
        self.gram[new[:, None], self.seen[basket.user]] += 1
        self.gram[before[:, None], new] += 1
        if basket.at - self.retrained_at > WEEK:
            self.weekly, self.retrained_at = Profiles(ease(self.gram, self.l2)), basket.at

    def _remember(self, basket: Basket) -> Rows:
        """Returns the rows that are new to the user."""
        rows, user = np.unique(basket.rows).astype(np.int64), basket.user
        new: Rows = rows[~self.bought[user, rows]]
        self.bought[user, new] = True
        self.seen[user] = np.concatenate([self.seen[user], new])
        items, times = self.history[user]
        self.history[user] = np.concatenate([items, rows]), np.concatenate([times, np.full(len(rows), basket.at)])
        self.recent *= 0.999
        self.recent[rows] += 1
        return new


Scorer = Callable[[Replay, Basket], NDArray[np.floating[Any]]]


def _frozen(replay: Replay, basket: Basket) -> NDArray[np.floating[Any]]:
    seen = replay.frozen_seen[basket.user]
    return replay.frozen.scores(basket.user, seen) if len(seen) else replay.popularity


def _fresh(replay: Replay, basket: Basket) -> NDArray[np.floating[Any]]:
    return replay.fresh.scores(basket.user, replay.seen[basket.user])


def _weekly(replay: Replay, basket: Basket) -> NDArray[np.floating[Any]]:
    return replay.weekly.scores(basket.user, replay.seen[basket.user])


def _and_recent(scorer: Scorer) -> Scorer:
    return lambda replay, basket: _standard(scorer(replay, basket)) + 2 * _standard(np.log1p(replay.recent))


def _standard(scores: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    standardised: NDArray[np.floating[Any]] = (scores - scores.mean()) / (scores.std() + 1e-9)
    return standardised


def _habit(replay: Replay, basket: Basket) -> NDArray[np.floating[Any]]:
    items, times = replay.history[basket.user]
    weight = 0.5 ** ((basket.at - times) / (HABIT_HALF_LIFE_DAYS * 86400))
    counts = np.bincount(items, weights=weight, minlength=len(replay.popularity))
    scores: Float32 = (replay.popularity * np.float32(1e-6) + counts).astype(np.float32)  # as the reference rounds
    return scores


_SCORERS: Mapping[str, Scorer] = {
    "popular": lambda replay, _: replay.popularity,
    "recent": lambda replay, _: replay.recent,
    "ease-frozen": _frozen,
    "ease-fresh": _fresh,
    "ease-fresh+recent": _and_recent(_fresh),
    "ease-weekly": _weekly,
    "ease-weekly+recent": _and_recent(_weekly),
    "habit": _habit,
}


def central(
    dataset: Dataset,
    cutoff: float,
    *,
    arms: Iterable[str] = tuple(ARMS),
    l2: float = 200.0,
    k: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, CentralArm]:
    """Replays the baskets since `cutoff` (POSIX seconds) and scores them under every arm of `arms` (see `ARMS`).

    `progress` is called with the number of baskets done and their total. Needs memory for a few dense
    (n_users, n_items) and (n_items, n_items) arrays. Raises ValueError for an arm it does not know.
    """
    arms = list(dict.fromkeys(arms))
    unknown = sorted(set(arms) - set(ARMS))
    if unknown:
        raise ValueError(f"unknown central arms {', '.join(unknown)}; there are {', '.join(ARMS)}")
    replay, test = Replay(dataset.before(cutoff), cutoff, l2, arms), dataset.since(cutoff)
    found: dict[str, dict[str, list[_Scored]]] = {arm: {view: [] for view in VIEWS} for arm in arms}
    for number, basket in enumerate(test.baskets()):
        if len(replay.seen[basket.user]):
            targets = _targets(replay, basket)
            for arm in arms:
                scores = _SCORERS[arm](replay, basket)
                for view, rows in targets.items():
                    ranked = _masked(scores, replay.seen[basket.user]) if view == "novel" else scores
                    hit = metrics.hits(metrics.top_k(ranked, k), rows, k)
                    found[arm][view].append((number, basket.user, hit, len(rows)))
        replay.reveal(basket)
        if progress is not None:
            progress(number + 1, test.n_baskets)
    return {arm: CentralArm(arm, ARMS[arm], {v: _metrics(rows, k) for v, rows in found[arm].items()}) for arm in arms}


_Scored = tuple[int, int, NDArray[np.bool_], int]


def _targets(replay: Replay, basket: Basket) -> dict[str, Rows]:
    """Per view the target rows; a view without any is absent."""
    rows = np.unique(basket.rows).astype(np.int64)
    novel = rows[~replay.bought[basket.user, rows]]
    return {"novel": novel, "all": rows} if len(novel) else {"all": rows}


def _masked(scores: NDArray[np.floating[Any]], seen: Rows) -> NDArray[np.floating[Any]]:
    masked = scores.copy()
    masked[seen] = -np.inf
    return masked


def _metrics(scored: list[_Scored], k: int) -> ViewMetrics:
    hit = np.array([hit for _, _, hit, _ in scored], np.bool_).reshape(-1, k)
    n_targets = np.array([n for *_, n in scored], np.int64)
    return ViewMetrics(
        basket=np.array([basket for basket, *_ in scored], np.int64),
        user=np.array([user for _, user, *_ in scored], np.int32),
        recall=metrics.recall(hit, n_targets),
        ndcg=metrics.ndcg(hit, n_targets),
    )
