"""The engine of rounds: plain arithmetic, whatever the order, however long or broken what a device sends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerec.bundle.federated import BlockSpec
from edgerec.deltas import DeltaError
from edgerec.errors import ConfigError, PluginNotFound
from edgerec.federation import shares
from edgerec.types import Float32, Float64
from edgerec_exporters.federation.blocks import places, units, width
from edgerec_exporters.federation.engine import aggregate, aggregate_sum, joined, sigmas
from edgerec_exporters.federation.rules import ServerState, bucketed, fedadam
from edgerec_exporters.federation.settings import PrivacySettings, RoundSettings, load_settings

COUNTS = BlockSpec("popularity", "item_counts", 40, 4.0, 1 / 16, 7.0)
PAIRS = BlockSpec("pairs", "pair_sketch", 16, 3.0, 1 / 8)
METRICS = BlockSpec("metrics", "metrics", 16, 1.0, 1 / 1024)
BLOCKS = (COUNTS, PAIRS, METRICS)
SETTINGS = RoundSettings(least_cohort=1)
RULES = [
    SETTINGS,
    RoundSettings("bounded_mean", least_cohort=1),
    RoundSettings("median", least_cohort=1),
    RoundSettings("median", bucket=4, least_cohort=1),
    RoundSettings("trimmed_mean", {"share": 0.2}, bucket=3, least_cohort=1),
    RoundSettings("krum", {"hostile": 2}, least_cohort=1),
    RoundSettings("multi_krum", {"hostile": 1}, bucket=2, least_cohort=1),
]


def named(rule: RoundSettings) -> str:
    return f"{rule.aggregator}-{rule.bucket}"


def fleet(n: int, seed: int = 0, blocks: tuple[BlockSpec, ...] = BLOCKS) -> Float32:
    """What honest devices send: few items each, within the bounds, whole units."""
    random = np.random.default_rng(seed)
    rows = np.zeros((n, width(blocks)), np.float32)
    for row in rows:
        for block in blocks:
            where = random.choice(block.size, 4, replace=False) + places(blocks)[block.name].start
            row[where] = 1.0 if block.kind == "item_counts" else random.integers(-3, 4, 4) * block.unit
    return rows


def flat(blocks: Any) -> Float64:
    return np.concatenate([blocks[block.name] for block in BLOCKS])


def silent(sigma: float, n: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """No noise: what is left is the engine's own arithmetic."""
    return np.zeros(n, np.int64)


# one result, whatever the order


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_the_order_of_the_devices_has_no_influence(rule: RoundSettings) -> None:
    rows = fleet(23) + np.random.default_rng(1).normal(0, 0.01, (23, width(BLOCKS))).astype(np.float32)
    before = rows.copy()
    first = aggregate(rule, BLOCKS, rows, seed=5)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(rows))
        again = aggregate(rule, BLOCKS, rows[order], seed=5)
        np.testing.assert_array_equal(flat(first.blocks), flat(again.blocks))  # to the last bit
        assert again.told() == first.told()
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_every_rule_finds_what_all_devices_agree_on(rule: RoundSettings) -> None:
    rows = np.repeat(fleet(1), 12, axis=0)
    np.testing.assert_allclose(flat(aggregate(rule, BLOCKS, rows).blocks), rows[0], atol=1e-7)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.robust], ids=named)
def test_metrics_are_a_mean_under_every_rule(rule: RoundSettings) -> None:
    rows = fleet(20)
    found = aggregate(rule, BLOCKS, rows, seed=1).blocks["metrics"]
    np.testing.assert_allclose(found, rows[:, places(BLOCKS)["metrics"]].astype(np.float64).mean(axis=0), rtol=1e-12)


def test_the_mean_is_numpys_and_the_sum_its_multiple() -> None:
    rows = fleet(30)
    found = aggregate(SETTINGS, BLOCKS, rows)
    np.testing.assert_allclose(flat(found.blocks), rows.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.sums("popularity"), rows[:, :40].astype(np.float64).sum(axis=0), rtol=1e-12)


