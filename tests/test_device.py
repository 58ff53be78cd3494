"""The device: a snapshot that is always of one moment, whatever cuts in, and pages that wait for a disk with space."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bundles import tiny_bundle
from conftest import Opener, same_state

import edgerec
from edgerec import device
from edgerec.errors import StoreError
from edgerec.store import StateTable


def sound(rec: edgerec.Recommender) -> bool:
    """Whether state and history are those of the stored events."""
    snapshot = rec._device.snapshot()
    replayed = snapshot.engine.replay(rec._device.events(), obey=True)
    return same_state(snapshot.learned, replayed.learned) and len(snapshot.history.rows) == len(replayed.history.rows)


def test_an_app_that_is_interrupted_right_after_a_commit_goes_on_from_it(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    rec = opener()
    rec.record("i1", "click")

    def interrupt(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(rec._device, "adopt", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rec.record("i3", "click", event_id="cut off")
    rec.record("i4", "click")
    assert sound(rec)
    assert len(rec._device.events()) == 3
    rec.close()
    assert sound(opener())


def test_what_is_read_is_of_one_moment(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    rec, other = opener(), opener()
    other.record("i1", "click")
    load = StateTable.load

    def late(*arguments: Any) -> object:
        monkeypatch.undo()
        other.record("i2", "click")
        return load(*arguments)

    monkeypatch.setattr(device.StateTable, "load", late)
    snapshot = rec._device.snapshot()
    assert (len(snapshot.history.rows), snapshot.learned.steps) == (1, 1)
    snapshot = rec._device.snapshot()
    assert (len(snapshot.history.rows), snapshot.learned.steps) == (2, 2)


def test_pages_whose_commit_failed_are_written_with_the_next_one(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    rec = opener()
    page = rec.recommend(5)
    write, depth = rec._device.database.write, [0]

    @contextmanager
    def failing() -> Iterator[sqlite3.Connection]:
        with write() as connection:
            depth[0] += 1
            yield connection
            depth[0] -= 1
            if not depth[0]:
                raise StoreError("the disk is full")

    monkeypatch.setattr(rec._device.database, "write", failing)
    with pytest.raises(StoreError):
        rec._device.flush()
    monkeypatch.undo()
    rec.record(page[0].item, "click", recommendation_id=page.id)
    assert rec.stats()["exposures"] == 5
    assert rec._device.events()[-1].scenario == "default"
    assert sound(rec)


def test_closing_raises_nothing_when_the_bundle_of_another_process_is_gone(opener: Opener, tmp_path: Path) -> None:
    rec, other = opener(), opener()
    rec.recommend(5)
    other.install(tiny_bundle(tmp_path / "second.edgerec", version=2))
    shutil.rmtree(other.bundle.path)
    rec.close()


@pytest.mark.parametrize("what", ["duplicate", "forgotten", "quarantined", "unknown", "paused", "basket"])
def test_a_process_reads_what_is_new_after_whatever_it_stored_itself(opener: Opener, what: str) -> None:
    """`_last`, up to which a process knows the store: an event is read neither twice nor not at all."""
    rec, other = opener(), opener()
    rec.record("i1", "click", event_id="first")
    other.record("i2", "click")
    assert len(rec._device.snapshot().history.rows) == 2
    if what == "duplicate":
        rec.record("i1", "click", event_id="first")
    elif what == "forgotten":
        rec.forget("i1")
        rec.record("i1", "click", event_id="first")
    elif what == "quarantined":
        rec._device.snapshot().engine.set_aside = lambda *_: "for no reason"  # type: ignore[method-assign, assignment]
        rec._device.snapshot().engine.filters = [object()]  # type: ignore[list-item]
        rec.record("i5", "click")
    elif what == "unknown":
        rec.record("no such item", "click")
    elif what == "paused":
        rec.pause_learning()
        rec.record("i6", "click")
    else:
        rec.record_many([edgerec.Event(f"i{n}", "click", group="g") for n in range(5)])
    other.record("i3", "click")
    other.record("i4", "click", at=1.0)
    if what != "quarantined":  # which a process without the filter knows as such too
        assert sound(rec)
    fresh = opener()._device.snapshot().history
    assert rec._device.snapshot().history.rows.tolist() == fresh.rows.tolist()
    assert rec._device.snapshot().history.at.tolist() == fresh.at.tolist()
