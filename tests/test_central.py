"""The central arms equal the figures that the reference script prints, and a naive replay on small data."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from edgerec_tools.central import ARMS, CentralArm, central, ease, invert
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
    found = [round(float(values.mean()), 4) for view in ("novel", "all") for values in (views[view].recall, views[view].ndcg)]
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


def naive(dataset: Dataset, cutoff: float, arm: str, l2: float) -> dict[str, list[tuple[float, float]]]:
    """One arm, everything computed anew for every basket."""
    history: dict[int, list[tuple[float, np.ndarray]]] = defaultdict(list)
    bought = np.zeros((dataset.n_users, dataset.n_items))
    recent = np.zeros(dataset.n_items)
    popularity, weights, trained_at = None, None, cutoff
    out: dict[str, list[tuple[float, float]]] = {"novel": [], "all": []}
    frozen = None

    def train() -> np.ndarray:
        inverse = np.linalg.inv(bought.T @ bought + l2 * np.eye(dataset.n_items))
        return -inverse / np.diag(inverse) * (1 - np.eye(dataset.n_items))

    def standard(values: np.ndarray) -> np.ndarray:
        return (values - values.mean()) / (values.std() + 1e-9)

    for at, user, rows in dataset.baskets():
        if at >= cutoff and weights is None:
            popularity, weights, frozen = bought.sum(0), train(), bought.copy()
        if at >= cutoff and history[user]:
            seen = np.flatnonzero(bought[user])
            profile = frozen[user] if arm == "ease-frozen" else bought[user]
            scores = {"popular": popularity, "recent": recent}.get(arm, profile @ weights)
            if arm.endswith("+recent"):
                scores = standard(scores) + 2 * standard(np.log1p(recent))
            if arm == "habit":
                scores = popularity * 1e-6
                for when, old in history[user]:
                    scores[old] += 0.5 ** ((at - when) / (120 * DAY))
            if arm == "ease-frozen" and not profile.any():
                scores = popularity
            views = {"all": (scores, rows), "novel": (scores.copy(), np.setdiff1d(rows, seen))}
            views["novel"][0][seen] = -1e9
            for view, (values, targets) in views.items():
                if len(targets):
                    top = np.argsort(-values, kind="stable")[:3]
                    hit, ideal = np.isin(top, targets), min(3, len(targets))
                    gain = 1 / np.log2(np.arange(2, 5))
                    out[view].append((hit.sum() / ideal, (hit * gain).sum() / gain[:ideal].sum()))
        history[user].append((at, rows))
        bought[user, rows] = 1
        recent = recent * 0.999
        recent[rows] += 1
        if weights is not None and arm.startswith("ease-weekly") and at - trained_at > 7 * DAY:
            weights, trained_at = train(), at
    return out


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_equals_a_naive_replay(arm: str) -> None:
    dataset, cutoff = small(), 25 * DAY
    found = central(dataset, cutoff, arms=[arm], l2=5.0, k=3)[arm].views
    expected = naive(dataset, cutoff, arm, 5.0)
    for view in ("novel", "all"):
        pairs = np.column_stack([found[view].recall, found[view].ndcg])
        assert pairs.shape == (len(expected[view]), 2)
        assert pairs == pytest.approx(np.array(expected[view]))


def test_any_cut_off_can_be_replayed_and_the_test_period_left_out() -> None:
    before = load("retail").before(TEST_CUTOFF)
    steps: list[tuple[int, int]] = []
    arms = central(before, VALIDATION_CUTOFF, arms=["popular"], progress=lambda done, total: steps.append((done, total)))
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
    matrix = X.T @ X / n + np.eye(n, dtype=np.float32)
    assert invert(matrix, leaf=16) @ matrix == pytest.approx(np.eye(n), abs=1e-3)


def test_ease_has_no_weight_from_an_item_to_itself() -> None:
    weights = ease(np.array([[4, 2, 0], [2, 4, 1], [0, 1, 3]], np.float32), l2=1.0)
    assert np.diag(weights).tolist() == [0, 0, 0]
    assert weights[0, 1] > 0
