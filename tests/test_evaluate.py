"""Evaluation is full, honest and right: ranks, metrics (against ranx), slices, lists, intervals, leaks, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from evaluation_data import Fixed, FromTable, events
from toy_data import CUTOFF, DAY, START, toy_dataset

from edgerec.errors import EdgeRecError, RequestError
from edgerec_tools.baselines import Evidence
from edgerec_tools.baselines.markov import Markov
from edgerec_tools.datasets import Dataset
from edgerec_tools.datasets.assemble import assemble
from edgerec_tools.evaluate.lists import describe
from edgerec_tools.evaluate.measures import METRICS, column, measure
from edgerec_tools.evaluate.ranking import K, OverData, Questions, rank
from edgerec_tools.evaluate.run import evaluate
from edgerec_tools.evaluate.slices import head_items, slices
from edgerec_tools.evaluate.tuning import tuned, validation
from edgerec_tools.intervals import bootstrap_mean, bootstrap_means
from edgerec_tools.protocols import Split, leave_one_out, temporal


@pytest.fixture(scope="module")
def data() -> Dataset:
    return events()


@pytest.fixture(scope="module")
def split(data: Dataset) -> Split:
    return leave_one_out(data)


@pytest.fixture(scope="module")
def toy() -> Dataset:
    return toy_dataset(n_users=20)


# Ranks


def test_ranks_and_lists_are_those_of_a_stable_sort_over_the_whole_catalogue(data: Dataset, split: Split) -> None:
    questions = Questions.of(split, "hide")
    scores = np.random.default_rng(1).integers(0, 6, data.n_items).astype(float).tolist()  # many ties
    found = rank(Fixed(scores), questions)
    for number in range(len(questions)):
        past = questions.pasts(slice(number, number + 1)).item
        masked = np.array(scores)
        masked[past] = -np.inf
        order = np.argsort(-masked, kind="stable")
        assert found.ranks[number] == order.tolist().index(questions.item[number]) + 1
        assert found.top[number].tolist() == order[:K].tolist()


def test_seen_items_are_hidden_or_shown(toy: Dataset) -> None:
    split = temporal(toy, cutoff=CUTOFF)
    hidden, shown = Questions.of(split, "hide"), Questions.of(split, "show")
    assert len(shown) == len(split.target)
    assert len(hidden) + hidden.repeats == len(shown)
    assert hidden.repeats > 0, "the toy users buy favourites again"
    for number in range(len(hidden)):
        assert hidden.item[number] not in hidden.pasts(slice(number, number + 1)).item
    scores = list(range(toy.n_items, 0, -1))
    seen = hidden.pasts(slice(0, 1)).item
    assert not set(seen.tolist()) & set(rank(Fixed(scores), hidden).top[0].tolist())
    assert rank(Fixed(scores), shown).top[0].tolist() == list(range(K))


def test_what_a_model_does_not_have_is_a_miss_and_counted(data: Dataset, split: Split) -> None:
    questions = Questions.of(split, "show")
    half = list(range(0, data.n_items, 2))
    found = rank(Fixed([1.0] * len(half) + [9.0], [*half, -1]), questions)
    known = questions.item % 2 == 0
    assert found.unknown == (~known).sum()
    assert not found.ranks[~known].any()
    assert not measure(found.ranks)[~known].any()
    assert (found.ranks[known] == questions.item[known] // 2 + 2).all(), "an item of the model's own stands first"
    assert (found.top[:, 0] == -1).all()


def test_what_may_not_be_served_is_a_miss_and_stays_out_of_the_list(data: Dataset, split: Split) -> None:
    questions = Questions.of(split, "show")
    found = rank(Fixed([1.0, 1.0] + [-np.inf] * (data.n_items - 2)), questions)
    assert set(found.ranks[questions.item > 1].tolist()) == {0}
    assert found.top[0].tolist() == [0, 1] + [-1] * (K - 2)


def test_scores_that_are_no_numbers_are_an_error(data: Dataset, split: Split) -> None:
    with pytest.raises(EdgeRecError, match="no numbers"):
        rank(Fixed([np.nan] * data.n_items), Questions.of(split, "hide"))


# Metrics

RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
told = json.load(sys.stdin)
names = {"hr": "hit_rate", "ndcg": "ndcg", "recall": "recall", "mrr": "mrr"}
parts = {name: name.partition("@") for name in told["metrics"]}
asked = {name: names[metric] + at + k for name, (metric, at, k) in parts.items()}
found = evaluate(Qrels(told["qrels"]), Run(told["run"]), list(asked.values()))
print(json.dumps({name: float(found[theirs]) for name, theirs in asked.items()}))
"""


