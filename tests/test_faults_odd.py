"""Odd clocks, odd numbers, odd texts: refused by name, or kept and harmless; never a NaN on a page or in a state."""

from __future__ import annotations

import itertools
import resource
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from bundles import bundle_files, manifest_of, npy, write_zip
from conftest import DAY, START, Clock, Opener, same_state

import edgerec
from edgerec.errors import DataError, EdgeRecError, InvalidEvent, UnknownEventKind


def sound(rec: edgerec.Recommender) -> bool:
    """Finite scores on a full page, finite states, and what was learned equals a replay."""
    snapshot = rec._device.snapshot()
    arrays = [*snapshot.learned.updater.values(), snapshot.learned.progress.weights, snapshot.learned.progress.sums]
    replayed = snapshot.engine.replay(rec._device.events(), obey=True).learned
    scores = [r.score for r in rec.recommend(10, seen="show")]
    return (
        len(scores) == 10
        and bool(np.isfinite(scores).all())
        and all(np.isfinite(array).all() for array in arrays)
        and same_state(snapshot.learned, replayed)
    )


# -- clocks ------------------------------------------------------------------------------------------------------


CLOCKS = {
    "backwards": -400 * DAY,
    "a hundred years on": 36_525 * DAY,
    "the year 2100": datetime(2100, 1, 1, tzinfo=UTC).timestamp() - START,
    "before 1970": -START - 1.0,
    "the year 9000": datetime(9000, 1, 1, tzinfo=UTC).timestamp() - START,
}


@pytest.mark.parametrize("jump", CLOCKS.values(), ids=CLOCKS)
def test_a_clock_that_jumps_loses_nothing(opener: Opener, clock: Clock, jump: float) -> None:
    """The order of arrival is the order of learning, ages stay above 0, and the next start is in the same state."""
    rec = opener()
    for n in range(6):
        if n == 3:
            clock.now += jump
        page = rec.recommend(5)
        rec.record(f"i{n}", "click", recommendation_id=page.id)
        clock.now += 1
    clock.now -= jump
    rec.record("i9", "purchase")
    assert [row.item for row in rec._device.events()] == ["i0", "i1", "i2", "i3", "i4", "i5", "i9"]
    assert sound(rec)
    before = [(r.item, r.score) for r in rec.recommend(10)]
    rec.close()
    assert [(r.item, r.score) for r in opener().recommend(10)] == before


def test_the_hour_that_comes_twice_is_two_hours(opener: Opener) -> None:
    """Aware datetimes are moments: the two half past two of a night in October are an hour apart."""
    rec = opener()
    berlin = ZoneInfo("Europe/Berlin")
    summer = datetime(2023, 10, 29, 2, 30, tzinfo=berlin)
    winter = summer.replace(fold=1)
    rec.record("i1", "click", at=summer)
    rec.record("i2", "click", at=winter)
    rec.record("i3", "click", at=summer.astimezone(timezone(timedelta(hours=-9))))
    first, second, third = [row.at for row in rec._device.events()]
    assert second - first == 3_600_000_000
    assert third == first


def test_ties_to_the_microsecond_keep_the_order_of_arrival(opener: Opener) -> None:
    rec = opener()
    for n in (5, 3, 9, 1):
        rec.record(f"i{n}", "click", at=START)
    assert rec._device.snapshot().history.rows.tolist() == [5, 3, 9, 1]
    rec.close()
    assert opener()._device.snapshot().history.rows.tolist() == [5, 3, 9, 1]


def test_events_out_of_order_and_twice_are_counted_once_each(opener: Opener) -> None:
    """Whatever the order in which they come in, and however often, the history is in order of time."""
    rec = opener()
    for n in [4, 1, 3, 1, 0, 4, 2]:
        rec.record(f"i{n}", "click", at=START - 100 + n, event_id=f"e{n}")
    assert rec._device.snapshot().history.rows.tolist() == [0, 1, 2, 3, 4]
    assert sound(rec)
    rec.close()
    again = opener()
    assert again._device.snapshot().history.rows.tolist() == [0, 1, 2, 3, 4]
    assert sound(again)


# -- numbers -----------------------------------------------------------------------------------------------------

DENORMAL = 5e-324
HUGE = [1e38, -1e38, 1e308, DENORMAL, -DENORMAL, -0.0, 2**63, -(2**70), True and 7]
REFUSED: list[dict[str, Any]] = [
    {name: value} for name in ("value", "at") for value in (float("nan"), float("inf"), -float("inf"), 10**400, "1", [])
] + [{"at": 1e18}, {"at": -1e18}, {"context": {"x": float("nan")}}, {"context": {"x": float("inf")}}]


def test_huge_and_tiny_values_are_kept_and_harmless(opener: Opener) -> None:
    rec = opener()
    for n, value in enumerate(HUGE):
        rec.record(f"i{n}", "purchase", value=value, context={"x": value})
    assert [row.value for row in rec._device.events()] == [float(value) for value in HUGE]
    assert sound(rec)
    rec.close()
    assert sound(opener())


