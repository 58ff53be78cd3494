"""Scenarios in TOML: what each setting does to a page, what is refused, and that docs/rules.md can be believed."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import bundle_files, catalogue_lines, manifest_of, write_folder
from conftest import Opener
from hypothesis import given
from hypothesis import strategies as st

import edgerec
from edgerec.bundle.catalogue import Catalogue, Labels, Numbers, Tags
from edgerec.bundle.manifest import Scenario
from edgerec.config import load_config
from edgerec.errors import ConfigError, UnknownAttribute, UnknownScenario
from edgerec.serving.caps import capped, why_capped
from edgerec.serving.expressions import compile_filter
from edgerec.serving.scenarios import (
    ScenarioRules,
    adjustment_parts,
    adjustments,
    all_rules,
    check_rules,
    rules_of,
)

DAY = 86400.0
NOW = 1_767_225_600.0  # 2026-01-01
PAGE = (Path(__file__).parent.parent / "docs/rules.md").read_text("utf-8")
BUNDLES = {"default": Scenario("hide", {"taste": 1.0}), "reorder": Scenario("show", {"taste": 1.0})}
ATTRIBUTES: list[dict[str, Any]] = [
    {"price": 3, "category": "toys", "tags": ["gift", "red"], "added": NOW, "released": "2026-01-01", "new": True},
    {"price": 30, "category": "toys", "tags": ["gift"], "added": NOW - 10 * DAY, "released": "2025-12-22"},
    {"price": 8, "category": "mugs", "tags": ["red"], "added": NOW + DAY, "released": "2026-01-02T00:00:00Z"},
    {"price": 9, "category": "toys", "tags": [], "released": "soon", "new": True},
    {},
    {"price": 1, "category": "mugs", "tags": ["blue"], "added": NOW - 20 * DAY, "released": "2025-12-12", "new": False},
]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    import json

    n = len(ATTRIBUTES)
    lines = [{"item": f"i{r}", "row": r, "title": f"Item {r}", "attributes": a} for r, a in enumerate(ATTRIBUTES)]
    files = bundle_files(n, per_item=2)
    files["catalogue.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    folder = tmp_path_factory.mktemp("shop")
    return edgerec.load_bundle(write_folder(folder / "b", files, manifest_of(files, n, 8)), folder / "cache").catalogue


def rules(**settings: Any) -> ScenarioRules:
    return rules_of({"home": settings}, BUNDLES, "home")


def test_a_scenario_takes_what_it_does_not_say_from_the_bundles() -> None:
    assert (rules().based_on, rules().seen) == ("default", "hide")
    assert (rules(based_on="reorder").based_on, rules(based_on="reorder").seen) == ("reorder", "show")
    assert rules(based_on="reorder", seen="hide").seen == "hide"
    own = rules_of({"reorder": {"rerankers": ["diversity"]}}, BUNDLES, "reorder")
    assert (own.based_on, own.seen, own.rerankers) == ("reorder", "show", ("diversity",))
    bare = rules_of({}, BUNDLES, "reorder")
    assert (bare.based_on, bare.seen, bare.where, bare.boosts, bare.rerankers) == ("reorder", "show", None, (), ())


def test_an_unknown_scenario_is_told_of_all_there_are() -> None:
    with pytest.raises(UnknownScenario, match=r"default, reorder.*home, cart"):
        rules_of({"home": {}, "cart": {}}, BUNDLES, "hmoe")
    assert list(all_rules({"home": {}}, BUNDLES)) == ["default", "reorder", "home"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"wehre": "new"}, "home.wehre.*based_on, seen, where, boosts, caps, fresh, rerankers, exclude"),
        ({"based_on": "cart"}, "home.based_on.*default, reorder"),
        ({"seen": "never"}, "home.seen.*hide, show"),
        ({"where": "price <"}, "home.where.*syntax"),
        ({"where": "price + 1 > 2"}, "home.where: arithmetic"),
        ({"where": 5}, "home.where = 5.*expression"),
        ({"where": {}}, "home.where: no condition"),
        ({"boosts": {"where": "new", "by": 1}}, "home.boosts.*list"),
        ({"boosts": ["new"]}, r"home.boosts\[0\].*where, by"),
        ({"boosts": [{"by": 1}]}, r"home.boosts\[0\].where is missing"),
        ({"boosts": [{"where": "new"}]}, r"home.boosts\[0\].by is missing"),
        ({"boosts": [{"where": "new", "by": True}]}, r"home.boosts\[0\].by = True.*number"),
        ({"boosts": [{"where": "new", "by": float("nan")}]}, r"home.boosts\[0\].by = nan"),
        ({"boosts": [{"where": "new", "by": 1e39}]}, r"home.boosts\[0\].by = 1e\+39.*from -1e\+06 to 1e\+06"),
        ({"fresh": {"attribute": "added", "by": -1e39, "half_life_days": 1}}, "home.fresh.by = -1e"),
        ({"fresh": {"attribute": "added", "by": 1, "half_life_days": 1e-320}}, "half_life_days = 1e-320.*from 1e-06"),
        ({"fresh": {"attribute": "added", "by": 1, "half_life_days": 1e308}}, "half_life_days = 1e.308.*to 1e.06"),
        ({"based_on": "home"}, "home.based_on = 'home'.*default, reorder"),
        ({"caps": {"category": 0}}, "home.caps.*whole numbers from 1"),
        ({"caps": {"category": 1.5}}, "home.caps.*whole numbers from 1"),
        ({"caps": ["category"]}, "home.caps"),
        ({"fresh": {"attribute": "added", "by": 1.0}}, "home.fresh.half_life_days is missing"),
        ({"fresh": {"attribute": "added", "by": 1.0, "half_life_days": 0}}, "home.fresh.half_life_days = 0.*above 0"),
        ({"fresh": {"attribute": "added", "by": 1.0, "days": 3}}, "home.fresh.days.*attribute, half_life_days, by"),
        ({"fresh": "added"}, "home.fresh"),
        ({"rerankers": "diversity"}, "home.rerankers.*list"),
        ({"rerankers": ["diversity", "diversity"]}, "home.rerankers.*once"),
        ({"exclude": [3]}, "home.exclude.*list of texts"),
    ],
)
def test_what_is_wrong_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        all_rules({"home": settings}, BUNDLES)


def test_where_takes_an_expression_or_a_table(catalogue: Catalogue) -> None:
    for where in ("price <= 9 and new", {"price_max": 9, "new": True}):
        found = rules(where=where).where
        assert found is not None
        assert found.mask(catalogue).nonzero()[0].tolist() == [0, 3]


def test_boosts_add_up(catalogue: Catalogue) -> None:
    boosts = [{"where": "new", "by": 0.5}, {"where": {"price_max": 3}, "by": -2}, {"where": "new", "by": 0.25}]
    boosted = rules(boosts=boosts)
    np.testing.assert_allclose(adjustments(boosted, catalogue, NOW), [-1.25, 0, 0, 0.75, 0, -2.0])
    assert adjustments(rules(), catalogue, NOW) is None


def test_the_largest_numbers_make_scores_that_are_finite(catalogue: Catalogue) -> None:
    for half_life in (1e-6, 1e6):
        largest = rules(
            boosts=[{"where": "new", "by": 1e6}] * 3,
            fresh={"attribute": "released", "half_life_days": half_life, "by": -1e6},
        )
        for now in (-1e12, 0.0, NOW, 1e12):
            assert np.isfinite(adjustments(largest, catalogue, now)).all()


@pytest.mark.parametrize("attribute", ["added", "released"])
def test_freshness_halves_with_age(catalogue: Catalogue, attribute: str) -> None:
    """An item of the future counts as new; one without a date, or with a text that is none, gets nothing."""
    fresh = rules(fresh={"attribute": attribute, "half_life_days": 10, "by": 0.8})
    np.testing.assert_allclose(adjustments(fresh, catalogue, NOW), [0.8, 0.4, 0.8, 0, 0, 0.2], rtol=1e-5)
    later = adjustments(fresh, catalogue, NOW + 10 * DAY)
    np.testing.assert_allclose(later, [0.4, 0.2, 0.8 * 0.5**0.9, 0, 0, 0.1], rtol=1e-5)
    assert adjustments(fresh, catalogue, 0.0).tolist() == [np.float32(0.8) if t else 0 for t in (1, 1, 1, 0, 0, 1)]


def test_the_parts_add_up_to_the_adjustment(catalogue: Catalogue) -> None:
    both = rules(
        boosts=[{"where": "new", "by": 0.5}, {"where": "price < 5", "by": 0.25}, {"where": "new", "by": 1}],
        fresh={"attribute": "added", "half_life_days": 3, "by": 1},
    )
    rows = np.array([5, 0, 4, 1])
    parts = adjustment_parts(both, catalogue, NOW, rows)
    assert list(parts) == ["boost new", "boost price < 5", "fresh added"]
    total = adjustments(both, catalogue, NOW)
    assert total is not None
    np.testing.assert_allclose(sum(parts.values()), total[rows], rtol=1e-6)


def test_rules_are_checked_against_a_catalogue(catalogue: Catalogue) -> None:
    fine: dict[str, Any] = {
        "where": 'price < 5 and category >= "a" and ("gift" in tags or not new)',
        "boosts": [{"where": {"price_min": 3}, "by": 1}],
        "caps": {"category": 1, "tags": 2, "price": 1, "new": 1},
        "fresh": {"attribute": "released", "half_life_days": 1, "by": 1},
    }
    check_rules(rules(**fine), catalogue)
    for wrong in (
        {"where": "colour == 'red'"},
        {"where": "price == 'red'"},
        {"boosts": [{"where": "tags", "by": 1}]},
        {"caps": {"brand": 2}},
        {"fresh": {"attribute": "tags", "half_life_days": 1, "by": 1}},
    ):
        with pytest.raises(ConfigError, match="scenario 'home'"):
            check_rules(rules(**wrong), catalogue)


class Columns:
    """A catalogue of given columns."""

    def __init__(self, **columns: Any) -> None:
        self.columns = columns

    @property
    def attribute_names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def attribute(self, name: str) -> Any:
        return self.columns.get(name)


def test_caps_count_every_value_and_leave_what_has_none(catalogue: Catalogue) -> None:
    order = np.array([1, 0, 3, 4, 2, 5])

    def kept(caps: dict[str, int], n: int) -> tuple[list[int], str | None]:
        places, reason = capped(order, catalogue, caps, n)
        return order[places].tolist(), reason

    assert kept({}, 3) == ([1, 0, 3], None)
    assert kept({"category": 2}, 4) == ([1, 0, 4, 2], None)
    assert kept({"category": 1}, 4)[0] == [1, 4, 2]
    assert kept({"tags": 1}, 9)[0] == [1, 3, 4, 2, 5]
    assert kept({"new": 1, "category": 2}, 9)[0] == [1, 0, 4, 2, 5]
    assert kept({"category": 9}, 9) == ([1, 0, 3, 4, 2, 5], None)
    assert "only 3 of 6 items keep within the caps (1 per category)" in str(kept({"category": 1}, 4)[1])
    with pytest.raises(UnknownAttribute, match="brand"):
        kept({"brand": 1}, 2)


@given(
    st.lists(st.tuples(st.integers(-1, 3), st.sets(st.integers(0, 3))), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 12),
)
def test_caps_equal_going_through_the_list_one_by_one(
    items: list[tuple[int, set[int]]], of_label: int, of_tag: int, n: int
) -> None:
    labels, tags = zip(*items, strict=True)
    indptr = np.array([0, *itertools.accumulate(len(tag) for tag in tags)], np.int64)
    flat = np.array([code for tag in tags for code in sorted(tag)], np.int32)
    columns: Any = Columns(
        label=Labels(np.array(labels, np.int32), tuple("abcd")),
        number=Numbers(np.array([np.nan if label < 0 else label / 2 for label in labels])),
        tag=Tags(indptr, flat, tuple("abcd")),
    )
    rows = np.random.default_rng(len(items)).permutation(len(items))
    for name in ("label", "number"):
        caps = {name: of_label, "tag": of_tag}
        counts: dict[Any, int] = {}
        expected: list[int] = []
        for place, row in enumerate(rows.tolist()):
            values = [("label", labels[row])] * (labels[row] >= 0) + [("tag", tag) for tag in tags[row]]
            full = [v for v in values if counts.get(v, 0) >= (of_label if v[0] == "label" else of_tag)]
            if len(expected) < n and not full:
                expected.append(place)
                counts.update({value: counts.get(value, 0) + 1 for value in values})
            elif full:
                assert why_capped(rows, columns, caps, row) is not None
        places, reason = capped(rows, columns, caps, n)
        assert places.tolist() == expected
        assert (reason is None) == (len(expected) == min(n, len(rows)))


def test_why_an_item_is_capped_names_the_value(catalogue: Catalogue) -> None:
    order = np.array([1, 0, 3, 4, 2, 5])
    assert why_capped(order, catalogue, {"category": 2}, 3) == "capped: 2 with category 'toys' stand before it"
    assert why_capped(order, catalogue, {"category": 2}, 0) is None
    assert why_capped(order, catalogue, {"category": 1}, 4) is None


SHOP = {
    "scenarios": {
        "home": {"where": "price <= 9", "caps": {"colour": 2}, "exclude": ["i1"]},
        "cart": {"based_on": "reorder", "boosts": [{"where": "new", "by": 50}]},
        "reds": {"where": 'colour == "red"', "caps": {"tags": 1}},
    }
}


def attributes_of(rec: edgerec.Recommender, page: edgerec.Page) -> list[dict[str, Any]]:
    by_item = {line["item"]: line["attributes"] for line in catalogue_lines(60)}
    return [by_item[one.item] for one in page]


def test_a_page_keeps_the_scenarios_rules(opener: Opener) -> None:
    rec = opener(config=SHOP)
    page = rec.recommend(6, scenario="home")
    found = attributes_of(rec, page)
    assert (len(page), page.reason) == (6, None)
    assert all(item["price"] <= 9 for item in found)
    assert all(sum(item["colour"] == colour for item in found) == 2 for colour in ("red", "green", "blue"))
    assert "i1" not in [one.item for one in rec.recommend(60, scenario="home")]
    assert all(item["new"] for item in attributes_of(rec, rec.recommend(20, scenario="cart")))


def test_a_request_adds_to_the_scenarios_rules(opener: Opener) -> None:
    rec = opener(config=SHOP)
    page = rec.recommend(3, scenario="home", where="new and price > 2", exclude={"i2"})
    assert len(page) == 3
    assert all(item["new"] and 2 < item["price"] <= 9 for item in attributes_of(rec, page))
    assert {one.item for one in page}.isdisjoint({"i1", "i2"})


def test_ten_are_found_wherever_they_stand_else_the_reason_is_given(opener: Opener) -> None:
    """The caps look as far down as it takes: most of the best here share a colour that is full."""
    rec = opener(config={"scenarios": {"varied": {"caps": {"price": 1}}, **SHOP["scenarios"]}})
    page = rec.recommend(10, scenario="varied")
    assert (len(page), page.reason) == (10, None)
    prices = [item["price"] for item in attributes_of(rec, page) if item]
    assert len(prices) == len(set(prices))
    short = rec.recommend(10, scenario="reds")
    assert len(short) < 10
    assert "1 per tags" in str(short.reason)


def test_a_price_that_changes_on_the_device_is_filtered_by(opener: Opener) -> None:
    rec = opener(config=SHOP)
    first = rec.recommend(1, scenario="home")[0].item
    rec.update_catalogue([{"item": first, "attributes": {"price": 99.0}}])
    assert first not in [one.item for one in rec.recommend(60, scenario="home")]
    assert first in [one.item for one in rec.recommend(60, where="price > 90")]


def test_a_scenario_that_cannot_be_read_fails_at_open(opener: Opener) -> None:
    with pytest.raises(ConfigError, match=r"scenarios\.home\.where"):
        opener(config={"scenarios": {"home": {"where": "price <"}}})


def test_settings_of_plugins_and_rerankers_are_read_and_checked() -> None:
    config = load_config(
        {"plugins": {"budget_ms": 40, "max_failures": 5, "mine": {"a": 1}}, "rerankers": {"diversity": {"strength": 1}}}
    )
    assert (config.plugin_budget_ms, config.plugin_failures) == (40, 5)
    assert (config.plugins, config.rerankers) == ({"mine": {"a": 1}}, {"diversity": {"strength": 1}})
    for key, value in [("budget_ms", 0), ("budget_ms", float("inf")), ("max_failures", 0), ("max_failures", 1.5)]:
        with pytest.raises(ConfigError, match=f"plugins.{key}"):
            load_config({"plugins": {key: value}})
    for section in ("scenarios", "rerankers"):
        with pytest.raises(ConfigError, match=rf"{section}.home.*\[scenarios.NAME\]"):
            load_config({section: {"home": 5}})


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", blocks("toml"))
def test_every_configuration_of_the_page_is_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "edgerec.toml").write_text(text, "utf-8")
    config = load_config(tmp_path / "edgerec.toml")
    assert set(all_rules(config.scenarios, BUNDLES)) >= {"default", *config.scenarios}


def test_every_expression_of_the_page_can_be_read() -> None:
    found = [line for block in blocks("text") for line in block.splitlines()]
    assert len(found) > 8
    for text in found:
        compile_filter(text)


def test_every_setting_is_on_the_page_with_an_example() -> None:
    used: set[str] = set()
    for text in blocks("toml"):
        used |= {line.split("=")[0].strip() for line in text.splitlines() if "=" in line}
    assert used >= {"based_on", "seen", "where", "boosts", "caps", "fresh", "rerankers", "exclude"}
