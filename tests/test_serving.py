"""Serving: exact top-k, the four sources against their definitions, rules, the blend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundles import LENGTH, tiny_bundle
from hypothesis import given
from hypothesis import strategies as st

import edgerec
from edgerec.bundle.manifest import Manifest
from edgerec.errors import RequestError, UnknownAttribute
from edgerec.history import Happening, History
from edgerec.isolation import Isolation
from edgerec.serving import rules
from edgerec.serving.blend import cold_start_boost, starting_weights
from edgerec.serving.pipeline import Mix, blended
from edgerec.serving.scorer import Scorer
from edgerec.serving.sources import Habit, Neighbours, Popular, Taste
from edgerec.serving.where import condition, filter_of
from edgerec.topk import top_k
from edgerec.types import Model, Profile, Request, SourceScores

DAY = 86400.0
REQUEST = Request("default", "hide", 0.0)
SIZES = st.sampled_from([1, 7, 4095, 4096, 5000, 12345])


@given(SIZES, st.integers(1, 120), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
def test_top_k_equals_a_stable_sort(n: int, k: int, seed: int, blocked: float, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal(n).astype(np.float32)
    if ties:
        scores = np.round(scores)
    scores[rng.random(n) < blocked] = -np.inf
    expected = np.argsort(-scores, kind="stable")[:k]
    np.testing.assert_array_equal(top_k(scores, k), expected[scores[expected] > -np.inf])


@pytest.fixture
def bundle(bundle_path: Path, tmp_path: Path) -> edgerec.Bundle:
    return edgerec.load_bundle(bundle_path, tmp_path)


def profile_of(manifest: Manifest, happenings: list[Happening], **changes: object) -> Profile:
    zero = np.zeros(manifest.dim, np.float32)
    values = {"query": zero, "user_vector": zero, **changes}
    return History.empty(manifest).extended(happenings).profile(**values)  # type: ignore[arg-type]


def test_taste_is_the_dot_product_with_query_and_user_vector(bundle: edgerec.Bundle) -> None:
    rng = np.random.default_rng(1)
    query, u = rng.standard_normal((2, bundle.manifest.dim)).astype(np.float32)
    scores = Taste().score(REQUEST, profile_of(bundle.manifest, [], query=query, user_vector=u), bundle.model)
    expected = bundle.model.vectors @ (query + u) + bundle.model.bias
    np.testing.assert_allclose(scores.values, expected, rtol=1e-5)
    assert (scores.mean, scores.std) == pytest.approx((expected.mean(), expected.std()), rel=1e-5)


def test_taste_without_a_history_is_silent(bundle: edgerec.Bundle) -> None:
    assert not Taste().score(REQUEST, profile_of(bundle.manifest, []), bundle.model).standardised(60).any()


def test_neighbours_sum_each_item_once_by_its_newest_age(bundle: edgerec.Bundle) -> None:
    csr = bundle.neighbours
    source = Neighbours(
        csr.indptr, csr.ids, csr.weights, {"half_life_days": 10, "short_share": 0.25, "short_half_life_days": 1}
    )
    profile = profile_of(
        bundle.manifest, [(3, "click", 0.0, None), (5, "click", 10 * DAY, None), (3, "click", 20 * DAY, None)]
    )
    dense = np.zeros((60, 60))
    for item in range(60):
        span = slice(csr.indptr[item], csr.indptr[item + 1])
        dense[item, csr.ids[span]] = csr.weights[span]
    expected = dense[3] + dense[5] * (0.75 * 0.5 + 0.25 * 0.5**10)
    np.testing.assert_allclose(source.score(REQUEST, profile, bundle.model).values, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("constants", "weights"),
    [
        ({"half_life_events": 1}, {5: 0.25, 3: 0.5, 8: 1.0}),
        ({"last": 2}, {3: 1.0, 8: 1.0}),
        ({"half_life_events": 2, "last": 1}, {8: 1.0}),
        ({"half_life_events": 1, "half_life_days": 10}, {5: 0.25 * 0.5, 3: 0.5, 8: 1.0}),
    ],
)
def test_neighbours_may_count_distinct_items_from_the_newest(
    bundle: edgerec.Bundle, constants: dict[str, float], weights: dict[int, float]
) -> None:
    csr = bundle.neighbours
    settings = {"half_life_days": 1e9, **constants}
    source = Neighbours(csr.indptr, csr.ids, csr.weights, settings)
    events = [(3, 0.0), (5, 10.0), (3, 20.0), (8, 20.0), (8, 20.0)]
    profile = profile_of(bundle.manifest, [(row, "click", day * DAY, None) for row, day in events])
    expected = np.zeros(60)
    for item, weight in weights.items():
        span = slice(csr.indptr[item], csr.indptr[item + 1])
        expected[csr.ids[span]] += weight * csr.weights[span]
    np.testing.assert_allclose(source.score(REQUEST, profile, bundle.model).values, expected, rtol=1e-5)
    nothing = source.score(REQUEST, profile_of(bundle.manifest, []), bundle.model)
    assert not nothing.values.any()


def test_neighbours_without_history_or_links_are_zero(bundle: edgerec.Bundle) -> None:
    csr = bundle.neighbours
    source = Neighbours(csr.indptr, csr.ids, csr.weights, {})
    assert not source.score(REQUEST, profile_of(bundle.manifest, []), bundle.model).values.any()
    bare = Neighbours(np.zeros(61, np.int32), np.empty(0, np.int32), np.empty(0, np.float32), {})
    profile = profile_of(bundle.manifest, [(3, "click", 0.0, None)])
    assert not bare.score(REQUEST, profile, bundle.model).values.any()


def test_habit_counts_an_item_once_per_group_and_only_what_consumes(bundle: edgerec.Bundle) -> None:
    profile = profile_of(
        bundle.manifest,
        [
            (7, "purchase", 0.0, "a"),
            (7, "purchase", 0.0, "a"),
            (7, "purchase", 60 * DAY, "b"),
            (8, "click", 60 * DAY, None),
            (9, "purchase", 60 * DAY, None),
            (9, "purchase", 60 * DAY, None),
        ],
    )
    scores = Habit({"half_life_days": 60}).score(REQUEST, profile, bundle.model)
    assert scores.rows is not None
    assert dict(zip(scores.rows.tolist(), scores.values.tolist(), strict=True)) == {7: 1.5, 9: 2.0}


def test_ages_count_back_from_the_newest_event(bundle: edgerec.Bundle) -> None:
    early = [(3, "click", 0.0, None), (5, "click", 9 * DAY, None)]
    late = [(row, kind, at + 400 * DAY, group) for row, kind, at, group in early]
    csr = bundle.neighbours
    source = Neighbours(csr.indptr, csr.ids, csr.weights, {})
    first, second = (source.score(REQUEST, profile_of(bundle.manifest, h), bundle.model).values for h in (early, late))
    np.testing.assert_array_equal(first, second)


@given(st.lists(st.tuples(st.integers(0, 29), st.floats(-5, 5, width=32)), max_size=20, unique_by=lambda pair: pair[0]))
def test_sparse_statistics_equal_dense_ones(pairs: list[tuple[int, float]]) -> None:
    rows = np.array([row for row, _ in pairs], np.int32)
    values = np.array([value for _, value in pairs], np.float32)
    dense = np.zeros(30, np.float32)
    dense[rows] = values
    sparse, full = SourceScores.sparse(rows, values, 30), SourceScores.dense(dense)
    assert (sparse.mean, sparse.std) == pytest.approx((full.mean, full.std), abs=1e-4)
    if full.std > 1e-3:
        np.testing.assert_allclose(sparse.standardised(30), full.standardised(30), atol=2e-3)


def test_popular_is_the_prior() -> None:
    model = Model(np.zeros((3, 2), np.float32), np.zeros(3, np.float32), np.array([3, 1, 2], np.float32))
    zero = np.zeros(2, np.float32)
    empty = np.empty(0)
    profile = Profile(
        empty.astype(np.int32),
        empty,
        empty.astype(np.int64),
        empty.astype(np.int64),
        empty.astype(np.bool_),
        zero,
        zero,
    )
    z = Popular(model).score(REQUEST, profile, model).standardised(3)
    np.testing.assert_allclose(z, (model.popularity - 2) / np.std([3, 1, 2]), rtol=1e-6)


def test_popularity_counts_more_while_little_is_known() -> None:
    settings = {"boost": 2.0, "half_events": 4.0}
    assert [cold_start_boost(settings, n) for n in (0, 4, 8)] == [2.0, 1.0, 0.5]
    assert cold_start_boost({}, 0) == 0.0


def test_starting_weights_follow_the_names() -> None:
    weights = starting_weights(["taste", "habit", "x"], {"taste": 1, "habit": 2}, disabled=["habit"])
    np.testing.assert_array_equal(weights, [1, 0, 0])


def test_late_events_are_sorted_in_by_time(bundle: edgerec.Bundle) -> None:
    history = History.empty(bundle.manifest).extended([(1, "click", 5.0, None), (2, "click", 9.0, None)])
    history = history.extended([(3, "click", 7.0, None)])
    assert history.rows.tolist() == [1, 3, 2]
    assert history.at.tolist() == [5.0, 7.0, 9.0]


def test_history_until_hides_later_events_from_sources_but_not_from_the_seen_rule(bundle: edgerec.Bundle) -> None:
    history = History.empty(bundle.manifest, until=6.0)
    history = history.extended([(1, "purchase", 5.0, None), (2, "purchase", 9.0, None)])
    assert history.rows.tolist() == [1]
    assert np.flatnonzero(history.seen).tolist() == [1, 2]


def test_clicks_do_not_count_as_seen(bundle: edgerec.Bundle) -> None:
    assert not History.empty(bundle.manifest).extended([(1, "click", 5.0, None)]).seen.any()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("price_max", 2.5, lambda row: 0.5 + row % 17 <= 2.5),
        ("price_min", 10, lambda row: 0.5 + row % 17 >= 10),
        ("price", 3.5, lambda row: 0.5 + row % 17 == 3.5),
        ("colour", "red", lambda row: row % 3 == 0),
        ("colour", ["red", "blue"], lambda row: row % 3 != 1),
        ("new", True, lambda row: row % 2 == 0),
        ("tags", "t1", lambda row: row % 4 == 1),
    ],
)
def test_where_takes_the_items_that_meet_it(bundle: edgerec.Bundle, key: str, value: object, expected: object) -> None:
    mask = condition(bundle.catalogue, key, value)
    wanted = [row for row in range(60) if row % 5 and expected(row)]  # type: ignore[operator]
    assert np.flatnonzero(mask).tolist() == wanted


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("size", 3, UnknownAttribute),
        ("size_max", 3, UnknownAttribute),
        ("price_max", "cheap", RequestError),
        ("price_max", float("nan"), RequestError),
        ("colour_max", 3, RequestError),
        ("colour", 3, RequestError),
        ("new", "yes", RequestError),
    ],
)
def test_a_condition_that_makes_no_sense_is_named(
    bundle: edgerec.Bundle, key: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=key.partition("_")[0]):
        condition(bundle.catalogue, key, value)


def test_conditions_join_and_name_themselves(bundle: edgerec.Bundle) -> None:
    catalogue, nobody = bundle.catalogue, History.empty(bundle.manifest)
    within = filter_of("new")
    found = rules.eligibility(catalogue, nobody, seen="show", where={"price_max": 3, "colour": "red"}, within=within)
    assert found.reasons == ("where price_max", "where colour", "where new")
    expected = ~(filter_of("new", {"price_max": 3}, 'colour == "red"').mask(catalogue))
    assert found.blocked is not None
    np.testing.assert_array_equal(found.blocked, expected)
    for row in range(60):
        reason = rules.why_blocked(catalogue, nobody, row, seen="show", where="price <= 3", within=within)
        item = catalogue.attributes(row)
        cheap = "price" in item and item["price"] <= 3  # type: ignore[operator]
        assert reason == ("where price <= 3" if not cheap else None if item["new"] else "where new")


@pytest.mark.parametrize("where", ["", 5, ["price <= 5"], {5: 5}])
def test_where_is_a_mapping_or_an_expression(bundle: edgerec.Bundle, where: object) -> None:
    with pytest.raises(RequestError):
        rules.eligibility(bundle.catalogue, History.empty(bundle.manifest), seen="show", where=where)  # type: ignore[arg-type]


def test_disliked_items_are_never_served(tmp_path: Path) -> None:
    kinds = {"click": {"weight": 1.0}, "purchase": {"weight": 1.0, "consumes": True}, "dislike": {"weight": -1.0}}
    path = tiny_bundle(tmp_path / "b.edgerec", event_kinds=kinds)
    with edgerec.open(path, tmp_path / "s", plugins=["edgerec_plugins.sgd"]) as rec:
        worst = rec.recommend(1)[0].item
        rec.record(worst, "dislike")
        for scenario in ("default", "reorder"):
            assert worst not in [r.item for r in rec.recommend(60, scenario=scenario)]
        assert rec.explain(worst).filtered == "disliked"


def test_a_skipped_item_counts_against_its_like_but_may_be_served(tmp_path: Path) -> None:
    kinds = {"click": {"weight": 1.0}, "skip": {"weight": -0.3, "hides": False}, "impression": {"weight": 0.0}}
    path = tiny_bundle(tmp_path / "b.edgerec", event_kinds=kinds, history={"length": LENGTH, "kinds": ["click"]})
    with edgerec.open(path, tmp_path / "s", plugins=["edgerec_plugins.sgd"]) as rec:
        item = rec.recommend(1)[0].item
        rec.record(item, "impression")
        assert not rec._device.snapshot().learned.updater["u"].any(), "what was merely shown teaches nothing"
        assert rec.record(item, "skip").learned
        u = rec._device.snapshot().learned.updater["u"]
        vectors = rec._device.snapshot().engine.bundle.model.vectors
        assert u @ vectors[int(item[1:])] < 0
        assert item in [r.item for r in rec.recommend(60)]


@pytest.mark.parametrize("times", [(3, 1, 2), (1, 2, 3), (3, 2, 1, 0), (2, 2, 1, 2)])
def test_a_group_in_any_order_enters_an_empty_history_by_time(bundle: edgerec.Bundle, times: tuple[int, ...]) -> None:
    happenings: list[Happening] = [(row, "purchase", DAY * at, "g") for row, at in enumerate(times)]
    empty = History.empty(bundle.manifest)
    together, one_by_one = empty.extended(happenings), empty
    for happening in happenings:
        one_by_one = one_by_one.extended([happening])
    in_time = sorted(range(len(times)), key=lambda row: times[row])
    for history in (together, one_by_one):
        assert history.rows.tolist() == in_time
        assert history.at.tolist() == [DAY * times[row] for row in in_time]
        assert history.seen.nonzero()[0].tolist() == list(range(len(times)))
    assert len(set(together.groups.tolist())) == 1


def test_scores_far_from_zero_do_not_drown_the_others(bundle: edgerec.Bundle) -> None:
    """A source may count from any origin: a year, a price, a number of seconds."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal(60).astype(np.float32)

    class Shifted:
        name = "shifted"

        def __init__(self, by: float) -> None:
            self.by = np.float32(by)

        def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
            return SourceScores.dense(values * 64 + self.by)

    profile = profile_of(
        bundle.manifest, [(3, "click", 0.0, None)], query=rng.standard_normal(bundle.manifest.dim).astype(np.float32)
    )
    ranked = []
    for by in (0.0, 1e6):
        scorer = Scorer(bundle.model, [Taste(), Popular(bundle.model), Shifted(by)], {}, watch=Isolation())
        table = scorer.table(profile, REQUEST)
        mix = Mix(np.array([1.0, 0.1, 1e-2]), False)
        ranked.append(np.argsort(-blended(table, mix), kind="stable").tolist())
        np.testing.assert_allclose(table.z(np.arange(60))[2], (values - values.mean()) / values.std(), atol=1e-2)
    assert ranked[0][:20] == ranked[1][:20]


def test_a_user_vector_has_a_row_of_its_own(bundle: edgerec.Bundle) -> None:
    rng = np.random.default_rng(4)
    query, u = rng.standard_normal((2, bundle.manifest.dim)).astype(np.float32)
    profile = profile_of(bundle.manifest, [(3, "click", 0.0, None)], query=query, user_vector=u)
    table = Scorer(bundle.model, [Taste(), Popular(bundle.model)], {}, watch=Isolation()).table(profile, REQUEST)
    rows = np.arange(bundle.model.n_items)
    for personal, q in ((False, query), (True, query + u)):
        raw = bundle.model.vectors @ q + bundle.model.bias
        expected = (raw - raw.mean()) / raw.std()
        np.testing.assert_allclose(table.z(rows, personal=personal)[0], expected, atol=1e-4)
        found = blended(table, Mix(np.array([2.0, 0.0]), personal))
        np.testing.assert_allclose(found - found.mean(), 2 * expected, atol=1e-4)
