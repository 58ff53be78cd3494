"""Metrics and intervals against slow, obvious versions of themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgerec_tools import intervals, metrics

scores = hnp.arrays(np.float64, st.integers(1, 40), elements=st.sampled_from([-1e9, -1.0, 0.0, 0.5, 2.0, 2.5, 7.0]))


@given(scores, st.integers(1, 50))
def test_top_k_is_the_head_of_a_stable_sort(values: np.ndarray, k: int) -> None:
    expected = np.argsort(-values, kind="stable")[:k]
    assert metrics.top_k(values, k).tolist() == expected.tolist()
    assert metrics.top_k(np.stack([values, values]), k).tolist() == [expected.tolist()] * 2


@given(scores, st.data())
def test_the_rank_of_a_target_is_its_place_in_a_stable_sort(values: np.ndarray, data: st.DataObject) -> None:
    target = data.draw(st.integers(0, len(values) - 1))
    place = np.argsort(-values, kind="stable").tolist().index(target) + 1
    assert metrics.target_rank(values[None], np.array([target])).tolist() == [place]


@given(st.sets(st.integers(0, 30), min_size=1), st.permutations(range(31)))
def test_metrics_follow_their_definitions(targets: set[int], order: list[int]) -> None:
    k = 10
    hit = metrics.hits(np.array(order), np.array(sorted(targets)), k)
    places = [place for place, item in enumerate(order[:k], start=1) if item in targets]
    ideal = min(k, len(targets))
    best = sum(1 / math.log2(place + 1) for place in range(1, ideal + 1))
    assert metrics.recall(hit, len(targets)) == pytest.approx(len(places) / ideal)
    assert metrics.ndcg(hit, len(targets)) == pytest.approx(sum(1 / math.log2(p + 1) for p in places) / best)
    assert metrics.hit_rate(hit) == bool(places)
    assert metrics.reciprocal_rank(hit) == pytest.approx(1 / places[0] if places else 0)


def test_metrics_take_many_lists_at_once() -> None:
    hit = np.array([[True, False, False], [False, False, True], [False, False, False]])
    n_targets = np.array([1, 2, 9])
    for measure in (metrics.recall, metrics.ndcg):
        one_by_one = [float(measure(row, n)) for row, n in zip(hit, n_targets, strict=True)]
        assert measure(hit, n_targets).tolist() == pytest.approx(one_by_one)
    assert metrics.hit_rate(hit).tolist() == [1, 1, 0]
    assert metrics.reciprocal_rank(hit).tolist() == pytest.approx([1, 1 / 3, 0])


def test_a_short_list_counts_as_misses_beyond_its_end() -> None:
    hit = metrics.hits(np.array([4, 2]), np.array([2]), 5)
    assert hit.tolist() == [False, True, False, False, False]
    assert not metrics.hits(np.array([], np.int64), np.array([2]), 5).any()


def test_a_perfect_list_scores_one_even_with_more_targets_than_places() -> None:
    hit = metrics.hits(np.arange(10), np.arange(25))
    assert metrics.recall(hit, 25) == 1
    assert metrics.ndcg(hit, 25) == pytest.approx(1)


def test_the_interval_is_around_the_mean_over_baskets_and_is_seeded() -> None:
    rng = np.random.default_rng(5)
    user = rng.integers(300, size=2000)
    values = rng.normal(0.3, 1, 2000) + rng.normal(0, 1, 300)[user]
    found = intervals.bootstrap_mean(user, values, seed=1)
    assert found == intervals.bootstrap_mean(user, values, seed=1)
    assert found.value == pytest.approx(values.mean())
    assert found.low < found.value < found.high
    assert (found.n_baskets, found.n_users) == (2000, len(np.unique(user)))
    naive = 1.96 * values.std() / math.sqrt(2000)
    assert found.high - found.value > 1.5 * naive, "baskets of a user depend on each other: users are resampled"


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        user = np.repeat(np.arange(60), rng.integers(1, 6, 60))
        values = rng.normal(0, 1, 60)[user] + rng.normal(0, 1, len(user))
        found = intervals.bootstrap_mean(user, values, n_resamples=300)
        covered += found.low <= 0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(3)
    user, theirs = np.repeat(np.arange(50), 4), rng.normal(0, 10, 200)
    found = intervals.bootstrap_difference(user, theirs + 0.1, theirs)
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)
    with pytest.raises(ValueError, match="same baskets"):
        intervals.bootstrap_difference(user, theirs, theirs[1:])


def test_no_basket_gives_no_number() -> None:
    found = intervals.bootstrap_mean(np.zeros(0, int), np.zeros(0))
    assert math.isnan(found.value)
    assert found.n_users == 0


def test_the_tail_counts_users_who_are_clearly_worse_off() -> None:
    per_user = [
        [-1.0, -1.0, -1.1, -0.9, -1.0],  # clearly worse
        [-1.0, 1.0, -1.0, 1.0, -0.1],  # mean within one standard error of 0
        [0.0] * 5,  # no difference at all
        [-0.5] * 5,  # worse with no spread
        [-9.0] * 4,  # too few baskets
    ] + [[1.0] * 6] * 8
    user = np.repeat(np.arange(len(per_user)), [len(values) for values in per_user])
    found = intervals.tail(user, np.concatenate(per_user))
    assert found.n_users == 12
    assert found.worse_share == pytest.approx(2 / 12)
    assert found.worst_decile == pytest.approx((-1.0 - 0.5) / 2), "the lowest tenth of 12 users is 2 of them"


def test_the_tail_of_chance_alone_is_about_a_sixth() -> None:
    rng = np.random.default_rng(2)
    user = np.repeat(np.arange(4000), 10)
    assert intervals.tail(user, rng.normal(0, 1, 40000)).worse_share == pytest.approx(0.17, abs=0.02)


def test_the_tail_without_users_is_no_number() -> None:
    found = intervals.tail(np.array([1, 1]), np.array([0.1, 0.2]))
    assert math.isnan(found.worse_share)
    assert found.n_users == 0
