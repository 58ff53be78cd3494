"""What a user owns: forgotten to the last byte, taken along, merged so that both devices agree."""

from __future__ import annotations

import json
import logging
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import START, Clock, Opener, same_state

import edgerec
from edgerec import privacy
from edgerec.errors import ConfigError, ForgetPending, ProfileInvalid
from edgerec.hookspecs import hookimpl
from edgerec.statistics import failures_in
from edgerec.store import Database
from edgerec.types import Event

N_SECRETS = 500


def secrets(seed: int) -> list[str]:
    """Unique random words that no other file holds."""
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=24)) for _ in range(N_SECRETS)]


def found_in(folder: Path, words: list[str]) -> dict[str, str]:
    """word → file, for those that lie in any file but those of verified bundles."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and "bundles" not in path.relative_to(folder).parts:
            data = path.read_bytes()
            found |= {word: path.name for word in words if word.encode() in data}
    return found


def live(rec: edgerec.Recommender, ids: list[str], texts: list[str]) -> None:
    """A life full of random ids and texts: every column that an app fills has one."""
    for n, (id_, text) in enumerate(zip(ids, texts, strict=True)):
        page = rec.recommend(5)
        rec.record(
            f"i{n % 60}" if n % 3 else f"unknown-{text}",
            "purchase" if n % 2 else "click",
            at=START + n * 60,
            group=f"g-{id_}" if n % 4 == 0 else None,
            event_id=id_,
            context={"note": text * (1 + n % 60)},
            recommendation_id=page.id,
        )


@pytest.mark.parametrize("secure", [True, False], ids=["forget", "control"])
def test_no_byte_of_what_was_forgotten_is_left(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    ids, texts = secrets(1), secrets(2)
    rec = opener()
    live(rec, ids, texts)
    if secure:
        done = rec.forget()
        assert (done.events, done.exposures) == (N_SECRETS, 5 * N_SECRETS)
        assert found_in(tmp_path / "state", ids + texts) == {}, "with the store open"
        rec.close()
        assert found_in(tmp_path / "state", ids + texts) == {}, "with the store closed"
    else:
        rec.close()
        with sqlite3.connect(tmp_path / "state" / "edgerec.db") as connection:
            connection.execute("PRAGMA secure_delete = OFF")
            connection.execute("DELETE FROM events")
        connection.close()
        assert set(found_in(tmp_path / "state", ids + texts)) == {*ids, *texts}, "the search must be able to find"


def test_a_single_item_is_forgotten_and_the_rest_is_not(opener: Opener, tmp_path: Path) -> None:
    rec = opener(config={"learning": {"exposed_negatives": 4}})
    plain = opener(data_dir=tmp_path / "plain", config={"learning": {"exposed_negatives": 4}})
    for n in range(40):
        item = f"i{n % 8}"
        rec.record(item, "click", at=START + n, event_id=f"secret-{n}", context={"of": f"{item}-{n}!"})
        if item != "i3":
            plain.record(item, "click", at=START + n, event_id=f"secret-{n}", context={"of": f"{item}-{n}!"})
    assert rec.forget("i3").events == 5
    assert same_state(rec._device.snapshot().learned, plain._device.snapshot().learned), "as if it had never been"
    assert [r.score for r in rec.recommend(20)] == [r.score for r in plain.recommend(20)]
    gone = [f"i3-{n}!" for n in range(3, 40, 8)]
    assert found_in(tmp_path / "state", gone) == {}
    assert set(found_in(tmp_path / "state", ["i4-4!", "i5-13!"])) == {"i4-4!", "i5-13!"}


def test_an_item_that_was_passed_over_is_forgotten_there_too(opener: Opener, tmp_path: Path) -> None:
    rec = opener(config={"learning": {"exposed_negatives": 8}})
    page = rec.recommend(8)
    rec.record(page[7].item, "click", recommendation_id=page.id)
    (row,) = rec._device.events()
    passed = json.loads(row.passed or "[]")
    assert passed
    rec.forget(passed[0])
    (row,) = rec._device.events()
    assert passed[0] not in json.loads(row.passed or "[]")
    with Database(tmp_path / "state" / "edgerec.db").read() as connection:
        assert connection.execute("SELECT 1 FROM exposures WHERE item = ?", (passed[0],)).fetchone() is None


def test_a_forgotten_event_does_not_come_back(opener: Opener, tmp_path: Path) -> None:
    rec = opener()
    rec.record("i1", "click", event_id="one")
    rec.record("i2", "click", event_id="two")
    rec.export_profile(tmp_path / "before.jsonl")
    rec.forget("i1")
    assert rec.record("i1", "click", event_id="one").status == "forgotten"
    assert rec.import_profile(tmp_path / "before.jsonl").forgotten == 1
    assert [row.event_id for row in rec._device.events()] == ["two"]
    rec.close()
    assert opener().record("i1", "click", event_id="one").status == "forgotten"


READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM events").fetchone()
print("reading", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
connection.close()
print("done", flush=True)
"""


