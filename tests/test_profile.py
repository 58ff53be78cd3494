"""What the device says it believes of its user: against the events, the catalogue and what serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import catalogue_lines, tiny_bundle
from conftest import DAY, START, Opener

import edgerec
from edgerec import Event, console
from edgerec.profile import ProfileSummary, attribute_lifts, profile

KINDS = {
    "click": {"weight": 1.0, "consumes": False},
    "purchase": {"weight": 2.0, "consumes": True},
    "dislike": {"weight": -1.0, "consumes": False},
}
ATTRIBUTES: list[dict[str, Any]] = [line["attributes"] for line in catalogue_lines(60)]
RED = [row for row in range(60) if ATTRIBUTES[row].get("colour") == "red"]


@pytest.fixture
def device(opener: Opener, tmp_path: Path) -> Any:
    return opener(tiny_bundle(tmp_path / "b.edgerec", event_kinds=KINDS))


def believed(rec: edgerec.Recommender) -> ProfileSummary:
    return profile(rec._device)


def test_a_new_user_is_one_of_whom_nothing_is_known(device: edgerec.Recommender) -> None:
    found = believed(device)
    assert (found.events, found.first, found.last, found.steps, found.vector_norm) == ({}, None, None, 0, 0.0)
    assert (found.attributes, found.habits, found.closest) == ((), (), ())
    assert set(found.scenarios["default"].weights) == {"taste", "neighbours", "popular"}
    assert found.scenarios["default"].weights["popular"] == pytest.approx(1.2)  # the cold start's boost of 1 included
    assert "Nothing is known yet" in console.profile(console.plain(found))


def test_it_counts_what_happened(device: edgerec.Recommender) -> None:
    events = [Event("i1", "click", at=START - 3 * DAY), Event("i2", "click", at=START - 2 * DAY)]
    events += [Event("i1", "purchase", at=START - DAY), Event("i9", "dislike", at=START - 5 * DAY)]
    events += [Event("i2", "dislike", at=START), Event("unheard of", "click", at=START - 9 * DAY)]
    device.record_many(events)
    found = believed(device)
    assert found.events == {"click": 3, "dislike": 2, "purchase": 1}
    assert (found.first, found.last) == (START - 9 * DAY, START)
    assert (found.liked, found.seen, found.disliked) == (1, 1, 2)


def test_its_attributes_are_those_the_user_has_more_often_than_the_catalogue(device: edgerec.Recommender) -> None:
    device.record_many([Event(f"i{row}", "click", at=START - n * DAY) for n, row in enumerate(RED[:5])])
    device.record(f"i{RED[5]}", "dislike")  # red too, but speaks against it
    found = believed(device).attributes
    by_value = {(one.attribute, one.value): one for one in found}
    red = by_value["colour", "red"]
    assert (red.items, red.share) == (5, 1.0)
    assert red.catalogue_share == pytest.approx(len(RED) / 60)
    assert red.lift == pytest.approx(60 / len(RED))
    assert {one.attribute for one in found} <= {"colour", "new", "price", "tags"}
    assert all(one.lift > 1 and one.items >= 2 for one in found)
    told = [one.share * np.log(one.lift) for one in found]
    assert told == sorted(told, reverse=True)


def test_numbers_come_in_the_catalogues_quarters(device: edgerec.Recommender) -> None:
    catalogue = device._device.snapshot().engine.bundle.catalogue
    cheap = np.array([row for row in range(60) if ATTRIBUTES[row].get("price", 99) <= 2.5])
    prices = sorted(item["price"] for item in ATTRIBUTES if item)
    quarter = prices[int(0.25 * (len(prices) - 1))]
    ((price,),) = [[one for one in attribute_lifts(catalogue, cheap) if one.attribute == "price"]]
    assert price.value == f"up to {quarter:g}"
    assert price.catalogue_share == pytest.approx(sum(p <= quarter for p in prices) / 60)
    assert price.share == 1.0


def test_a_tag_named_twice_counts_once(tmp_path: Path) -> None:
    from edgerec.bundle.catalogue import Tags

    class Catalogue:
        attribute_names = ("tags",)
        n_items = 4

        def attribute(self, name: str) -> Tags:
            return Tags(np.array([0, 2, 3, 4, 4]), np.array([0, 0, 0, 1], np.int32), ("a", "b"))

    found = attribute_lifts(Catalogue(), np.array([0, 1]))  # type: ignore[arg-type]
    assert [(one.value, one.items, one.share, one.catalogue_share) for one in found] == [("a", 2, 1.0, 0.5)]


def test_habits_are_what_was_consumed_in_several_groups(device: edgerec.Recommender) -> None:
    weeks = [
        Event(f"i{item}", "purchase", at=START - week * 7 * DAY, group=f"g{week}")
        for week in range(4)
        for item in (7, 7)
    ]
    weeks += [Event("i8", "purchase", at=START - day * DAY) for day in (1, 4)]
    weeks += [Event("i9", "click", at=START - day * DAY) for day in (1, 4)]
    weeks += [Event("i11", "purchase", at=START, group="once"), Event("i11", "purchase", at=START, group="once")]
    device.record_many(weeks)
    found = believed(device).habits
    assert [(one.item, one.title, one.times, one.interval_days) for one in found] == [
        ("i7", "Item 7", 4, 7.0),
        ("i8", "Item 8", 2, 3.0),
    ]  # fmt: skip


def test_it_says_what_serves_and_where_the_vector_points(opener: Opener, tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "b.edgerec", event_kinds=KINDS)
    rec = opener(path, config={"learning": {"guard": False}})
    rec.record_many([Event(f"i{row}", "purchase", at=START - DAY * (20 - n)) for n, row in enumerate(RED * 2)])
    found = believed(rec)
    snapshot = rec._device.snapshot()
    default = found.scenarios["default"]
    assert (default.blend_trusted, default.user_vector_trusted) == (True, True)
    weights = snapshot.engine.mix(snapshot.situation, snapshot.learned, "default").weights
    assert dict(default.weights) == {
        n: w for n, w in zip(snapshot.engine.scorer.names, weights.tolist(), strict=True) if w > 0
    }
    u = snapshot.learned.updater["u"]
    scores = snapshot.engine.bundle.model.vectors @ u
    assert (found.updater, found.steps) == ("sgd", snapshot.learned.steps)
    assert found.vector_norm == pytest.approx(float(np.linalg.norm(u)))
    assert [one.item for one in found.closest] == [f"i{row}" for row in np.argsort(-scores)[:5]]
    assert rec._device.snapshot().engine.learner.guarded is False


def test_without_an_updater_there_is_no_vector(opener: Opener) -> None:
    rec = opener(config={"learning": {"updater": "none"}})
    rec.record("i1")
    found = believed(rec)
    assert (found.updater, found.vector_norm, found.closest) == (None, 0.0, ())
    assert "Learns by no updater" in console.profile(console.plain(found))


def test_words_and_json_say_the_same(device: edgerec.Recommender) -> None:
    device.record_many([Event(f"i{row}", "purchase", at=START - n * DAY) for n, row in enumerate([*RED[:4], RED[0]])])
    plain = json.loads(json.dumps(console.plain(believed(device))))
    words = console.profile(plain)
    assert "5 purchase" in words
    assert "4 liked, 4 consumed, 0 disliked" in words
    assert "colour red: 100% of the items liked, 27% of the catalogue (4 items, 3.8 times as often)." in words
    assert f"Comes back to Item {RED[0]}: 2 times, every 4 days." in words
    assert "Scenario reorder ranks by" in words
    assert f"Learns by sgd: {plain['steps']} steps" in words
    assert plain["closest"][0]["title"] in words
