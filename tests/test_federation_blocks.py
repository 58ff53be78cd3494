"""What a delta's blocks hold: each item and pair once, of this device's own new events, within the bound."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bundles import bundle_files, manifest_of
from hypothesis import given
from hypothesis import strategies as st

from edgerec.bundle import manifest as manifests
from edgerec.bundle.federated import BlockSpec
from edgerec.federation import metrics
from edgerec.federation.blocks import Consumed, blocks_of, clipped, consumed, pairs
from edgerec.federation.sketch import estimated, pair_places, sketch
from edgerec.learning.state import Learned, initial_progress
from edgerec.records import changed
from edgerec.store import EventRow

COUNTS = BlockSpec("popularity", "item_counts", 12, 4.0, 0.0625)
PAIRS = BlockSpec("pairs", "pair_sketch", 64, 12.0, 0.125, seed=17)
METRICS = BlockSpec("metrics", "metrics", 36, 1.0, 2.0**-10)


def fresh(*items: int, unit: str = "basket") -> list[Consumed]:
    return [Consumed(item, unit, True) for item in items]


def old(*items: int, unit: str = "earlier") -> list[Consumed]:
    return [Consumed(item, unit, False) for item in items]


def of(spec: BlockSpec, events: list[Consumed], tests: metrics.Tests | None = None) -> np.ndarray:
    block = blocks_of((spec,), events, tests)[spec.name]
    assert block.dtype == np.float32
    assert block.shape == (spec.size,)
    return block


def test_an_item_counts_once_however_often_it_was_bought() -> None:
    block = of(COUNTS, [*old(5), *fresh(2, 3, 2), *fresh(2, unit="next")])
    assert block.tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]


def test_an_old_item_that_is_bought_again_counts() -> None:
    assert of(COUNTS, [*old(5), *fresh(5)])[5] == 1


def test_counts_are_clipped_to_the_bound_before_anything_else() -> None:
    block = of(changed(COUNTS, bound=2.0), fresh(*range(9)))
    assert np.linalg.norm(block) == pytest.approx(2.0, rel=1e-6)
    assert np.unique(block).size == 2


@given(st.lists(st.floats(-1e6, 1e6, width=32), max_size=20), st.floats(0.01, 1e6))
def test_a_clipped_block_is_never_longer(values: list[float], bound: float) -> None:
    block = np.array(values, np.float32)
    assert np.linalg.norm(clipped(block, bound).astype(np.float64)) <= bound * (1 + 1e-6)


def test_a_kind_that_nobody_knows_yet_is_sent_empty() -> None:
    assert not of(BlockSpec("later", "not_yet_known", 3, 1.0, 0.5), fresh(1, 2)).any()


def test_pairs_are_those_within_a_basket_and_of_two_that_follow_one_another() -> None:
    events = [*fresh(1, 2, unit="a"), *fresh(3, unit="b"), *fresh(4, unit="c")]
    assert pairs(events).tolist() == [[1, 2], [1, 3], [2, 3], [3, 4]]


def test_a_pair_of_two_old_events_is_not_counted_again() -> None:
    events = [*old(1, 2, unit="a"), *old(3, unit="b"), *fresh(4, unit="b")]
    assert pairs(events).tolist() == [[1, 4], [2, 4], [3, 4]]
    assert pairs(old(1, 2)).tolist() == []
    assert pairs([]).tolist() == []


def test_a_pair_counts_once_in_either_order_and_no_item_pairs_with_itself() -> None:
    assert pairs([*fresh(7, 2, unit="a"), *fresh(2, 7, unit="b")]).tolist() == [[2, 7]]


def test_focus_keeps_the_pairs_that_touch_it() -> None:
    events = [*fresh(1, 2, 3)]
    assert pairs(events, (3,)).tolist() == [[1, 3], [2, 3]]
    assert np.count_nonzero(of(changed(PAIRS, focus=(3,)), events)) == 2


def test_a_huge_basket_makes_no_more_pairs_than_its_newest_items_do() -> None:
    assert len(pairs(fresh(*range(1000)))) == 256 * 255 // 2


ROWS = st.lists(st.tuples(st.integers(0, 1 << 31), st.integers(0, 1 << 31)), min_size=1, max_size=50)


@given(ROWS, st.integers(0, (1 << 63) - 1), st.integers(1, 500))
def test_a_pair_has_one_place_and_sign_whatever_its_order(rows: list[tuple[int, int]], seed: int, size: int) -> None:
    one, other = np.array(rows, np.int64).T
    spec = changed(PAIRS, seed=seed, size=size)
    places, signs = pair_places(spec, one, other)
    again = pair_places(spec, other, one)
    assert np.array_equal(places, again[0])
    assert np.array_equal(signs, again[1])
    assert places.min() >= 0
    assert places.max() < size
    assert set(np.unique(signs)) <= {-1, 1}


def test_the_places_of_the_page() -> None:
    """docs/delta-format.md gives them, so that another language can test itself."""
    places, signs = pair_places(changed(PAIRS, size=12288), np.array([3, 9]), np.array([5, 2]))
    assert list(zip(places.tolist(), signs.tolist(), strict=True)) == [(6050, -1), (10872, 1)]


def test_a_sketch_estimates_counts_without_bias() -> None:
    """Of many pairs, true counts 1, the mean estimate is near 1, and near 0 for pairs that were not there."""
    left, right = np.divmod(np.arange(20_000), 141)
    spec = changed(PAIRS, size=4096)
    there, absent = slice(0, 2000), slice(10_000, 20_000)
    sums = sketch(spec, left[there], right[there] + 1000).astype(np.float64)
    found = estimated(spec, sums, left[there], right[there] + 1000)
    missing = estimated(spec, sums, left[absent], right[absent] + 1000)
    assert abs(float(found.mean()) - 1) < 0.1
    assert abs(float(missing.mean())) < 0.05
    assert float(missing.std()) < 1.1 * (2000 / 4096) ** 0.5


def test_different_seeds_give_different_places() -> None:
    rows = np.arange(200)
    first, second = (pair_places(changed(PAIRS, seed=seed), rows, rows + 1)[0] for seed in (1, 2))
    assert (first == second).mean() < 0.1


MANIFEST = manifests.parse(json.dumps(manifest_of(bundle_files(12, 4), 12, 4)).encode())


def row(item: int, kind: str = "purchase", at: int = 0, group: str | None = None, verdict: str = "learned") -> EventRow:
    event_id = f"{at}:{item}"
    return EventRow(at + 1, event_id, str(item), kind, None, at, group, None, None, at, None, 1, verdict)


def test_only_what_consumes_and_was_not_set_aside_counts() -> None:
    rows = [
        row(1),
        row(2, "click"),
        row(3, verdict="quarantined: quality: too fast"),
        row(4, "gone"),
        row(-1),
        row(12),
    ]
    items = np.array([int(one.item) for one in rows], np.int32)
    found = consumed(rows, items, MANIFEST, {one.event_id for one in rows})
    assert [one.item for one in found] == [1]


def test_events_are_ordered_by_their_time_and_grouped_by_their_basket() -> None:
    rows = [row(1, at=30), row(2, at=10, group="g"), row(3, at=20, group="g")]
    found = consumed(rows, np.array([1, 2, 3], np.int32), MANIFEST, {"30:1"})
    assert found == [Consumed(2, "g", False), Consumed(3, "g", False), Consumed(1, "30:1", True)]


SOURCES = ("taste", "neighbours", "popular", "habit")


def sums_of(control: bool, ndcg: dict[str, list[float]], n: int = 4) -> metrics.Tests:
    sums = np.zeros((len(ndcg), 7, 4))
    sums[:, :, 0] = n
    sums[:, :, 2] = np.array(list(ndcg.values())) * n
    return metrics.Tests(control, tuple(ndcg), SOURCES, sums)


def test_metrics_add_up_over_devices_and_are_read_back() -> None:
    first = sums_of(False, {"reorder": [0.1] * 7, "default": [0.2, 0.4, 0.6, 0.1, 0.1, 0.1, 0.1]})
    second = sums_of(False, {"reorder": [0.3] * 7, "default": [0.4, 0.4, 0.8, 0.1, 0.1, 0.1, 0.1]}, n=100)
    third = sums_of(True, {"reorder": [0.5] * 7, "default": [0.5] * 7})
    total = sum(of(METRICS, [], one).astype(np.float64) for one in (first, second, third))
    found = metrics.read_metrics(METRICS, total, ["reorder", "default"])
    assert found["treated"]["default"]["devices"] == pytest.approx(2)
    assert found["treated"]["default"]["tests"] == pytest.approx(4 + 64, rel=1e-5)
    assert found["treated"]["default"]["base"] == pytest.approx(0.3)
    assert found["treated"]["default"]["personal"] == pytest.approx(0.7)
    assert found["treated"]["reorder"]["taste"] == pytest.approx(0.2)
    assert found["control"]["reorder"]["base"] == pytest.approx(0.5)


def test_nothing_to_test_is_a_block_of_zeros_and_no_group() -> None:
    block = of(METRICS, [])
    assert not block.any()
    assert metrics.read_metrics(METRICS, block.astype(np.float64), ["default"]) == {"treated": {}, "control": {}}


def test_a_small_block_holds_the_default_scenario_alone() -> None:
    small = changed(METRICS, size=32)
    block = of(small, [], sums_of(False, {"reorder": [0.9] * 7, "default": [0.2] * 7}))
    found = metrics.read_metrics(small, block.astype(np.float64), ["default", "reorder"])
    assert set(found["treated"]) == {"default"}
    assert found["treated"]["default"]["base"] == pytest.approx(0.2)


@given(st.booleans(), st.lists(st.floats(0, 1), min_size=14, max_size=14), st.integers(1, 10_000), st.integers(18, 80))
def test_metrics_need_no_clip(control: bool, ndcg: list[float], n: int, size: int) -> None:
    spec = changed(METRICS, size=size)
    block = metrics.block_of(spec, sums_of(control, {"default": ndcg[:7], "reorder": ndcg[7:]}, n))
    assert np.linalg.norm(block.astype(np.float64)) <= spec.bound * (1 + 1e-6)


def learned(n: float) -> Learned:
    progress = initial_progress(np.ones(4))
    progress.sums[:, 0] = n
    return Learned.of({"default": progress}, {})


def test_tests_are_counted_from_the_last_delta() -> None:
    before = metrics.baseline(learned(10), "bundle generation")
    sums = metrics.since(before, learned(13), "bundle generation")
    assert sums is not None
    assert sums[0, :, 0].tolist() == [3] * 7


@pytest.mark.parametrize(("n", "stamp"), [(13, "other"), (9, "same"), (10, "same")])
def test_tests_under_another_bundle_or_of_other_events_are_not_compared(n: float, stamp: str) -> None:
    assert metrics.since(metrics.baseline(learned(10), "same"), learned(n), stamp) is None
    assert metrics.since(None, learned(n), "same") is None