def test_a_reader_in_another_process_delays_the_erasure_but_not_the_forgetting(opener: Opener, tmp_path: Path) -> None:
    rec = opener(config={"store": {"wait_s": 0.05}})
    rec.record("i1", "click", event_id="averyrareword")
    path = tmp_path / "state" / "edgerec.db"
    command = [sys.executable, "-c", READER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "reading\n"
        with pytest.raises(ForgetPending) as caught:
            rec.forget()
        assert caught.value.exit_code == 54
        assert rec._device.events() == []
        rec.close()
        with opener(config={"store": {"wait_s": 0.05}}) as again:
            assert again._device.events() == [], "it opens, and forgets what it cannot erase yet"
        assert found_in(tmp_path / "state", ["averyrareword"]) != {}, "the reader still holds it"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
    opener()
    assert found_in(tmp_path / "state", ["averyrareword"]) == {}


def test_what_another_process_shows_afterwards_holds_nothing_forgotten(opener: Opener, tmp_path: Path) -> None:
    one, other = opener(), opener()
    one.record("i1", "click")
    shown = other.recommend(60, seen="show")
    assert "i1" in [r.item for r in shown]
    one.forget("i1")
    other.record("i2", "click")
    other.close()
    with Database(tmp_path / "state" / "edgerec.db").read() as connection:
        assert connection.execute("SELECT count(*) FROM exposures WHERE item = 'i1'").fetchone() == (0,)


def test_a_page_that_is_forgotten_while_its_click_is_stored_adds_nothing(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = [opener(config={"learning": {"exposed_negatives": 8}}) for _ in range(2)]
    page = other.recommend(8)
    write = other._device.write

    @contextmanager
    def late(*arguments: Any) -> Iterator[sqlite3.Connection]:
        monkeypatch.undo()
        one.forget(page[0].item)
        with write(*arguments) as connection:
            yield connection

    monkeypatch.setattr(other._device, "write", late)
    other.record(page[7].item, "click", recommendation_id=page.id)
    (row,) = one._device.events()
    assert page[0].item not in json.loads(row.passed or "[]")


@pytest.mark.parametrize("who", ["the same process", "another"])
def test_what_a_plugin_said_of_an_event_is_forgotten_with_it(opener: Opener, tmp_path: Path, who: str) -> None:
    rec = opener(plugins=["edgerec_plugins.sgd", Gossip()])
    rec.record("i1", "click", event_id="averyrareword")
    if who == "another":
        opener().forget()
    else:
        rec.forget()
    rec.close()
    assert found_in(tmp_path / "state", ["averyrareword"]) == {}
    assert [one["failures"] for one in failures_in(tmp_path / "state").values()] == [1], "but that it failed is known"


# -- on other devices --------------------------------------------------------------------------------------------


def test_what_was_forgotten_on_one_device_is_forgotten_on_the_other(opener: Opener, tmp_path: Path) -> None:
    here, there = opener(data_dir=tmp_path / "here"), opener(data_dir=tmp_path / "there")
    here.record("i1", "click", event_id="averyrareword")
    here.export_profile(tmp_path / "first")
    there.import_profile(tmp_path / "first")
    here.forget()
    here.export_profile(tmp_path / "second")
    assert b"averyrareword" not in (tmp_path / "second").read_bytes()
    assert there.import_profile(tmp_path / "second").forgotten == 1
    assert there._device.events() == []
    assert found_in(tmp_path / "there", ["averyrareword"]) == {}


# -- retention ---------------------------------------------------------------------------------------------------


def test_old_events_are_taken_out_at_open(opener: Opener, clock: Clock, tmp_path: Path) -> None:
    rec = opener()
    for n in range(10):
        rec.record(f"i{n}", "click", event_id=f"averyrareword{n}")
        clock.pass_days(1)
    rec.close()
    kept = opener(config={"retention": {"days": 3}})
    assert [row.item for row in kept._device.events()] == ["i7", "i8", "i9"]
    snapshot = kept._device.snapshot()
    assert same_state(snapshot.learned, snapshot.engine.replay(kept._device.events(), obey=True).learned)
    assert set(found_in(tmp_path / "state", [f"averyrareword{n}" for n in range(10)])) == {
        f"averyrareword{n}" for n in (7, 8, 9)
    }
    kept.close()
    clock.pass_days(30)
    assert opener(config={"retention": {"days": 3}})._device.events() == []


def test_only_so_many_events_are_kept(opener: Opener, clock: Clock) -> None:
    rec = opener()
    for n in range(10):
        rec.record(f"i{n}", "click")
    rec.close()
    kept = opener(config={"retention": {"events": 4}})
    assert [row.item for row in kept._device.events()] == ["i6", "i7", "i8", "i9"]


def test_a_few_events_too_many_are_no_reason_to_learn_all_anew(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    rec = opener()
    rec.record_many([Event("i1", "click", event_id=f"e{n}") for n in range(22)])
    rec.close()
    config = {"retention": {"events": 20}}
    with opener(config=config) as kept:
        assert len(kept._device.events()) == 22
        kept.record("i2", "click", event_id="e22")
    assert [row.event_id for row in opener(config=config)._device.events()] == [f"e{n}" for n in range(3, 23)]


def test_pages_grow_old_where_events_do_not(opener: Opener, clock: Clock, tmp_path: Path) -> None:
    rec = opener()
    page = rec.recommend(5)
    rec._device.flush()
    clock.pass_days(10)
    rec.record("i1", "click", event_id="new")
    assert rec.recommend(3).id != page.id
    rec.close()
    assert found_in(tmp_path / "state", [page.id]) != {}
    kept = opener(config={"retention": {"days": 3}})
    assert (kept.stats()["events"], kept.stats()["exposures"]) == (1, 3)
    assert found_in(tmp_path / "state", [page.id]) == {}


def test_what_comes_in_while_old_events_are_taken_out_stays(
    opener: Opener, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = opener()
    other.record("i1", "click", event_id="old")
    clock.pass_days(10)
    relearn = privacy.relearn

    def late(*arguments: Any, **named: Any) -> object:
        monkeypatch.undo()
        other.record("i2", "click", event_id="meanwhile")
        return relearn(*arguments, **named)

    monkeypatch.setattr(privacy, "relearn", late)
    rec = opener(config={"retention": {"days": 3}})
    assert [row.event_id for row in rec._device.events()] == ["meanwhile"]


@pytest.mark.parametrize("section", [{"days": 0}, {"events": -1}, {"days": "3"}])
def test_a_limit_that_makes_no_sense_is_refused(opener: Opener, section: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="retention"):
        opener(config={"retention": section})


def test_a_killed_erasure_is_finished_at_the_next_open(opener: Opener, tmp_path: Path, bundle_path: Path) -> None:
    rec = opener()
    rec.record("i1", "click", event_id="averyrareword")
    rec.close()
    script = (
        "import os, sys, signal, edgerec\n"
        "from edgerec.store import Database\n"
        "Database.erase = lambda self: os.kill(os.getpid(), signal.SIGKILL)\n"
        "edgerec.open(sys.argv[1], sys.argv[2], plugins=['edgerec_plugins.sgd']).forget()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(bundle_path), str(tmp_path / "state")], check=False)
    assert done.returncode == -9
    opener()
    assert found_in(tmp_path / "state", ["averyrareword"]) == {}


def test_neither_logs_nor_errors_tell_of_the_user(
    opener: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture, bundle_path: Path
) -> None:
    """Faults of every kind, with every logger listening: words that only the user's data holds are in no message."""
    caplog.set_level(logging.DEBUG)
    rec = opener(plugins=["edgerec_plugins.sgd", "edgerec_plugins.journal", Gossip()])
    told = {"item": "i1", "event_id": "averyrareword", "group": "averyrareword", "context": {"of": "averyrareword"}}
    rec.record(**told)  # type: ignore[arg-type]
    mistakes = [
        told | {"item": "i2"},
        told | {"group": "averyrareword" * 99},
        told | {"context": {"of": "averyrareword" * 999}},
        told | {"context": {"of": {"averyrareword"}}},
        told | {"value": float("nan")},
        told | {"at": 1e300},
    ]
    for mistake in mistakes:
        with pytest.raises(edgerec.EdgeRecError) as caught:
            rec.record(**mistake)  # type: ignore[arg-type]
        assert "averyrareword" not in str(caught.value)
    rec.export_profile(tmp_path / "p")
    (tmp_path / "p").write_bytes((tmp_path / "p").read_bytes().replace(b'"i1"', b'"\\ud800"'))
    with pytest.raises(ProfileInvalid) as refused:
        rec.import_profile(tmp_path / "p")
    assert "averyrareword" not in str(refused.value)
    rec.forget("i9")
    rec.close()
    with sqlite3.connect(tmp_path / "state" / "edgerec.db") as connection:
        connection.execute("UPDATE events SET context = CAST(x'ff' || context AS TEXT)")
    connection.close()
    opener().recommend(3)
    assert caplog.records, "the faults must have been logged"
    assert "averyrareword" not in caplog.text


class Gossip:
    """A plugin that names the user's data in whatever it raises."""

    @hookimpl
    def edgerec_event_recorded(self, event: edgerec.Event) -> None:
        raise ValueError(f"it was {event.event_id} of {event.group}")
