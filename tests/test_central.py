"""The central arms equal the figures that the reference script prints, and a naive replay on small data."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from edgerec_tools.baselines.linear import ease, invert
from edgerec_tools.central import ARMS, CentralArm, central
from edgerec_tools.datasets import Dataset, load
from edgerec_tools.datasets.assemble import assemble

TEST_CUTOFF = datetime(2011, 9, 1, tzinfo=UTC).timestamp()
VALIDATION_CUTOFF = datetime(2011, 6, 1, tzinfo=UTC).timestamp()
DAY = 86400.0

PRINTED = {  # recall@10 and NDCG@10 in `novel`, then in `all`, as the reference script prints them
    "popular": (0.0270, 0.0251, 0.0640, 0.0647),
    "recent": (0.0597, 0.0576, 0.1007, 0.1021),
    "ease-frozen": (0.0651, 0.0589, 0.1641, 0.1629),
    "ease-fresh": (0.0784, 0.0709, 0.1815, 0.1790),
    "ease-fresh+recent": (0.0832, 0.0764, 0.2028, 0.2006),
    "ease-weekly": (0.0875, 0.0787, 0.1981, 0.1941),
    "ease-weekly+recent": (0.0956, 0.0873, 0.2216, 0.2190),
    "habit": (0.0270, 0.0251, 0.2730, 0.2732),
}


@pytest.fixture(scope="module")
def replayed() -> dict[str, CentralArm]:
    return central(load("retail"), TEST_CUTOFF)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_equals_the_reference_to_four_decimals(replayed: dict[str, CentralArm], arm: str) -> None:
    views = replayed[arm].views
    found = [
        round(float(values.mean()), 4) for view in ("novel", "all") for values in (views[view].recall, views[view].ndcg)
    ]
    assert found == list(PRINTED[arm])
    assert (len(views["novel"].basket), len(views["all"].basket)) == (5140, 6097)


def test_baskets_are_named_as_in_the_replayed_part(replayed: dict[str, CentralArm]) -> None:
    view = replayed["popular"].views["novel"]
    assert np.array_equal(load("retail").since(TEST_CUTOFF).basket_user[view.basket], view.user)
    assert (np.diff(view.basket) > 0).all()


def small(n_users: int = 12, n_items: int = 30, n_baskets: int = 120) -> Dataset:
    """Baskets over 60 days."""
    rng = np.random.default_rng(4)
    rows = [
        {"user": f"u{user:02}", "item": f"i{item:02}", "at": 0.5 * DAY * number, "kind": "purchase", "value": 1.0,
         "group": f"b{number:03}"}
        for number in range(n_baskets)
        for user in [int(rng.integers(n_users))]
        for item in rng.choice(n_items, size=int(rng.integers(1, 8)), replace=False)
    ]  # fmt: skip
    return assemble("small", pl.DataFrame(rows))


class Naive:
    """One arm in float64, everything computed anew for every basket."""

    def __init__(self, dataset: Dataset, cutoff: float, arm: str, l2: float) -> None:
        self.arm, self.l2, self.trained_at = arm, l2, cutoff
        self.history: dict[int, list[tuple[float, np.ndarray]]] = defaultdict(list)
        self.bought = np.zeros((dataset.n_users, dataset.n_items))
        self.recent = np.zeros(dataset.n_items)
        for at, user, rows in dataset.before(cutoff).baskets():
            self.remember(at, user, rows)
        self.popularity, self.frozen, self.weights = self.bought.sum(0), self.bought.copy(), self.train()

    def train(self) -> np.ndarray:
        inverse = np.linalg.inv(self.bought.T @ self.bought + self.l2 * np.eye(len(self.recent)))
        return np.asarray(-inverse / np.diag(inverse) * (1 - np.eye(len(self.recent))))

    def remember(self, at: float, user: int, rows: np.ndarray) -> None:
        self.history[user].append((at, rows))
        self.bought[user, rows] = 1
        self.recent *= 0.999
        self.recent[rows] += 1

    def reveal(self, at: float, user: int, rows: np.ndarray) -> None:
        self.remember(at, user, rows)
        if self.arm.startswith("ease-weekly") and at - self.trained_at > 7 * DAY:
            self.weights, self.trained_at = self.train(), at

    def scores(self, at: float, user: int) -> np.ndarray:
        if self.arm == "habit":
            counts = np.asarray(self.popularity * 1e-6)
            for when, rows in self.history[user]:
                counts[rows] += 0.5 ** ((at - when) / (120 * DAY))
            return counts
        profile = self.frozen[user] if self.arm == "ease-frozen" else self.bought[user]
        if self.arm == "popular" or not profile.any():
            return np.asarray(self.popularity)
        if self.arm == "recent":
            return np.asarray(self.recent)
        scores = profile @ self.weights
        if self.arm.endswith("+recent"):
            scores = self.standard(scores) + 2 * self.standard(np.log1p(self.recent))
        return np.asarray(scores)

    @staticmethod
    def standard(values: np.ndarray) -> np.ndarray:
        return np.asarray((values - values.mean()) / (values.std() + 1e-9))


def recall_and_ndcg(scores: np.ndarray, targets: np.ndarray, k: int) -> tuple[float, float]:
    hit, ideal = np.isin(np.argsort(-scores, kind="stable")[:k], targets), min(k, len(targets))
    gain = 1 / np.log2(np.arange(2, k + 2))
    return float(hit.sum() / ideal), float((hit * gain).sum() / gain[:ideal].sum())


def naive(dataset: Dataset, cutoff: float, arm: str, l2: float, k: int) -> dict[str, list[tuple[float, float]]]:
    replay = Naive(dataset, cutoff, arm, l2)
    out: dict[str, list[tuple[float, float]]] = {"novel": [], "all": []}
    for at, user, rows in dataset.since(cutoff).baskets():
        if replay.history[user]:
            scores, seen = replay.scores(at, user).copy(), np.flatnonzero(replay.bought[user])
            out["all"].append(recall_and_ndcg(scores, rows, k))
            scores[seen] = -1e9
            if len(novel := np.setdiff1d(rows, seen)):
                out["novel"].append(recall_and_ndcg(scores, novel, k))
        replay.reveal(at, user, rows)
    return out


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_equals_a_naive_replay(arm: str) -> None:
    dataset, cutoff = small(), 25 * DAY
    found = central(dataset, cutoff, arms=[arm], l2=5.0, k=3)[arm].views
    expected = naive(dataset, cutoff, arm, 5.0, 3)
    for view in ("novel", "all"):
        pairs = np.column_stack([found[view].recall, found[view].ndcg])
        assert pairs.shape == (len(expected[view]), 2)
        assert pairs == pytest.approx(np.array(expected[view]))


def test_any_cut_off_can_be_replayed_and_the_test_period_left_out() -> None:
    before = load("retail").before(TEST_CUTOFF)
    steps: list[tuple[int, int]] = []
    arms = central(
        before, VALIDATION_CUTOFF, arms=["popular"], progress=lambda done, total: steps.append((done, total))
    )
    n_replayed = before.since(VALIDATION_CUTOFF).n_baskets
    assert list(arms) == ["popular"]
    assert steps[-1] == (n_replayed, n_replayed)
    assert 0 < len(arms["popular"].views["all"].basket) < n_replayed


def test_an_unknown_arm_is_named() -> None:
    with pytest.raises(ValueError, match="oracle"):
        central(small(), 0.0, arms=["oracle"])


@pytest.mark.parametrize("n", [3, 64, 301])
def test_the_inverse_by_halves_is_the_inverse(n: int) -> None:
    X = np.random.default_rng(n).normal(size=(2 * n, n)).astype(np.float32)
    matrix = (X.T @ X / n + np.eye(n)).astype(np.float32)
    assert invert(matrix, leaf=16) @ matrix == pytest.approx(np.eye(n), abs=1e-3)


def test_ease_has_no_weight_from_an_item_to_itself() -> None:
    weights = ease(np.array([[4, 2, 0], [2, 4, 1], [0, 1, 3]], np.float32), l2=1.0)
    assert np.diag(weights).tolist() == [0, 0, 0]
    assert weights[0, 1] > 0
