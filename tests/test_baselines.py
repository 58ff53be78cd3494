"""Baselines against slow, obvious versions of themselves."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
from toy_data import DAY, toy_dataset

from edgerec.errors import MissingDistribution, RequestError
from edgerec_tools.baselines import BASELINES, Baseline, Evidence, Pasts, choose, ials
from edgerec_tools.baselines.ease import Ease, EaseRecency
from edgerec_tools.baselines.ials import IAls
from edgerec_tools.baselines.itemknn import ItemKNN
from edgerec_tools.baselines.linear import co_occurrence, sums
from edgerec_tools.baselines.markov import Markov
from edgerec_tools.datasets import Dataset
from edgerec_tools.protocols import leave_one_out


def pasts_of(*histories: list[int], n_items: int = 5) -> Pasts:
    """Histories of item rows, one event a day."""
    item = [row for past in histories for row in past]
    at = [DAY * day for past in histories for day in range(len(past))]
    return Pasts(
        item=np.array(item, np.int32),
        at=np.array(at),
        kind=np.zeros(len(item), np.int16),
        group=np.arange(len(item)),
        start=np.cumsum([0, *(len(past) for past in histories)]),
        n_items=n_items,
    )


@pytest.fixture(scope="module")
def train() -> Dataset:
    return toy_dataset(n_users=30)


@pytest.fixture(scope="module")
def evidence(train: Dataset) -> Evidence:
    return Evidence(train)


def owned(data: Dataset) -> np.ndarray:
    """Who had what, float64 (n_users, n_items)."""
    matrix = np.zeros((data.n_users, data.n_items))
    matrix[data.user, data.item] = 1
    return matrix


def test_pasts_know_order_age_and_the_newest_event_of_each_item() -> None:
    pasts = pasts_of([3, 1, 3], [], [0])
    assert len(pasts) == 3
    assert pasts.lengths.tolist() == [3, 0, 1]
    assert pasts.owner.tolist() == [0, 0, 0, 2]
    assert pasts.back().tolist() == [2, 1, 0, 0]
    assert pasts.age_days().tolist() == [2, 1, 0, 0]
    assert pasts.newest().tolist() == [False, True, True, True]
    assert np.flatnonzero(pasts.seen()[0]).tolist() == [1, 3]
    assert not pasts.seen()[1].any()


def test_pasts_are_cut_from_what_a_split_says() -> None:
    split = leave_one_out(toy_dataset())
    order, first, end = split.pasts()
    chosen = slice(2, 5)
    pasts = Pasts.cut(split.full, order, first[chosen], end[chosen])
    for number, target in enumerate(range(2, 5)):
        mine = np.flatnonzero(split.full.user == split.user[target])
        events = slice(pasts.start[number], pasts.start[number + 1])
        assert pasts.item[events].tolist() == split.full.item[mine[:-1]].tolist()
        assert pasts.at[events].tolist() == split.full.at[mine[:-1]].tolist()


def test_co_occurrence_counts_users_who_had_both(train: Dataset) -> None:
    matrix = owned(train)
    assert np.array_equal(co_occurrence(train), matrix.T @ matrix)


def test_sums_take_each_items_newest_event() -> None:
    weights = np.random.default_rng(0).random((5, 5)).astype(np.float32)
    found = sums(pasts_of([3, 1, 3], [], [0]), np.array([100.0, 2.0, 3.0, 0.0]), weights)
    assert np.allclose(found[0], 2 * weights[1] + 3 * weights[3])
    assert not found[1:].any()


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "popular"])
def test_the_scores_of_a_past_do_not_depend_on_the_others(name: str, evidence: Evidence) -> None:
    learned = BASELINES[name].fit(evidence)
    histories = [[3, 1, 3], [0, 2], [5, 6, 7, 8, 9, 10, 11]]
    together = learned.scores(pasts_of(*histories, n_items=evidence.train.n_items))
    assert together.shape == (3, evidence.train.n_items)
    for row, past in zip(together, histories, strict=True):
        alone = learned.scores(pasts_of(past, n_items=evidence.train.n_items))[0]
        assert np.allclose(row, alone, atol=1e-5)


def test_popular_counts_events(evidence: Evidence, train: Dataset) -> None:
    counts = Counter(train.item.tolist())
    found = BASELINES["popular"].fit(evidence).scores(pasts_of([1], [2], n_items=train.n_items))
    assert found.tolist() == [[counts[row] for row in range(train.n_items)]] * 2


def test_itemknn_is_a_shrunk_cosine_cut_per_target(evidence: Evidence, train: Dataset) -> None:
    matrix, found = owned(train), ItemKNN(neighbours=7, shrinkage=2.0).fit(evidence).weights
    for target in range(0, train.n_items, 9):
        norms = np.linalg.norm(matrix, axis=0)
        cosine = matrix[:, target] @ matrix / (norms[target] * norms + 2.0)
        cosine[target] = 0
        kept = np.where(cosine >= np.sort(cosine)[-7], cosine, 0)
        assert np.allclose(found[:, target], kept, atol=1e-6)


def test_ease_is_the_closed_form(evidence: Evidence, train: Dataset) -> None:
    matrix = owned(train)
    inverse = np.linalg.inv(matrix.T @ matrix + 30 * np.eye(train.n_items))
    expected = -inverse / np.diag(inverse) * (1 - np.eye(train.n_items))
    past = pasts_of([1, 4, 2, 4], n_items=train.n_items)
    flat, fading = Ease(l2=30).fit(evidence), EaseRecency(l2=30, half_life=2.0).fit(evidence)
    assert np.allclose(flat.scores(past)[0], expected[[1, 2, 4]].sum(0), atol=1e-5)
    assert np.allclose(fading.scores(past)[0], expected[4] + expected[2] * 0.5**0.5 + expected[1] * 0.5**1.5, atol=1e-5)
    assert not np.allclose(Ease(l2=300).fit(evidence).weights, flat.weights), "another penalty is fitted anew"


def test_markov_counts_what_follows_within_the_window(evidence: Evidence, train: Dataset) -> None:
    baseline = Markov(last=2, fade=0.5, window=3, reach=0.7)
    sequences = defaultdict(list)
    for user, item in zip(train.user.tolist(), train.item.tolist(), strict=True):
        sequences[user].append(item)
    counts = np.zeros((train.n_items, train.n_items))
    for items in sequences.values():
        for place, before in enumerate(items):
            for distance, after in enumerate(items[place + 1 : place + 4]):
                counts[before, after] += 0.7**distance
    weights = counts / np.sqrt(np.maximum(counts.sum(1, keepdims=True), 1e-9))
    found = baseline.fit(evidence).scores(pasts_of([8, 7, 6], n_items=train.n_items))[0]
    assert np.allclose(found, weights[6] + 0.5 * weights[7], atol=1e-5)


def test_ials_folds_the_past_in_exactly(evidence: Evidence, train: Dataset) -> None:
    learned = IAls(dim=4, l2=0.01, alpha=0.1).fit(evidence)
    factors = learned.factors
    h, rows = factors.items.astype(np.float64), [1, 4, 2]
    hold = factors.l2 * (len(rows) + factors.alpha * train.n_items) ** factors.nu
    normal = factors.alpha * h.T @ h + h[rows].T @ h[rows] + hold * np.eye(4)
    expected = h @ np.linalg.solve(normal, h[rows].sum(0))
    found = learned.scores(pasts_of([1, 4, 2, 4], n_items=train.n_items))[0]
    assert np.allclose(found, expected, atol=1e-4)


def test_ials_names_the_distribution_that_is_missing(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgerec_exporters.spaces.ials", None)
    with pytest.raises(MissingDistribution, match="edgerec-exporters"):
        IAls().fit(evidence)
    monkeypatch.setattr(ials, "find_spec", lambda name: None)
    assert "edgerec-exporters" in str(IAls().infeasible(evidence.train))


@pytest.mark.parametrize("baseline", [one for name, one in BASELINES.items() if name not in ("popular", "ials")])
def test_a_catalogue_that_is_too_large_is_declined(baseline: Baseline, train: Dataset) -> None:
    class Large:
        n_items = 1_000_000

    assert baseline.infeasible(train) is None
    assert "1,000,000 items" in str(baseline.infeasible(Large()))  # type: ignore[arg-type]


def test_baselines_are_chosen_by_name() -> None:
    assert [one.name for one in choose(["ease", "popular", "ease"])] == ["ease", "popular"]
    with pytest.raises(RequestError, match="no baseline 'oracle'"):
        choose(["oracle"])


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=str)
def test_the_grid_names_constants_of_the_baseline(baseline: Baseline) -> None:
    for constant, values in baseline.grid.items():
        assert hasattr(baseline, constant)
        assert len(set(values)) == len(values)