def test_the_trimmed_mean_is_over_devices() -> None:
    rows = fleet(30)
    found = aggregate(RoundSettings("trimmed_mean", {"share": 0.1}, least_cohort=1), BLOCKS, rows).blocks["popularity"]
    ordered = np.sort(rows[:, :40].astype(np.float64), axis=0)
    np.testing.assert_allclose(found, ordered[3:-3].mean(axis=0), rtol=1e-9)


# what one device can do


@pytest.mark.parametrize("rule", RULES[:2], ids=named)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_one_device_moves_a_sum_by_no_more_than_the_bound(rule: RoundSettings, data: st.DataObject) -> None:
    """Whatever it sends: finite numbers of any size, by one row or by several."""
    rows = fleet(6, seed=3)
    n = data.draw(st.integers(1, 3))
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    hostile = np.zeros((n, width(BLOCKS)), np.float32)
    for row in hostile:
        where = data.draw(st.lists(st.integers(0, width(BLOCKS) - 1), max_size=10))
        row[where] = data.draw(st.lists(number, min_size=len(where), max_size=len(where)))
    keys = [f"k{at}" for at in range(6)] + ["hostile"] * n
    honest = aggregate(rule, BLOCKS, rows)
    both = aggregate(rule, BLOCKS, np.concatenate([rows, hostile]), keys=keys)
    assert both.devices == 7 - both.refused.get("not finite", 0)
    for block in BLOCKS:
        moved = both.sums(block.name) - honest.sums(block.name)
        assert np.linalg.norm(moved) <= block.bound * (1 + 1e-8)


def test_what_is_too_long_is_cut_counted_and_stays_a_multiple_of_the_unit() -> None:
    rows = fleet(5)
    rows[2, :40] = 7.0
    found = aggregate(SETTINGS, BLOCKS, rows)
    assert found.clipped == {"popularity": 1, "pairs": 0, "metrics": 0}
    assert found.norms["popularity"] == {"median": 2.0, "largest": pytest.approx(7 * 40**0.5)}
    whole = found.sums("popularity") / COUNTS.unit
    np.testing.assert_allclose(whole, np.rint(whole), atol=1e-9)
    alone = aggregate(SETTINGS, BLOCKS, rows[2:3])
    assert 0.9 * 4 < np.linalg.norm(alone.blocks["popularity"]) <= 4


