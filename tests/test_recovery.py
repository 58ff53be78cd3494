"""Damage to the store is found, the file is set aside, and what it holds comes back; serving never stops."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import START, Opener, same_state

import edgerec
from edgerec.errors import StoreDamaged
from edgerec.store import Database, EventRow, EventTable
from edgerec.store.salvage import salvage

PAGE = 4096
SEED = 20260201
N = 120


def payloads(rows: list[EventRow]) -> dict[str, tuple[object, ...]]:
    return {row.event_id: row.payload() for row in rows}


@pytest.fixture
def lived(opener: Opener, tmp_path: Path) -> dict[str, tuple[object, ...]]:
    """A closed store of N events in `state`, some with contexts of more than a page; their payloads by id."""
    rec = opener()
    rng = random.Random(SEED)
    for n in range(N):
        page = rec.recommend(3)
        rec.record(
            f"i{n * 7 % 60}",
            "purchase" if n % 2 else "click",
            value=rng.choice([None, 1.0, 2.5, -0.0]),
            at=START + n,
            group=f"g{n // 3}" if n % 5 == 0 else None,
            event_id=f"event {n} ü",
            context={"text": "x" * rng.choice([1, 50, 4000])} if n % 10 == 0 else None,
            recommendation_id=page.id if n % 2 else None,
        )
    rec.forget("i7")
    events = payloads(rec._device.events())
    rec.close()
    return events


def sound(rec: edgerec.Recommender) -> bool:
    snapshot = rec._device.snapshot()
    return same_state(snapshot.learned, snapshot.engine.replay(rec._device.events(), obey=True).learned)


def test_a_changed_byte_in_any_page_costs_one_event_at_most(
    opener: Opener, tmp_path: Path, lived: dict[str, tuple[object, ...]]
) -> None:
    clean = (tmp_path / "state" / "edgerec.db").read_bytes()
    rng = random.Random(SEED)
    set_aside = 0
    for page in range(len(clean) // PAGE):
        for place in {rng.randrange(100) if page == 0 else rng.randrange(16), rng.randrange(PAGE)}:
            data = bytearray(clean)
            data[page * PAGE + place] ^= rng.randint(1, 255)
            state = tmp_path / f"{page}-{place}"
            state.mkdir()
            (state / "edgerec.db").write_bytes(data)
            with opener(data_dir=state) as rec:
                assert len(rec.recommend(10)) == 10
                events = payloads(rec._device.events())
                assert all(events[id_] == lived.get(id_) for id_ in events), "nothing is made up"
                assert len(events) >= len(lived) - 1, (page, place)
                assert sound(rec)
                set_aside += (state / "quarantine").exists()
            shutil.rmtree(state)
    assert set_aside > 10, "the damage must have been found"


def test_a_damaged_file_that_only_writing_meets_is_set_aside_at_the_next_open(
    opener: Opener, tmp_path: Path, lived: dict[str, tuple[object, ...]]
) -> None:
    path = tmp_path / "state" / "edgerec.db"
    with sqlite3.connect(path) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = 'events'"
        ).fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * PAGE)
        file.write(b"\xff" * PAGE)
    rec = opener()
    before = [r.item for r in rec.recommend(10)]
    with pytest.raises(StoreDamaged, match="open again"):
        rec.record("i1", "click", event_id="new")
    assert [r.item for r in rec.recommend(10)] == before, "serving goes on"
    rec.close()
    again = opener()
    assert payloads(again._device.events()) == lived
    assert again.record("i1", "click", event_id="new").status == "stored"
    assert sound(again)


def test_what_is_recovered_keeps_bundles_settings_and_tombstones(
    opener: Opener, tmp_path: Path, lived: dict[str, tuple[object, ...]]
) -> None:
    rec = opener()
    rec.pause_learning()
    rec.close()
    path = tmp_path / "state" / "edgerec.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET item = 'i8' WHERE event_id = 'event 9 ü'")
    connection.close()
    again = opener()
    assert again.stats()["learning"]["paused"]
    assert len(again._device.events()) == len(lived) - 1
    forgotten = f"event {60 + 1} ü"
    assert forgotten not in lived
    assert again.record("i7", "click", event_id=forgotten).status == "forgotten"
    with Database(path).read() as connection:
        assert connection.execute("SELECT count(*) FROM exposures").fetchone()[0] > N


def junk(path: Path) -> None:
    path.write_bytes(b"junk" * 5000)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(len(path.read_bytes())))


def head_gone(path: Path) -> None:
    path.write_bytes(bytes(PAGE) + path.read_bytes()[PAGE:])


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_name(path: Path) -> None:
    """One byte of the schema, so that what SQLite says of it is no text."""
    data = path.read_bytes()
    path.write_bytes(data.replace(b"CREATE TABLE", b"CREATE T\xbeBLE", 1))


def no_tables(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE states")
    connection.close()


@pytest.mark.parametrize(
    ("damage", "least"), [(junk, 0), (zeros, 0), (head_gone, N - 10), (half, 0), (no_tables, N - 10), (a_name, N - 10)]
)
def test_a_ruined_file_is_set_aside_and_serving_starts_anew(
    opener: Opener, tmp_path: Path, lived: dict[str, tuple[object, ...]], damage: Callable[[Path], None], least: int
) -> None:
    damage(tmp_path / "state" / "edgerec.db")
    ruined = (tmp_path / "state" / "edgerec.db").read_bytes()
    rec = opener()
    assert len(rec.recommend(10)) == 10
    assert rec.record("i1", "click", event_id="new").status == "stored"
    assert len(rec._device.events()) >= least
    assert sound(rec)
    assert (tmp_path / "state" / "quarantine" / "1" / "edgerec.db").read_bytes() == ruined


def test_a_log_that_was_cut_gives_a_state_from_before(opener: Opener, tmp_path: Path) -> None:
    rec = opener()
    for n in range(30):
        rec.record(f"i{n}", "click", event_id=f"e{n}")
    log = (tmp_path / "state" / "edgerec.db-wal").read_bytes()
    database = (tmp_path / "state" / "edgerec.db").read_bytes()
    counts = []
    for tenth in range(11):
        state = tmp_path / f"cut {tenth}"
        state.mkdir()
        (state / "edgerec.db").write_bytes(database)
        if tenth:
            (state / "edgerec.db-wal").write_bytes(log[: len(log) * tenth // 10])
        with opener(data_dir=state) as copy:
            ids = [row.event_id for row in copy._device.events()]
            assert ids == [f"e{n}" for n in range(len(ids))], "the first ones, none left out"
            assert sound(copy)
            counts.append(len(ids))
    assert counts == sorted(counts)
    assert counts[-1] == 30


def test_a_store_that_vanishes_under_an_open_recommender_is_made_anew(opener: Opener, tmp_path: Path) -> None:
    rec = opener()
    rec.record("i1", "click")
    for path in (tmp_path / "state").glob("edgerec.db*"):
        path.unlink()
    assert rec.record("i2", "click").status == "stored"
    rec.close()
    assert [row.item for row in opener()._device.events()] == ["i2"]


def test_a_process_that_has_the_file_open_goes_on_in_the_new_one(opener: Opener, tmp_path: Path) -> None:
    one = opener()
    one.record("i1", "click", event_id="before")
    path = tmp_path / "state" / "edgerec.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET item = 'i2'")
    connection.close()
    with opener() as other:
        assert (tmp_path / "state" / "quarantine").exists()
        assert [row.item for row in other._device.events()] == ["i1"], "as the log still has it"
        one.record("i3", "click", event_id="after")
        assert [row.event_id for row in other._device.events()] == ["before", "after"]
    assert sound(one)


def test_salvage_reads_what_sqlite_wrote(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    rows = [
        EventRow(
            0,
            f"e{n}" * rng.choice([1, 9]),
            "ü" * rng.randint(1, 256),
            "click",
            rng.choice([None, 0.0, 1e300, -7.0]),
            rng.choice([0, -5, 10**15, 2**60]),
            rng.choice([None, "g"]),
            None,
            rng.choice([None, '"' + "x" * rng.randint(0, 12_000) + '"']),
            n,
        )
        for n in range(200)
    ]
    database = Database(tmp_path / "edgerec.db")
    for n in range(0, 200, 10):
        with database.write() as connection:
            EventTable.insert(connection, rows[n : n + 10])
    with database.read() as connection:
        stored = EventTable.after(connection)
    assert salvage(tmp_path / "edgerec.db", tmp_path / "edgerec.db-wal").rows == stored, "from the log"
    database.close()
    assert not (tmp_path / "edgerec.db-wal").exists()
    assert salvage(tmp_path / "edgerec.db", tmp_path / "none").rows == stored, "from the file"
    assert salvage(tmp_path / "none", tmp_path / "none").rows == []


def test_salvage_is_not_misled_by_what_a_log_still_holds_from_before(tmp_path: Path) -> None:
    """A log that began anew keeps old frames behind the new ones; their pages may have been put to another use."""
    rng = random.Random(SEED)
    database = Database(tmp_path / "edgerec.db")
    for turn in range(6):
        texts = [json.dumps({"text": f"{turn}" * rng.choice([1, 4000, 9000])}) for _ in range(150)]
        rows = [EventRow(n + 1, f"e{n}", "i1", "click", None, n, None, None, texts[n], turn) for n in range(150)]
        with database.write() as connection:
            EventTable.replace(connection, rows)
    log = (tmp_path / "edgerec.db-wal").read_bytes()
    assert 0 < sum(log[at + 8 : at + 16] == log[16:24] for at in range(32, len(log), PAGE + 24)) < len(log) // PAGE // 2
    assert salvage(tmp_path / "edgerec.db", tmp_path / "edgerec.db-wal").rows == rows
