"""Setting a damaged store aside: cut off anywhere, disturbed by others, or failing, it loses nothing it can read."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import tiny_bundle
from conftest import Opener, same_state

import edgerec
from edgerec import doctor, recovery
from edgerec.errors import StoreBusy, StoreDamaged, StoreError
from edgerec.store import Database, MetaTable
from edgerec.store.database import DAMAGED
from edgerec.store.quarantine import Quarantine

N = 80
LATE = 20

LIVE_AND_DIE = """
import os, signal, sys
import edgerec
first, last = int(sys.argv[3]), int(sys.argv[4])
rec = edgerec.open(sys.argv[1], sys.argv[2], plugins=["edgerec_plugins.sgd"])
for n in range(first, last):
    rec.record(f"i{n % 60}", "click", event_id=f"event {n:03}", at=1.7e9 + n)
if sys.argv[5] == "close":
    rec.close()
else:
    rec.pause_learning()
    os.kill(os.getpid(), signal.SIGKILL)
"""

OPEN_AND_DIE = """
import os, signal, sys
from edgerec.store import quarantine
import edgerec
replace, number, left = os.replace, int(sys.argv[3]), [0]
def die(source, target):
    if "quarantine" not in str(target):
        return replace(source, target)
    left[0] += 1
    if (left[0], sys.argv[4]) == (number, "before"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if (left[0], sys.argv[4]) == (number, "after"):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = die
edgerec.open(sys.argv[1], sys.argv[2], plugins=["edgerec_plugins.sgd"])
"""


def run(script: str, *arguments: object) -> int:
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=False).returncode


def spoil(state: Path, event_id: str = "event 003") -> None:
    """Changes one event in the file; what the log holds stays as it is."""
    data = (state / "edgerec.db").read_bytes()
    assert event_id.encode() in data
    (state / "edgerec.db").write_bytes(data.replace(event_id.encode(), event_id.encode().upper()))


def ids(rec: edgerec.Recommender) -> set[str]:
    return {row.event_id for row in rec._device.events()}


def sound(rec: edgerec.Recommender) -> bool:
    snapshot = rec._device.snapshot()
    return same_state(snapshot.learned, snapshot.engine.replay(rec._device.events(), obey=True).learned)


@pytest.fixture
def spoilt(opener: Opener, tmp_path: Path, bundle_path: Path) -> Path:
    """A data directory with an event changed in the file, and newer ones in a log that nobody closed."""
    state = tmp_path / "state"
    assert run(LIVE_AND_DIE, bundle_path, state, 0, N, "close") == 0
    assert run(LIVE_AND_DIE, bundle_path, state, N, N + LATE, "die") == -signal.SIGKILL
    spoil(state)
    (state / DAMAGED).touch()  # as whoever finds it does; who opens a store without looking at it ends its log
    return state


ALL_BUT_ONE = {f"event {n:03}" for n in range(N + LATE) if n != 3}


@pytest.mark.parametrize(("number", "when"), [(1, "after"), (2, "after"), (3, "before"), (4, "before")])
def test_a_kill_between_two_moves_loses_nothing(
    opener: Opener, spoilt: Path, bundle_path: Path, number: int, when: str
) -> None:
    """The log, its index, the file, the report: in this order they come into quarantine."""
    assert run(OPEN_AND_DIE, bundle_path, spoilt, number, when) == -signal.SIGKILL
    rec = opener()
    assert ids(rec) == ALL_BUT_ONE
    assert rec.stats()["learning"]["paused"], "settings come back too"
    assert sound(rec)
    assert Quarantine(spoilt).waiting() == []


def test_a_second_kill_and_then_a_third_lose_nothing(opener: Opener, spoilt: Path, bundle_path: Path) -> None:
    for number, when in ((1, "after"), (1, "before"), (2, "before"), (1, "before")):
        assert run(OPEN_AND_DIE, bundle_path, spoilt, number, when) == -signal.SIGKILL
    assert ids(opener()) == ALL_BUT_ONE


def test_a_transaction_that_runs_is_waited_for(opener: Opener, spoilt: Path) -> None:
    writer = Database(spoilt / "edgerec.db")
    with writer.write() as connection:
        with pytest.raises(StoreBusy):
            Quarantine(spoilt).take(Database(spoilt / "edgerec.db", wait_s=0.05))
        MetaTable.set(connection, "word", "acknowledged")
    writer.close()
    with opener()._device.database.read() as connection:
        assert MetaTable.get(connection, "word") == "acknowledged"


def test_a_writer_that_waited_meanwhile_writes_to_the_new_file(spoilt: Path) -> None:
    writer = Database(spoilt / "edgerec.db")
    with writer.write():
        pass
    taking = Database(spoilt / "edgerec.db")
    begun = threading.Event()

    def write() -> None:
        begun.set()
        with writer.write() as connection:
            MetaTable.set(connection, "word", "acknowledged")

    thread = threading.Thread(target=write)
    with taking.write():  # as whoever moves it does
        thread.start()
        begun.wait()
        for path in spoilt.glob("edgerec.db*"):
            path.rename(path.with_name(f"moved {path.name}"))
    thread.join()
    with Database(spoilt / "edgerec.db").read() as connection:
        assert MetaTable.get(connection, "word") == "acknowledged"


def test_what_cannot_be_merged_now_comes_back_at_the_next_open(
    opener: Opener, spoilt: Path, monkeypatch: pytest.MonkeyPatch, bundle_path: Path
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise StoreBusy("another process held the store")

    monkeypatch.setattr("edgerec.merging.merge", busy)
    with opener() as rec:
        assert len(rec.recommend(5)) == 5
        assert ids(rec) == set()
        assert rec.record("i1", "click", event_id="new").status == "stored"
    with pytest.raises(StoreError, match="damaged store 1"):
        doctor.repair(spoilt, bundle_path)
    monkeypatch.undo()
    assert ids(opener()) == ALL_BUT_ONE | {"new"}


def test_retention_leaves_what_waits_to_be_recovered(
    opener: Opener, spoilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise StoreBusy("another process held the store")

    monkeypatch.setattr("edgerec.merging.merge", busy)
    with opener() as rec:
        rec.record("i1", "click", event_id="old", at=1.0)
    with opener(config={"retention": {"days": 3650}}) as rec:
        assert ids(rec) == set()
    monkeypatch.undo()
    assert ids(opener()) == ALL_BUT_ONE


@pytest.mark.parametrize("call", ["replace", "mkdir"])
def test_a_store_that_cannot_be_moved_is_a_store_error(
    opener: Opener, spoilt: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace" if call == "replace" else "pathlib.Path.mkdir", full)
    with pytest.raises(StoreError, match="No space left") as caught:
        Quarantine(spoilt).take(Database(spoilt / "edgerec.db"))
    assert caught.value.hint
    monkeypatch.undo()
    assert ids(opener()) == ALL_BUT_ONE


def test_forgetting_waits_for_a_recovery_that_runs(
    opener: Opener, spoilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what is just being read from the damaged store would come back after it."""
    merged = recovery._merged
    refused: list[type[Exception]] = []

    def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        with opener(config={"store": {"wait_s": 0.05}}) as other:
            try:
                other.forget()
            except StoreBusy as busy:
                refused.append(type(busy))
        return merged(*arguments)

    monkeypatch.setattr(recovery, "_merged", late)
    rec = opener()
    assert (refused, ids(rec)) == ([StoreBusy], ALL_BUT_ONE)
    rec.forget()
    assert ids(rec) == set()


DAMAGES = {
    "an overlay item's vector": "UPDATE items_overlay SET content = substr(content, 1, length(content) - 1) || x'00'",
    "an overlay item's attributes": "UPDATE items_overlay SET attributes = '['",
    "an overlay item's kind of attributes": "UPDATE items_overlay SET attributes = '[1]'",
    "an overlay item's popularity": "UPDATE items_overlay SET popularity = 'much'",
    "a bundle's version": "UPDATE bundles SET version = 'one' WHERE status = 'previous'",
    "the running bundle's path": "UPDATE bundles SET path = NULL WHERE status = 'current'",
    "a tombstone": "UPDATE tombstones SET digest = 'text'",
    "the tombstones' key": "UPDATE meta SET value = 'no hex' WHERE key = 'tombstone_key'",
    "the generation": "UPDATE meta SET value = x'ff' WHERE key = 'generation'",
    "a setting's text": "UPDATE meta SET value = CAST(x'ff' AS TEXT) WHERE key = 'overlay'",
    "an overlay item's text": "UPDATE items_overlay SET title = CAST(x'ff' AS TEXT)",
    "a bundle's text": "UPDATE bundles SET reason = CAST(x'ff' AS TEXT)",
    "a page's text": "UPDATE exposures SET scenario = CAST(x'ff' AS TEXT)",
    "a column of an index": "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql ="
    " replace(sql, '\"event_id\"', '\"eventid\"') WHERE type = 'index' AND tbl_name = 'events';"
    " PRAGMA writable_schema = OFF",
    "what failed": "INSERT INTO meta (key, value) VALUES ('plugin_failures', '{')",
    "a state": "UPDATE states SET blob = x'00'",
}


@pytest.mark.parametrize("what", [*DAMAGES])
def test_damage_beside_the_events_never_keeps_an_app_out(opener: Opener, tmp_path: Path, what: str) -> None:
    """It opens, or does so at the second time, and from then on all works; no event is lost."""
    state = tmp_path / "state"
    with opener() as rec:
        rec.install(tiny_bundle(tmp_path / "second.edgerec", version=2))
        rec.update_catalogue([{"item": "new", "title": "New", "vector": [0.5] * 8}])
        page = rec.recommend(3)
        for n in range(10):
            rec.record(f"i{n}", "click", event_id=f"event {n}", recommendation_id=page.id)
        rec.forget("i9")
    with sqlite3.connect(state / "edgerec.db") as connection:
        connection.executescript(DAMAGES[what])
    connection.close()
    tried: list[Callable[[edgerec.Recommender], object]] = [
        lambda rec: rec.recommend(5),
        lambda rec: rec.record("i1", "click", event_id="later"),
        lambda rec: rec.forget("i2"),
        lambda rec: rec.export_profile(tmp_path / "p") and rec.import_profile(tmp_path / "p"),
        lambda rec: doctor.examine(state),
    ]
    for attempt in range(2):
        for deed in tried:
            try:
                with opener() as rec:
                    deed(rec)
            except StoreDamaged:
                assert attempt == 0
                assert (state / DAMAGED).exists(), "the next open looks at all of it"
    with opener() as rec:
        assert ids(rec) == {f"event {n}" for n in range(9) if n != 2} | {"later"}
        assert sound(rec)