def test_rows_of_one_key_are_cut_together() -> None:
    """Else a device would be heard as often as it writes."""
    rows = np.zeros((3, width(BLOCKS)), np.float32)
    rows[0, 0], rows[1:, 1] = 3.0, 3.0
    apart = aggregate(SETTINGS, BLOCKS, rows)
    assert apart.devices == 3
    assert apart.sums("popularity")[1] == 6
    together = aggregate(SETTINGS, BLOCKS, rows, keys=["a", "b", "b"])
    assert together.devices == 2
    assert together.clipped["popularity"] == 1
    assert together.sums("popularity")[:2].tolist() == [3, pytest.approx(4, abs=COUNTS.unit)]
    with pytest.raises(DeltaError, match="2 keys for 3 rows"):
        aggregate(SETTINGS, BLOCKS, rows, keys=["a", "b"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_refused(bad: float) -> None:
    rows = fleet(8)
    whole = aggregate(SETTINGS, BLOCKS, rows[:7])
    rows[7, 13] = bad
    found = aggregate(SETTINGS, BLOCKS, rows)
    assert found.refused == {"not finite": 1}
    assert found.devices == 7
    np.testing.assert_array_equal(flat(found.blocks), flat(whole.blocks))
    with pytest.raises(DeltaError, match="0 devices, at least 1"):
        aggregate(SETTINGS, BLOCKS, rows[7:])


@pytest.mark.parametrize(
    "rows", [np.zeros((3, 5), np.float32), np.zeros((3, width(BLOCKS))), np.zeros(width(BLOCKS), np.float32)]
)
def test_rows_of_another_form_are_an_error(rows: Any) -> None:
    with pytest.raises(DeltaError, match="rows are float32"):
        aggregate(SETTINGS, BLOCKS, rows)


def test_too_small_a_cohort_gives_nothing() -> None:
    with pytest.raises(DeltaError, match="49 devices, at least 50"):
        aggregate(RoundSettings(), BLOCKS, fleet(49))


def test_rows_of_one_key_that_add_up_to_no_number_are_refused() -> None:
    rows = fleet(4)
    rows[2:, 0] = 3e38
    found = aggregate(SETTINGS, BLOCKS, rows, keys=["a", "b", "c", "c"])
    assert (found.devices, found.refused) == (2, {"not finite": 1})


# weights


def test_weights_are_capped() -> None:
    rows = fleet(3)
    rule = RoundSettings(least_cohort=1, most_weight=2.0)
    found = aggregate(rule, BLOCKS, rows, weights=np.array([1.0, 1.0, 50.0]))
    expected = (np.array([1.0, 1.0, 2.0]) @ rows.astype(np.float64)) / 4
    np.testing.assert_allclose(flat(found.blocks), expected, rtol=1e-9)


def test_weights_need_a_mean_without_central_noise() -> None:
    rows, weights = fleet(9), np.ones(9)
    with pytest.raises(ConfigError, match="weights cannot be used with median"):
        aggregate(RULES[2], BLOCKS, rows, weights=weights)
    central = RoundSettings(least_cohort=1, privacy=PrivacySettings("central", multiplier=1.0))
    with pytest.raises(ConfigError, match="central privacy"):
        aggregate(central, BLOCKS, rows, weights=weights)
    for bad in (-weights, weights[1:], weights * np.nan, weights * 0):
        with pytest.raises(DeltaError, match="weights must be"):
            aggregate(SETTINGS, BLOCKS, rows, weights=bad)


# sparse deltas


def test_buckets_bring_back_what_a_median_forgets() -> None:
    """An item that every fifth device has is 0 for the median; of groups of ten most have it."""
    rows = np.zeros((200, width(BLOCKS)), np.float32)
    rows[::5, 0] = 1.0
    forgotten = aggregate(RoundSettings("median", least_cohort=1), BLOCKS, rows)
    assert not forgotten.blocks["popularity"].any()
    kept = aggregate(RoundSettings("median", bucket=10, least_cohort=1), BLOCKS, rows, seed=0)
    assert 0.1 <= kept.blocks["popularity"][0] <= 0.3
    other = aggregate(RoundSettings("median", bucket=10, least_cohort=1), BLOCKS, rows)
    assert other.seed != 0  # drawn from the OS, and told


def test_buckets_hold_every_device_once() -> None:
    rows = fleet(17)
    groups = bucketed(rows, 5, 3)
    assert groups.shape == (4, width(BLOCKS))
    np.testing.assert_allclose((groups.T @ [5, 4, 4, 4]), rows.sum(axis=0), atol=1e-5)
    assert bucketed(rows, 1, 3) is rows


def test_a_bounded_mean_lets_nobody_count_an_item_twice() -> None:
    rows = np.zeros((10, width(BLOCKS)), np.float32)
    rows[0, 0], rows[1, 0], rows[2, 1], rows[3, 40] = 4.0, 1.0, -3.0, 3.0
    found = aggregate(RULES[1], BLOCKS, rows)
    assert found.sums("popularity")[:2].tolist() == pytest.approx([2.0, 0.0])
    assert found.sums("pairs")[0] == pytest.approx(2.0)


# FedAdam


def test_fedadam_is_what_the_paper_says() -> None:
    constants = {"rate": 0.5, "beta1": 0.8, "beta2": 0.9, "tau": 0.01}
    rule = RoundSettings(server="fedadam", server_constants=constants, least_cohort=1)
    m, v = np.zeros(40), np.zeros(40)
    state: ServerState | None = None
    for turn in range(4):
        rows = fleet(6, seed=turn)
        found = aggregate(rule, BLOCKS, rows, server=state)
        mean = rows.astype(np.float64).mean(axis=0)
        m, v = 0.8 * m + 0.2 * mean[:40], 0.9 * v + 0.1 * mean[:40] ** 2
        np.testing.assert_allclose(found.blocks["popularity"], 0.5 * m / (np.sqrt(v) + 0.01), rtol=1e-9)
        np.testing.assert_allclose(found.blocks["metrics"], mean[56:], rtol=1e-9)
        state = found.server
    assert state is not None
    with pytest.raises(ConfigError, match="fedadam: unknown setting speed"):
        fedadam(np.zeros(3), None, {"speed": 1})


# shares


def test_a_split_round_gives_the_mean_of_an_open_one() -> None:
    rows, random = fleet(25), np.random.default_rng(0)
    whole = np.rint(rows / units(BLOCKS)).astype(np.int64)
    masks = np.stack([shares.expand(random.bytes(32), width(BLOCKS)) for _ in rows])
    rest = whole.astype(np.uint32) - masks
    total = joined([masks.sum(axis=0, dtype=np.uint32), rest.sum(axis=0, dtype=np.uint32)])
    np.testing.assert_array_equal(total, whole.sum(axis=0))
    split = aggregate_sum(RoundSettings(mode="split", least_cohort=20), BLOCKS, total, 25)
    np.testing.assert_array_equal(flat(split.blocks), flat(aggregate(SETTINGS, BLOCKS, rows).blocks))


def test_shares_that_do_not_fit_are_an_error() -> None:
    one = np.zeros(5, np.uint32)
    for bad in ([one], [one, one[1:]], [one, one.astype(np.int64)]):
        with pytest.raises(DeltaError):
            joined(bad)  # type: ignore[arg-type]
    rule = RoundSettings(mode="split", least_cohort=20)
    with pytest.raises(DeltaError, match="instead of"):
        aggregate_sum(rule, BLOCKS, np.zeros(5, np.int64), 30)
    with pytest.raises(DeltaError, match="19 devices"):
        aggregate_sum(rule, BLOCKS, np.zeros(width(BLOCKS), np.int64), 19)
    with pytest.raises(ConfigError, match="no single rows"):
        aggregate(rule, BLOCKS, fleet(30))
    with pytest.raises(ConfigError, match="cannot be checked"):
        aggregate_sum(SETTINGS, BLOCKS, np.zeros(width(BLOCKS), np.int64), 30)


# noise


def test_central_noise_is_whole_units_of_the_right_size() -> None:
    asked: list[tuple[float, int]] = []

    def noise(sigma: float, n: int) -> Any:
        asked.append((sigma, n))
        return np.full(n, 3, np.int64)

    private = PrivacySettings("central", multiplier=2.0, shares={"popularity": 0.5, "pairs": 0.25, "metrics": 0.25})
    rule = RoundSettings(least_cohort=1, privacy=private)
    rows = fleet(10)
    found = aggregate(rule, BLOCKS, rows, noise=noise)
    sigma = {"popularity": 2 * 4 / 0.5**0.5, "pairs": 2 * 3 / 0.5, "metrics": 2 * 1 / 0.5}
    assert found.sigma == pytest.approx(sigma)
    assert asked == [(pytest.approx(sigma[block.name] / block.unit), block.size) for block in BLOCKS]
    np.testing.assert_allclose(
        found.sums("popularity"), rows[:, :40].astype(np.float64).sum(axis=0) + 3 * COUNTS.unit, rtol=1e-9
    )
    # all blocks together have the multiplier: Σ (bound / σ)² = 1 / multiplier²
    assert sum((block.bound / sigma[block.name]) ** 2 for block in BLOCKS) == pytest.approx(1 / 2.0**2)


def test_noise_hides_whole_units_only() -> None:
    rule = RoundSettings(least_cohort=1, privacy=PrivacySettings("central", multiplier=2.0))
    rows = fleet(4)
    rows[0, 0] += 0.01
    with pytest.raises(DeltaError, match="no whole multiple"):
        aggregate(rule, BLOCKS, rows, noise=silent)
    bounded = RoundSettings("bounded_mean", least_cohort=1, privacy=PrivacySettings("central", multiplier=2.0))
    rows[0, 0] = 4.0
    assert aggregate(bounded, BLOCKS, rows, noise=silent).devices == 4


def test_local_noise_may_be_longer_than_the_bound_but_not_by_any_length() -> None:
    rule = RoundSettings(least_cohort=1, privacy=PrivacySettings("local", multiplier=1.0))
    sigma = sigmas(rule, BLOCKS)["popularity"]
    rows = fleet(20)
    rows[:, :40] += np.random.default_rng(0).normal(0, sigma, (20, 40)).astype(np.float32)
    assert aggregate(rule, BLOCKS, rows).clipped["popularity"] == 0
    rows[0, :40] *= 10
    assert aggregate(rule, BLOCKS, rows).clipped["popularity"] == 1


def test_local_noise_is_that_of_the_devices_filter() -> None:
    """One standard deviation for all values: the multiplier times the length that a whole delta may have."""
    rule = RoundSettings(privacy=PrivacySettings("local", multiplier=3.0))
    whole = sum(block.bound**2 for block in BLOCKS) ** 0.5
    assert sigmas(rule, BLOCKS) == pytest.approx({block.name: 3.0 * whole for block in BLOCKS})


def test_without_a_multiplier_there_is_no_noise_and_no_result() -> None:
    rule = RoundSettings(least_cohort=1, privacy=PrivacySettings("central"))
    with pytest.raises(ConfigError, match="no noise multiplier"):
        aggregate(rule, BLOCKS, fleet(3))


# settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RoundSettings("krum", mode="split"), "nobody sees single deltas"),
        (lambda: RoundSettings("bounded_mean", mode="split"), "nobody sees single deltas"),
        (lambda: RoundSettings(mode="both"), "open, split"),
        (lambda: RoundSettings(server="sgd"), "none, fedadam"),
        (lambda: RoundSettings(bucket=5), "changes nothing"),
        (lambda: RoundSettings("median", privacy=PrivacySettings("central")), "has no bound"),
        (lambda: RoundSettings("bounded_mean", privacy=PrivacySettings("local")), "cut the devices' noise"),
        (lambda: PrivacySettings("global"), "one of none, central, local"),
        (lambda: PrivacySettings(shares={"a": 0.0}), "more than 0"),
        (lambda: load_settings({"rounds": {}}), "unknown section"),
        (lambda: load_settings({"round": 5}), "must be a section"),
        (lambda: load_settings({"round": {"buckets": 5}}), "unknown setting buckets"),
        (lambda: load_settings({"round": {"aggregator": 7}}), "aggregator's name"),
        (lambda: load_settings({"round": {"least_cohort": 0}}), "whole number from 1"),
        (lambda: load_settings({"round": {"privacy": {"epsilon": -1}}}), "'epsilon' cannot be -1"),
        (lambda: load_settings({"round": {"privacy": {"shares": {"x": 2}}}}), "'x' cannot be 2"),
        (lambda: load_settings({"round": {"growth": {"speed": 2}}}), "unknown setting speed"),
        (lambda: load_settings("/no/such/file.toml"), "no configuration file"),
    ],
)
def test_impossible_settings_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_settings_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "round.toml").write_text(
        "[round]\naggregator = 'trimmed_mean'\nbucket = 5\nleast_cohort = 100\nshrink = 1.5\n"
        "[round.constants]\nshare = 0.2\n[round.growth]\nmost = 2.0\n"
        "[round.privacy]\nkind = 'local'\nepsilon = 4\n[round.privacy.shares]\npopularity = 0.9\nmetrics = 0.1\n"
    )
    read = load_settings(tmp_path / "round.toml")
    assert (read.aggregator, read.bucket, read.least_cohort, read.shrink) == ("trimmed_mean", 5, 100, 1.5)
    assert read.constants == {"share": 0.2}
    assert read.growth is not None
    assert read.growth.most == 2.0
    assert (read.privacy.kind, read.privacy.epsilon, read.privacy.delta) == ("local", 4.0, 1e-5)
    assert read.privacy.share_of({"popularity": 4.0, "metrics": 1.0}) == pytest.approx(
        {"popularity": 0.9, "metrics": 0.1}
    )
    with pytest.raises(ConfigError, match="the blocks: popularity"):
        read.privacy.share_of({"popularity": 4.0})
    (tmp_path / "round.toml").write_text("[round\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(tmp_path / "round.toml")
    assert load_settings(None) == RoundSettings()


def test_an_unknown_aggregator_is_named() -> None:
    with pytest.raises(PluginNotFound, match="no_such"):
        aggregate(RoundSettings("no_such", least_cohort=1), BLOCKS, fleet(3))


def test_a_round_needs_no_torch_to_be_imported() -> None:
    script = (
        "import sys\n"
        "from edgerec_exporters.federation import commands, engine, release, rounds\n"
        "sys.exit(bool({'torch', 'onnx', 'opendp', 'dp_accounting', 'sqlalchemy', 'flwr'} & set(sys.modules)))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