def test_metrics_equal_ranx(data: Dataset, split: Split) -> None:
    questions = Questions.of(split, "hide")
    model = OverData("markov", Markov().fit(Evidence(split.train)), np.arange(data.n_items))
    scores = model.scores(questions.pasts(slice(None)))
    scores += np.random.default_rng(0).permutation(scores.size).reshape(scores.shape).astype(np.float32) * 1e-6
    questions_in_full = rank(FromTable(scores), questions)
    ours = dict(zip(METRICS, measure(questions_in_full.ranks).mean(axis=0).tolist(), strict=True))
    run = {}
    for number, row in enumerate(scores):
        past = set(questions.pasts(slice(number, number + 1)).item.tolist())
        run[f"q{number:03}"] = {f"d{item}": float(s) for item, s in enumerate(row.tolist()) if item not in past}
    qrels = {f"q{number:03}": {f"d{item}": 1} for number, item in enumerate(questions.item.tolist())}
    told = json.dumps({"metrics": METRICS, "qrels": qrels, "run": run})
    # compiling takes ranx a minute, and a process of its own keeps numba out of this one
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RANX],
        input=told,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout.splitlines()[-1]) == pytest.approx(ours)
    assert 0 < ours["ndcg@5"] < ours["ndcg@10"] < ours["ndcg@20"] < ours["hr@20"] < 1
    assert ours["mrr@10"] < ours["mrr"]


def test_metrics_of_single_ranks() -> None:
    found = {name: column(measure(np.array([1, 3, 10, 11, 0])), name).tolist() for name in METRICS}
    assert found["hr@10"] == found["recall@10"] == [1, 1, 1, 0, 0]
    assert found["ndcg@10"] == pytest.approx([1, 0.5, 1 / np.log2(11), 0, 0])
    assert found["mrr"] == pytest.approx([1, 1 / 3, 0.1, 1 / 11, 0])
    assert found["mrr@10"] == pytest.approx([1, 1 / 3, 0.1, 0, 0])
    assert found["hr@20"] == [1, 1, 1, 1, 0]


def test_intervals_of_several_columns_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(0)
    user, values = rng.integers(40, size=300), rng.random((300, 3))
    together = bootstrap_means(user, values, seed=4)
    for number, found in enumerate(together):
        alone = bootstrap_mean(user, values[:, number], seed=4)
        assert (found.value, found.low, found.high) == pytest.approx((alone.value, alone.low, alone.high))


# Leaks


def test_no_protocol_hands_a_target_to_training(data: Dataset, toy: Dataset) -> None:
    splits = [leave_one_out(data), leave_one_out(toy), temporal(toy, cutoff=CUTOFF), temporal(toy, targets="last")]
    for split in [*splits, *map(validation, splits)]:
        keys = [events_of(part, np.arange(part.n_events)) for part in (split.train, split.full)]
        targets = events_of(split.full, split.target)
        assert len(keys[1]) == split.full.n_events, "events are told apart"
        assert targets <= keys[1]
        assert not targets & keys[0]
        if split.cutoff is not None:
            assert split.train.at.max() < split.cutoff <= split.full.at[split.target].min()


def events_of(data: Dataset, places: np.ndarray) -> set[tuple[Any, ...]]:
    return set(zip(data.user[places].tolist(), data.item[places].tolist(), data.at[places].tolist(), strict=True))


def test_holding_out_two_keeps_the_second_last_event_from_baselines(data: Dataset, split: Split) -> None:
    found = {hold_out: evaluate(split, ["popular"], baselines=[], hold_out=hold_out).models[0] for hold_out in (1, 2)}
    counts = np.bincount(leave_one_out(split.train).train.item, minlength=data.n_items).astype(float).tolist()
    questions = Questions.of(split, "hide")
    assert found[2].ranked.ranks.tolist() == rank(Fixed(counts), questions).ranks.tolist()
    assert found[1].ranked.ranks.tolist() != found[2].ranked.ranks.tolist()
    with pytest.raises(RequestError, match="the cut-off decides"):
        evaluate(temporal(data), ["popular"], baselines=[], hold_out=2)