@pytest.mark.parametrize("wrong", REFUSED, ids=str)
def test_what_is_no_number_is_refused_by_name(rec: edgerec.Recommender, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent, match=next(iter(wrong))):
        rec.record("i1", "click", **wrong)
    assert rec._device.events() == []


@pytest.mark.parametrize("value", [1e38, 3e38, 1e-42, -1e38])
def test_vectors_at_the_edge_of_float32_give_finite_pages(opener: Opener, tmp_path: Path, value: float) -> None:
    """Products overflow: such a source is left out of the page, and nothing of it reaches a state."""
    files = bundle_files(60, 8)
    vectors = np.full((60, 8), np.float32(value))
    vectors[::2] *= np.float32(-1)
    files["items/vectors.npy"] = npy(vectors)
    bundle = write_zip(tmp_path / "edge.edgerec", files, manifest_of(files, 60, 8))
    if abs(value) > 1:  # what it computes for made-up histories is not finite
        with pytest.raises(EdgeRecError, match=r"encoder|vectors"):
            opener(bundle)
        return
    rec = opener(bundle)
    for n in range(6):
        rec.record(f"i{n}", "click")
    assert sound(rec)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39, "x", None])
def test_a_new_items_vector_that_is_no_numbers_is_refused(rec: edgerec.Recommender, value: Any) -> None:
    before = [(r.item, r.score) for r in rec.recommend(10)]
    with pytest.raises(DataError, match="vector"):
        rec.update_catalogue([{"item": "new", "title": "New", "vector": [value] * 8}])
    assert [(r.item, r.score) for r in rec.recommend(10)] == before


# -- texts -------------------------------------------------------------------------------------------------------

TEXTS = [
    "'; DROP TABLE events; --",
    '"; DELETE FROM events WHERE "1"="1',
    "a\x00b",
    "\u202egnp.exe",
    "e\u0301",
    "\u00e9",
    "👩‍👩‍👧‍👦",
    "\ufeffbom",
    "ﷺ" * 85,
    "i1 ",
    " i1",
    "I1",
    "%s%n{0}",
    "x" * 256,
]


def test_odd_texts_are_names_like_any_other(opener: Opener) -> None:
    """As items, ids and groups: stored to the byte, told apart from one another, found again."""
    rec = opener()
    for text in TEXTS:
        assert rec.record(text, "click", event_id=text, group=text, context={text: text}).status == "unknown_item"
    rec.record("i1", "click", event_id="i1")
    assert [row.event_id for row in rec._device.events()] == [*TEXTS, "i1"]
    rec.close()
    again = opener()
    assert [row.item for row in again._device.events()] == [*TEXTS, "i1"]
    assert {again.record(text, "click", event_id=text, group=text, context={text: text}).status for text in TEXTS} == {
        "duplicate"
    }
    assert again.forget(TEXTS[0]).events == 1
    assert len(again._device.events()) == len(TEXTS)
    assert sound(again)


@pytest.mark.parametrize("field", ["item", "group", "event_id", "recommendation_id", "kind"])
@pytest.mark.parametrize("value", ["", "\ud800", "x" * 257, b"bytes", 7, ["i1"]])
def test_what_is_no_name_is_refused(rec: edgerec.Recommender, field: str, value: Any) -> None:
    with pytest.raises((InvalidEvent, UnknownEventKind), match=field):
        rec.record(**{"item": "i1", "kind": "click", field: value})
    assert rec._device.events() == []


def test_a_field_of_a_gigabyte_is_refused_before_it_is_copied(rec: edgerec.Recommender) -> None:
    """The text is one gigabyte; refusing it, as an id or within a context, takes no more than 50 MB beside it."""
    rec.record("i1", "click")
    huge = "x" * (1 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for wrong in ({"event_id": huge}, {"group": huge}, {"kind": huge}, {"context": {"a": [huge]}}, {"context": huge}):
        with pytest.raises(EdgeRecError) as caught:
            rec.record(**{"item": "i1", "kind": "click", **wrong})  # type: ignore[arg-type]
        assert len(str(caught.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10
    assert len(rec._device.events()) == 1


def test_a_million_kinds_of_event_leave_nothing_behind(rec: edgerec.Recommender) -> None:
    """Each is refused, quickly, and nothing grows: neither the store nor what is kept in memory."""
    for number in itertools.islice(itertools.count(), 20_000):
        with pytest.raises(UnknownEventKind):
            rec.record("i1", f"kind {number}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(20_000, 60_000):
        with pytest.raises(UnknownEventKind):
            rec.record("i1", f"kind {number}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 5 << 10
    assert rec._device.events() == []


def test_a_manifest_with_a_million_kinds_is_refused(opener: Opener, tmp_path: Path) -> None:
    files = bundle_files(60, 8)
    kinds = {f"kind{n}": {"weight": 1.0} for n in range(1_000_000)}
    bundle = write_zip(tmp_path / "kinds.edgerec", files, manifest_of(files, 60, 8, event_kinds=kinds))
    with pytest.raises(EdgeRecError, match=r"manifest\.json"):
        opener(bundle)
