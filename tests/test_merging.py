"""Merging: whatever was done on three devices, and whoever imports from whom first, all end in one state."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import START, Clock, Opener, same_state
from hypothesis import given, settings
from hypothesis import strategies as st

import edgerec
from edgerec import merging
from edgerec.errors import EventConflict
from edgerec.store import EventRow, TombstoneTable
from edgerec.store.tables import tombstone
from edgerec.types import Event
from edgerec_plugins import foldin, quality, sgd

OPTIONS: dict[str, Any] = {
    "plugins": [sgd, foldin, quality],
    "config": {"learning": {"exposed_negatives": 4}, "filters": {"quality": {"repeat_s": 30.0}}},
}
ITEMS = ("i1", "i2", "i3", "i4", "unknown")
N_DEVICES = 3

DEVICES = st.integers(0, N_DEVICES - 1)
EVENTS = st.builds(
    Event,
    st.sampled_from(ITEMS),
    st.sampled_from(("click", "purchase")),
    st.sampled_from((None, -0.0, 2.5)),
    st.sampled_from((0.0, 1.0, 2.0, 40.0, -1e6, 1e8)).map(lambda late: START + late),
    st.sampled_from((None, None, "g1", "g2")),
)
DEEDS = st.one_of(
    st.tuples(st.just("record"), DEVICES, st.lists(EVENTS, min_size=1, max_size=3)),
    st.tuples(st.just("record"), DEVICES, st.lists(EVENTS, min_size=1, max_size=3)),
    st.tuples(st.just("choose"), DEVICES, st.integers(0, 4)),
    st.tuples(st.just("repeat"), DEVICES, st.integers(0, 50)),
    st.tuples(st.just("wait"), st.just(0), st.sampled_from((1.0, 100.0, 1e5, -50.0))),
    st.tuples(st.just("pause"), DEVICES, st.booleans()),
    st.tuples(st.just("forget"), DEVICES, st.sampled_from((*ITEMS, "i0", None))),
    st.tuples(st.just("import"), DEVICES, DEVICES),
)
Deed = tuple[str, int, Any]
ORDERS = st.permutations(range(N_DEVICES))


class Devices:
    """Three devices of one user, and what all of them were told."""

    def __init__(self, folder: Path, bundle: Path, stack: ExitStack) -> None:
        self.folder, self.bundle, self.clock = folder, bundle, Clock()
        self.recs = [stack.enter_context(self.open(n)) for n in range(N_DEVICES)]
        self.told: list[Event] = []
        self.numbers = count()

    def open(self, n: int) -> edgerec.Recommender:
        return edgerec.open(self.bundle, self.folder / f"{n}", clock=self.clock, seed=n, **OPTIONS)

    def do(self, deed: str, n: int, what: Any) -> None:
        rec = self.recs[n]
        if deed == "record":
            self._record(rec, what)
        elif deed == "choose":
            page = rec.recommend(5)
            self._record(rec, [Event(page[what].item, "click", at=self.clock.now, recommendation_id=page.id)])
        elif deed == "repeat" and self.told:
            rec.record_many([self.told[what % len(self.told)]])
        elif deed == "wait":
            self.clock.now += what
        elif deed == "pause":
            (rec.pause_learning if what else rec.resume_learning)()
        elif deed == "forget":
            rec.forget(what)
        elif deed == "import":
            self.recs[what].export_profile(self.folder / "some")
            rec.import_profile(self.folder / "some")

    def _record(self, rec: edgerec.Recommender, events: list[Event]) -> None:
        named = [
            Event(
                **{name: getattr(one, name) for name in Event.__match_args__ if name != "event_id"},
                event_id=f"e{next(self.numbers)}",
            )
            for one in events
        ]
        self.told += named
        rec.record_many(named)

    def exchange(self, orders: list[list[int]]) -> None:
        """Each imports what each had, itself included, in an order of its own."""
        for n, rec in enumerate(self.recs):
            rec.export_profile(self.folder / f"{n}.profile")
        for rec, order in zip(self.recs, orders, strict=True):
            for n in order:
                rec.import_profile(self.folder / f"{n}.profile")


def rows(rec: edgerec.Recommender) -> list[tuple[Any, ...]]:
    return [row.values() for row in rec._device.events()]


def check_sound(rec: edgerec.Recommender) -> None:
    """State and history are those of the stored events."""
    snapshot = rec._device.snapshot()
    replayed = snapshot.engine.replay(rec._device.events(), obey=True)
    assert same_state(snapshot.learned, replayed.learned)
    for name in ("rows", "at", "kinds", "seen", "disliked"):
        np.testing.assert_array_equal(getattr(snapshot.history, name), getattr(replayed.history, name))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(DEEDS, min_size=3, max_size=14), st.lists(ORDERS, min_size=N_DEVICES, max_size=N_DEVICES))
def test_all_devices_end_in_one_state(
    tmp_path_factory: pytest.TempPathFactory, bundle_path: Path, deeds: list[Deed], orders: list[list[int]]
) -> None:
    with ExitStack() as stack:
        devices = Devices(tmp_path_factory.mktemp("devices"), bundle_path, stack)
        for deed in deeds:
            devices.do(*deed)
            check_sound(devices.recs[deed[1]])
        devices.exchange(orders)
        first, *others = devices.recs
        for rec in devices.recs:
            check_sound(rec)
        for rec in others:
            assert rows(rec) == rows(first)
            assert same_state(rec._device.snapshot().learned, first._device.snapshot().learned)
        again = stack.enter_context(devices.open(0))
        check_sound(again)
        assert same_state(again._device.snapshot().learned, first._device.snapshot().learned)


def two_lives(opener: Opener, tmp_path: Path) -> tuple[edgerec.Recommender, edgerec.Recommender]:
    here, there = opener(data_dir=tmp_path / "here"), opener(data_dir=tmp_path / "there")
    for n in range(30):
        rec = here if n % 3 else there
        rec.record(f"i{n * 7 % 60}", "purchase" if n % 2 else "click", at=START + n * 60, value=n / 2)
        if n % 5 == 0:
            rec.record(f"i{n % 9}", "click", at=START + n * 60, group=f"basket {n}")
    here.pause_learning()
    here.record("i59", "click", at=START + 5)
    here.resume_learning()
    return here, there


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_two_devices_that_merge_are_in_the_same_state(opener: Opener, tmp_path: Path, passphrase: str | None) -> None:
    here, there = two_lives(opener, tmp_path)
    rare = here._device.events()[0].item
    here.forget(rare)
    here.export_profile(tmp_path / "a", passphrase=passphrase)
    there.export_profile(tmp_path / "b", passphrase=passphrase)
    before = len(there._device.events())
    merged = there.import_profile(tmp_path / "a", passphrase=passphrase)
    assert merged.added > 10
    here.import_profile(tmp_path / "b", passphrase=passphrase)
    left, right = here._device, there._device
    assert [row.values() for row in left.events()] == [row.values() for row in right.events()]
    assert len(right.events()) == before + merged.added
    assert same_state(left.snapshot().learned, right.snapshot().learned)
    assert [r.score for r in here.recommend(30)] == [r.score for r in there.recommend(30)]
    assert here.import_profile(tmp_path / "a", passphrase=passphrase).added == 0, "again changes nothing"
    there.close()
    again = opener(data_dir=tmp_path / "there")
    assert same_state(again._device.snapshot().learned, left.snapshot().learned)


def test_one_id_with_two_events_is_refused_and_nothing_changes(opener: Opener, tmp_path: Path) -> None:
    here, there = opener(data_dir=tmp_path / "here"), opener(data_dir=tmp_path / "there")
    here.record("i1", "click", event_id="same", at=START)
    there.record("i2", "click", event_id="same", at=START)
    here.export_profile(tmp_path / "a")
    before = [row.values() for row in there._device.events()]
    with pytest.raises(EventConflict):
        there.import_profile(tmp_path / "a")
    assert [row.values() for row in there._device.events()] == before


def arrived(event_id: str, **changes: Any) -> EventRow:
    values = {"item": "a", "kind": "click", "value": None, "at": 1, "group": None, "recommendation_id": None}
    return EventRow(0, event_id, **{**values, "context": None, "received": 5, **changes})


def test_of_one_event_that_came_in_twice_the_first_stays_without_what_either_forgot() -> None:
    early = arrived("e", received=4, scenario="home", verdict="paused", passed='["x", "y", "z"]')
    late = arrived("e", received=9, verdict="learned", passed='["z", "w", "y"]')
    both = merging.joined(early, late)
    assert both == merging.joined(late, early)
    assert (both.received, both.scenario, both.verdict, both.passed) == (4, "home", "paused", '["y", "z"]')
    assert merging.joined(early, arrived("e")).passed is None


def test_what_is_forgotten_elsewhere_while_an_import_begins_stays_forgotten(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = opener(), opener()
    one.record("i1", "click", event_id="gone")
    one.export_profile(tmp_path / "before")
    relearn = merging.relearn

    def late(*arguments: Any, **named: Any) -> object:
        monkeypatch.undo()
        other.forget()
        return relearn(*arguments, **named)

    monkeypatch.setattr(merging, "relearn", late)
    assert one.import_profile(tmp_path / "before").forgotten == 1
    assert rows(one) == []


def test_an_import_of_tombstones_leaves_no_plugins_state(opener: Opener, tmp_path: Path) -> None:
    here, there = opener(data_dir=tmp_path / "here"), opener(data_dir=tmp_path / "there")
    here.record("i1", "click", event_id="e")
    here.export_profile(tmp_path / "first")
    there.import_profile(tmp_path / "first")
    with there._device.database.write() as connection:
        connection.execute("UPDATE states SET plugin = 'absent' WHERE plugin = 'sgd'")
    here.forget()
    here.export_profile(tmp_path / "second")
    there.import_profile(tmp_path / "second")
    with there._device.database.read() as connection:
        assert connection.execute("SELECT 1 FROM states WHERE plugin = 'absent'").fetchone() is None


def test_many_tombstones_of_many_devices_are_found(opener: Opener) -> None:
    keys = [bytes([n]) * 16 for n in range(5)]
    with opener()._device.database.write() as connection:
        TombstoneTable.add(connection, [(key, tombstone(key, f"{n} of {key!r}")) for key in keys for n in range(9)])
        asked = [f"{n} of {key!r}" for key in keys for n in range(10)]
        assert TombstoneTable.forgotten(connection, asked) == {one for one in asked if not one.startswith("9")}