class Canary:
    """Memorises what was never drawn as a negative for a user. Where a protocol draws negatives from everything but
    the data it shows, the test item stands out as soon as the data contain it."""

    def __init__(self, shown: Dataset, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        had = np.zeros((shown.n_users, shown.n_items), np.bool_)
        had[shown.user, shown.item] = True
        drawn = rng.integers(0, shown.n_items, (shown.n_users, 40 * shown.n_items))
        self.counts = np.stack([np.bincount(row, minlength=shown.n_items) for row in drawn]).astype(np.float32)
        self.counts[had] = 0

    def model(self, questions: Questions) -> FromTable:
        return FromTable(-self.counts[questions.user])


def test_a_memorising_canary_stays_at_chance_under_our_protocols() -> None:
    large = events(n_users=400, n_items=100, length=6, seed=3)
    for split in (leave_one_out(large), temporal(large, quantile=0.8, targets="last")):
        questions = Questions.of(split, "hide")
        hit = column(measure(rank(Canary(split.train).model(questions), questions).ranks), "hr@10")
        eligible = large.n_items - questions.lengths
        chance = (10 / eligible).mean()
        error = np.sqrt(chance * (1 - chance) / len(questions))
        assert abs(hit.mean() - chance) < 3 * error


def test_the_canary_sings_where_the_test_item_is_kept_from_the_negatives() -> None:
    split = leave_one_out(events())
    questions = Questions.of(split, "hide")
    found = rank(Canary(split.full).model(questions), questions)
    assert column(measure(found.ranks), "hr@10").mean() == 1.0


def test_tuning_looks_at_validation_targets_only(data: Dataset, split: Split) -> None:
    held = validation(split)
    evidence, questions = Evidence(held.train), Questions.of(held, "hide")
    best, tried = tuned(Markov(), evidence, questions)
    assert not events_of(split.full, split.target) & events_of(questions.data, np.arange(questions.data.n_events))
    assert tried[repr(best)] == max(tried.values())
    assert len(tried) > 10
    other = split.full.item.copy()
    other[split.target] = np.random.default_rng(0).permutation(other[split.target])
    changed = leave_one_out(replace(split.full, item=other))
    again, _ = tuned(Markov(), Evidence(validation(changed).train), Questions.of(validation(changed), "hide"))
    assert again == best


# Slices and lists


def test_slices_go_by_history_and_by_training_popularity(split: Split) -> None:
    questions = Questions.of(split, "hide")
    parts = slices(questions, split.train)
    by_history = [mask for name, mask in parts.items() if name.startswith("users")]
    by_item = [mask for name, mask in parts.items() if name.endswith("items")]
    for masks in (by_history, by_item):
        assert (np.sum(masks, axis=0) == 1).all(), "every target is in one slice of each kind"
    counts = np.array([0, 5, 1, 4, 0, 2])
    assert np.flatnonzero(head_items(counts)).tolist() == [1, 3]
    assert not head_items(np.zeros(3, np.int64)).any()


def test_new_items_are_those_that_training_never_saw() -> None:
    rows = [("a", "x", 0), ("b", "x", 1), ("a", "y", 2), ("b", "y", 3), ("a", "z", 9), ("b", "x2", 8)]
    made = assemble(
        "new",
        pl.DataFrame(
            [{"user": u, "item": i, "at": START + DAY * t, "kind": "click", "value": 1.0} for u, i, t in rows]
        ),
    )
    split = temporal(made, cutoff=START + 5 * DAY)
    questions = Questions.of(split, "hide")
    assert slices(questions, split.train)["new items"].all()


def test_lists_are_described() -> None:
    vectors = np.array([[1, 0], [0, 1], [2, 0], [np.nan, np.nan]], np.float32)
    same = describe(np.array([[0, 2]] * 3), 4, vectors)
    assert same == {"coverage@10": 0.5, "gini@10": 0.5, "entropy@10": pytest.approx(0.5), "diversity@10": 0.0}
    assert describe(np.array([[0, 1, 3, -1]]), 4, vectors)["diversity@10"] == pytest.approx(1.0), "orthogonal"
    even = describe(np.array([[0, 1], [2, 3]]), 4, None)
    assert even == {"coverage@10": 1.0, "gini@10": 0.0, "entropy@10": pytest.approx(1.0), "diversity@10": None}
    nothing = describe(np.full((2, 3), -1), 4, vectors)
    assert (nothing["coverage@10"], nothing["diversity@10"]) == (0.0, None)
