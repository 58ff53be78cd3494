"""Evaluation protocols: what is left out, what may be learned from, what counts as a target's past."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerec.errors import DataError
from edgerec_tools.datasets import Dataset
from edgerec_tools.protocols import Split, last_events, leave_one_out, temporal


def dataset(events: list[tuple[float, int, int]], **changes: Any) -> Dataset:
    """Events (at, user, item) in that order, each a basket of its own."""
    at, user, item = (list(column) for column in zip(*events, strict=True)) if events else ([], [], [])
    n_users, n_items = max(user, default=-1) + 1, max(item, default=-1) + 1
    columns: dict[str, Any] = {
        "name": "toy",
        "users": tuple(f"u{row}" for row in range(n_users)),
        "items": tuple(f"i{row}" for row in range(n_items)),
        "titles": tuple(f"i{row}" for row in range(n_items)),
        "kinds": ("rating",),
        "user": np.array(user, np.int32),
        "item": np.array(item, np.int32),
        "at": np.array(at, np.float64),
        "kind": np.zeros(len(at), np.int16),
        "value": np.full(len(at), np.nan, np.float32),
        "group": np.arange(len(at)),
    }
    return Dataset(**{**columns, **changes})


def past_items(split: Split) -> list[list[int]]:
    order, first, end = split.pasts()
    spans = zip(first.tolist(), end.tolist(), strict=True)
    return [split.full.item[order[start:stop]].tolist() for start, stop in spans]


EVENTS = [(1.0, 0, 0), (2.0, 1, 3), (3.0, 0, 1), (3.0, 0, 2), (4.0, 1, 4), (5.0, 2, 0), (6.0, 2, 1), (6.0, 2, 2)]


def test_leave_one_out_asks_for_each_users_last_event_and_ties_go_by_the_data_sets_order() -> None:
    split = leave_one_out(dataset(EVENTS))
    assert split.user.tolist() == [0, 2]
    assert split.item.tolist() == [2, 2]
    assert past_items(split) == [[0, 1], [0, 1]]


def test_a_user_with_too_few_events_is_learned_from_and_not_asked() -> None:
    split = leave_one_out(dataset(EVENTS))
    assert 1 not in split.user
    assert split.train.item[split.train.user == 1].tolist() == [3, 4]
    with pytest.raises(DataError, match="no user has 3 events"):
        leave_one_out(dataset(EVENTS[:3]))


def test_leaving_out_twice_gives_the_data_to_choose_on() -> None:
    events = [(float(k), user, k) for k in range(5) for user in range(2)]
    inner = leave_one_out(leave_one_out(dataset(sorted(events))).train)
    assert inner.item.tolist() == [3, 3]
    assert inner.train.item.max() == 2
    assert inner.train.n_items == 5


def test_train_and_test_are_the_whole_and_keep_the_numbering() -> None:
    full = dataset(EVENTS)
    split = leave_one_out(full)
    assert split.train.n_events + split.test.n_events == full.n_events
    assert split.train.items == split.test.items == full.items
    assert split.test.item.tolist() == split.item.tolist()


def test_the_temporal_split_learns_before_the_cutoff_and_asks_for_every_later_event_in_turn() -> None:
    split = temporal(dataset(EVENTS), cutoff=3.0)
    assert split.train.at.tolist() == [1.0, 2.0]
    assert split.item.tolist() == [1, 2, 4, 1, 2]
    assert past_items(split) == [[0], [0, 1], [3], [0], [0, 1]]  # events since the cut-off belong to the past


def test_the_temporal_split_may_ask_for_the_last_event_alone() -> None:
    split = temporal(dataset(EVENTS), cutoff=3.0, targets="last")
    assert split.item.tolist() == [2, 4, 2]
    assert past_items(split) == [[0, 1], [3], [0, 1]]


def test_the_quantile_is_that_of_the_events_times() -> None:
    full = dataset(EVENTS)
    assert temporal(full, quantile=0.5).cutoff == np.quantile(full.at, 0.5)
    assert temporal(full).cutoff == np.quantile(full.at, 0.9)


@pytest.mark.parametrize(
    ("changes", "arguments"),
    [({}, {"cutoff": 0.5}), ({}, {"cutoff": 7.0}), ({}, {"quantile": 1.5}), ({"timed": False}, {"cutoff": 3.0})],
)
def test_a_split_that_makes_no_sense_is_refused(changes: dict[str, Any], arguments: dict[str, float]) -> None:
    with pytest.raises(DataError):
        temporal(replace(dataset(EVENTS), **changes), **arguments)


def test_selecting_events_keeps_the_baskets_that_remain() -> None:
    grouped = dataset(
        EVENTS[:4],
        group=np.array([0, 1, 2, 2]),
        group_ids=("a", "b", "c"),
        country=("x", "y", "z"),
        price=np.arange(4, dtype=np.float32),
    )
    some = grouped.select(np.array([True, False, False, True]))
    assert some.group.tolist() == [0, 1]
    assert some.group_ids == ("a", "c")
    assert some.country == ("x", "z")
    assert some.price is not None
    assert some.price.tolist() == [0, 3]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=60))
def test_pasts_equal_a_plain_loop(drawn: list[tuple[int, int, int]]) -> None:
    events = sorted((float(at), user, item) for at, user, item in drawn)
    full = dataset(events)
    target = last_events(full, 2)
    split = Split(full, full, target, "loo", "last")
    expected = [[item for _, user, item in events[:place] if user == events[place][1]] for place in target.tolist()]
    assert past_items(split) == expected
