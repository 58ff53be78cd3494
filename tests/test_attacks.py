"""The attack suite on a small shop: every attack bites what is undefended, every defence holds what it promises."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from federated_field import N_ITEMS, field_of
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgerec.deltas import Delta, DeltaError
from edgerec.errors import ConfigError
from edgerec.federation.encoding import check_layout, encode, parse
from edgerec.types import Float64
from edgerec_exporters.federation.engine import aggregate
from edgerec_exporters.federation.growth import Growth
from edgerec_exporters.federation.settings import RoundSettings
from edgerec_tools.studies.federated import attacks, membership, poisoning, private, releases, tracking
from edgerec_tools.studies.federated.attacks import Scene, hostile, keys_of
from edgerec_tools.studies.federated.fleet import BLOCK, Chance, Round, Server, Unchecked, Wire, clipped, honest, sent
from edgerec_tools.studies.federated.harness import VIEWS, exposure, serve
from edgerec_tools.studies.federated.poisoning import RECOMMENDED, SPLIT, UNDEFENDED, Ground, defences, play
from edgerec_tools.studies.federated.tables import number, percent
from edgerec_tools.studies.federated.trade_offs import absent

SHARE = 0.1


@cache
def ground() -> Ground:
    return Ground.of(field_of(), 1)


def exposed(defence: str, attack: attacks.Attack, target: str = "cold") -> float:
    row = ground().targets[target]
    outcome = play(ground(), defences(ground().devices)[defence], attack, row, SHARE)
    return max(outcome.exposed[view][target] for view in VIEWS)


def lost(defence: str, attack: attacks.Attack) -> float:
    join = defences(ground().devices)[defence]
    return -poisoning.change(play(ground(), join, attack, -1, SHARE), play(ground(), join))


@pytest.mark.parametrize("attack", [attacks.promotion, attacks.scaling, attacks.sybils, attacks.replayed])
def test_what_is_loud_gets_into_every_list_where_nobody_checks_and_into_few_where_the_defence_stands(
    attack: attacks.Attack,
) -> None:
    assert exposed(UNDEFENDED, attack) > 0.5
    assert exposed(RECOMMENDED, attack) <= 0.05


@pytest.mark.parametrize("attack", [attacks.camouflage, attacks.without_knowledge])
def test_a_basket_that_looks_honest_says_no_more_than_one(attack: attacks.Attack) -> None:
    assert exposed(RECOMMENDED, attack) <= 0.05


def test_a_bound_on_the_length_alone_lets_a_target_through() -> None:
    assert exposed("mean", attacks.promotion) > 0.5 > exposed("bounded_mean", attacks.promotion)


def test_sybils_are_beyond_a_bound_per_device_but_not_beyond_the_limit_on_growth() -> None:
    assert exposed("bounded_mean", attacks.sybils) > 0.1
    assert exposed(RECOMMENDED, attacks.sybils) <= 0.05


def test_split_mode_holds_the_target_down_whatever_a_share_says() -> None:
    assert exposed(SPLIT, attacks.scaling) <= 0.05


@pytest.mark.parametrize("attack", [attacks.demotion, attacks.sabotage])
def test_what_takes_the_popular_away_bites_a_sum_and_not_the_defence(attack: attacks.Attack) -> None:
    assert lost(UNDEFENDED, attack) > 0.05
    assert lost(RECOMMENDED, attack) < 0.02


def test_flipped_labels_cost_little_of_a_bounded_sum() -> None:
    assert lost(RECOMMENDED, attacks.flipping) < 0.02


@pytest.mark.parametrize("name", ["median", "krum"])
def test_a_rule_that_follows_the_majority_forgets_what_few_devices_hold(name: str) -> None:
    rows = ground().rounds[0][0].rows
    some = Server(RoundSettings(aggregator=name, constants={"hostile": 6} if name == "krum" else {}, least_cohort=1))
    sums = some(Round(rows), np.zeros(N_ITEMS), 0)
    assert (sums > 0).sum() < (rows.sum(0) > 0).sum() / 4


def test_what_is_not_finite_poisons_a_sum_and_is_refused_by_the_engine() -> None:
    scene = scene_of(attacks.not_finite)
    rows = np.concatenate((ground().rounds[0][0].rows, attacks.not_finite(scene)))
    assert not np.isfinite(Unchecked()(Round(rows), np.zeros(N_ITEMS), 0)).all()
    found = aggregate(RoundSettings(), (Wire().spec(N_ITEMS),), rows)
    assert found.refused == {"not finite": scene.n}
    assert np.isfinite(found.sums(BLOCK)).all()


def test_a_delta_of_another_shape_is_refused_by_the_encoding_and_the_engine() -> None:
    bomb = Wire().spec(N_ITEMS * 2)
    payload = encode(Delta("ab" * 16, 1, {BLOCK: np.zeros(N_ITEMS * 2, np.float32)}), (bomb,))
    with pytest.raises(DeltaError):
        check_layout(parse(payload), (Wire().spec(N_ITEMS),))
    with pytest.raises(DeltaError):
        aggregate(RoundSettings(), (Wire().spec(N_ITEMS),), np.zeros((60, N_ITEMS * 2), np.float32))


def test_a_delta_that_a_key_sends_ten_times_counts_no_more_than_the_bound() -> None:
    scene = scene_of(attacks.replayed)
    once, often = attacks.promotion(scene), attacks.replayed(scene)
    keys = keys_of(attacks.replayed, len(often), scene.n)
    server = Server(RoundSettings(aggregator="mean", least_cohort=1))
    before = np.zeros(N_ITEMS)
    assert server(Round(often, keys), before, 0)[scene.target] <= once.sum()
    assert server(Round(often), before, 0)[scene.target] == pytest.approx(10 * once.sum())


@pytest.mark.parametrize("name", [*attacks.TARGETED, *attacks.UNTARGETED])
def test_attacks_repeat_and_stay_within_the_bound_unless_that_is_the_attack(name: str) -> None:
    attack = (attacks.TARGETED | attacks.UNTARGETED)[name]
    rows = attack(scene_of(attack))
    assert np.array_equal(rows, attack(scene_of(attack)), equal_nan=True)
    if attack not in (attacks.scaling, attacks.sabotage, attacks.not_finite):
        assert np.linalg.norm(rows, axis=1).max() <= Wire().bound * (1 + 1e-6)


def scene_of(attack: attacks.Attack) -> Scene:
    return Scene(7, ground().popularity, ground().targets["cold"], Wire().bound, np.random.default_rng(3))


@pytest.mark.parametrize(("honest_devices", "share", "expected"), [(95, 0.05, 5), (90, 0.1, 10), (100, 0.0, 0)])
def test_hostile_devices_are_a_share_of_all(honest_devices: int, share: float, expected: int) -> None:
    assert hostile(honest_devices, share) == expected


def test_every_aggregator_gives_a_round_under_every_attack() -> None:
    joins = {name: join for name, join in defences(ground().devices).items() if name != UNDEFENDED}
    for attack in (attacks.promotion, attacks.not_finite):
        for name, join in joins.items():
            if name == SPLIT and attack is attacks.not_finite:
                continue  # shares are whole numbers
            outcome = play(ground(), join, attack, 0, 0.05)
            assert all(np.isfinite(one).all() for one in outcome.ndcg.values()), name


counts = hnp.arrays(np.float64, 20, elements=st.floats(0, 1e6))
anything = hnp.arrays(np.float64, 20, elements=st.floats(-1e9, 1e9))


@example(np.full(20, 1e9), np.r_[5e-324, np.zeros(19)], 1000, 1.0)
@given(anything, counts, st.integers(1, 1000), st.sampled_from([0.0, 0.5, 1.0]))
def test_growth_stays_within_its_limits(sums: Float64, before: Float64, devices: int, least: float) -> None:
    growth = Growth(floor=0.02, most=1.0, least=least)
    found = growth.within(sums, before, devices)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (found <= np.maximum(0.02 * devices, 2 * before) * (1 + 1e-9)).all()


def test_growth_lets_pass_what_is_as_expected() -> None:
    before = np.array([40.0, 10.0, 0.0])
    assert np.allclose(Growth().within(before, before, 100), before)
    assert np.allclose(Growth().within(np.array([40.0, 10.0, 2.0]), before, 100), [40, 10, 2], rtol=0.05)
    assert Growth().within(np.array([40.0, 90.0, 90.0]), before, 100).tolist() == [40, 10, 2]
    assert Growth().within(np.array([0.0, 0.0, 1e9]), before, 100)[2] == 2
    assert Growth(least=0.5).within(np.array([-1e9, 10.0, 0.0]), before, 100)[0] == 10, "at least half of half"


@pytest.mark.parametrize("wrong", [{"floor": -0.1}, {"floor": 2.0}, {"least": 2.0}, {"most": float("inf")}])
def test_growth_refuses_limits_that_are_none(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Growth(**wrong)


def test_an_attacker_reads_a_plain_delta_and_learns_nothing_from_a_share() -> None:
    fleet = ground().fleet
    popularity = np.log1p(ground().popularity)
    devices = releases.pooled(fleet.rounds, 300, np.random.default_rng(0))
    plain = membership.best(releases.single(devices, Wire(), 0.0, 0), popularity)
    assert plain.f1 > 0.95
    assert plain.apart.low > 0.5
    share = membership.best(releases.share(devices, Wire(), 0), popularity)
    assert share.apart.value < 0.02


def test_a_larger_cohort_and_noise_tell_less() -> None:
    fleet = ground().fleet
    popularity = np.log1p(ground().popularity)
    devices = releases.pooled(fleet.rounds, 400, np.random.default_rng(0))
    told = [
        membership.best(releases.published(devices, Wire(), cohort, sigma, 0), popularity).apart.value
        for cohort, sigma in ((5, 0.0), (100, 0.0), (5, 8.0))
    ]
    assert told[0] > 0.1
    assert told[1] < told[0] / 3
    assert told[2] < told[0] / 3


def test_what_is_published_differs_by_the_two_deltas_alone() -> None:
    devices = releases.pooled(ground().fleet.rounds, 40, np.random.default_rng(0))
    seen = releases.published(devices, Wire(), 10, 0.0, 0)
    rows = sent(devices.items, Wire(), Chance(0))
    others = rows - (seen.value - seen.other)
    assert all(any(np.allclose(other, row) for row in rows) for other in others)


@pytest.mark.parametrize(
    ("named", "true", "expected"),
    [([1, 1, 0], [1, 0, 0], 2 / 3), ([0, 0, 0], [1, 0, 0], 0.0), ([1, 0, 0], [1, 0, 0], 1.0)],
)
def test_f1(named: list[int], true: list[int], expected: float) -> None:
    assert membership.f1(np.array([named], bool), np.array([true], bool)) == pytest.approx(expected)


def test_honest_deltas_keep_the_bound_after_rounding() -> None:
    for came in honest(ground().fleet, Wire(bound=1.5), 0):
        assert np.linalg.norm(came.rows, axis=1).max() <= 1.5 + 1e-6
    assert np.allclose(clipped(np.ones((1, 4)), 1.0), 0.5)


@pytest.mark.parametrize("most", [1, 2, 99])
def test_a_user_takes_part_in_no_more_rounds_than_the_budget_has(most: int) -> None:
    kept = private.within_budget(ground().fleet.rounds, most)
    times = np.unique(np.concatenate([one.user for one in kept]), return_counts=True)[1]
    assert times.max() <= most
    if most == 99:
        assert [len(one.user) for one in kept] == [len(one.user) for one in ground().fleet.rounds]


def test_noise_is_what_the_budget_asks_for_and_none_without_one() -> None:
    quiet = private.noisy_rounds(ground().fleet, private.Budget(float("inf"), 99, 4.0), 0)
    loud = private.noisy_rounds(ground().fleet, private.Budget(8.0, 99, 4.0), 0)
    assert {one.sigma for one in quiet} == {0.0}
    spread = np.concatenate([one.sums - other.sums for one, other in zip(loud, quiet, strict=True)]).std()
    assert spread == pytest.approx(loud[0].sigma, rel=0.1)


def test_the_filter_follows_what_is_certain_and_not_what_is_noise() -> None:
    recent = np.full(30, 5.0)
    rates = tracking.begun(recent, recent, tracking.Drift())
    seen = recent.copy()
    seen[0], seen[1:] = 20.0, 5.0 - 15.0 / 29
    sure = tracking.after(rates, seen, 0.0, tracking.Drift()).mean[0]
    unsure = tracking.after(rates, seen, 30.0, tracking.Drift()).mean[0]
    assert sure > 8 > 5.2 > unsure > 5


def test_deltas_that_are_late_come_once_and_those_that_are_lost_never() -> None:
    fleet = ground().fleet
    all_of = sum(len(one.rows) for one in absent(fleet, 0, 0.0, 0.0))
    late = sum(len(one.rows) for one in absent(fleet, 0, 0.0, 0.2))
    fewer = sum(len(one.rows) for one in absent(fleet, 0, 0.3, 0.0))
    assert all_of == sum(len(one.user) for one in fleet.rounds)
    assert 0.9 * all_of < late < all_of  # but for the last round's
    assert fewer == pytest.approx(0.7 * all_of, rel=0.1)


def test_exposure_is_the_share_of_lists_that_hold_the_item() -> None:
    view = ground().views["all"]
    lists = serve(view, [ground().fleet.frozen] * 6)
    late = view.week >= 1
    expected = np.mean([17 in one for one in lists.best[late].tolist()])
    assert exposure(view, lists, 17) == pytest.approx(expected)


def test_figures_are_printed_as_the_results_are() -> None:
    assert [number(0.11423), number(-0.0031), number(1.05, 2), number(10.0, 1)] == [".1142", "−.0031", "1.05", "10.0"]
    assert percent(-0.0213) == "−2.1 %"
