"""A profile as a file: told in full, private, whole or refused, whatever it holds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import START, Opener

from edgerec.errors import ProfileInvalid


def test_an_exported_file_is_its_owners_and_tells_of_every_field(opener: Opener, tmp_path: Path) -> None:
    rec = opener()
    rec.record("i1", "click", value=2.0, at=START, context={"a": "ü"}, event_id="e", group="g")
    assert rec.export_profile(tmp_path / "p.jsonl") == 1
    assert (tmp_path / "p.jsonl").stat().st_mode & 0o077 == 0
    head, event, end = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert head == {"format": "edgerec-profile", "version": 1, "events": 1, "tombstones": 0}
    assert event["event"]["item"] == "i1"
    assert set(end) == {"sha256"}
    assert sorted(os.listdir(tmp_path)) == ["p.jsonl", "state"]


def damaged(data: bytes) -> Iterator[tuple[str, bytes]]:
    lines = data.splitlines(keepends=True)
    yield "an empty file", b""
    yield "another file", b"PK\x03\x04" * 9
    yield "cut short", data[: len(data) // 2]
    yield "a line gone", b"".join([*lines[:1], *lines[2:]])
    yield "a byte changed", data.replace(b'"i1"', b'"i2"')
    yield "a newer version", data.replace(b'"version": 1', b'"version": 2')
    yield "not UTF-8", data.replace(b"i1", b"\xff1")
    yield "nested", b"[" * 100_000
    yield "encrypted, but no passphrase", b"age-encryption.org/v1\n" + data


def test_a_profile_that_is_not_whole_is_refused(opener: Opener, tmp_path: Path) -> None:
    rec = opener()
    rec.record("i1", "click", event_id="e")
    rec.export_profile(tmp_path / "good")
    before = [row.values() for row in rec._device.events()]
    for what, data in damaged((tmp_path / "good").read_bytes()):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(ProfileInvalid) as caught:
            rec.import_profile(tmp_path / "bad")
        assert "i1" not in str(caught.value), what
        assert [row.values() for row in rec._device.events()] == before, what
    with pytest.raises(ProfileInvalid, match="no file"):
        rec.import_profile(tmp_path / "none")


def test_a_wrong_passphrase_is_told_from_nothing(opener: Opener, tmp_path: Path) -> None:
    rec = opener()
    rec.record("i1", "click", event_id="averyrareword")
    rec.export_profile(tmp_path / "p", passphrase="right")
    assert b"averyrareword" not in (tmp_path / "p").read_bytes()
    with pytest.raises(ProfileInvalid, match="passphrase"):
        rec.import_profile(tmp_path / "p", passphrase="wrong")


EVENT: dict[str, Any] = {
    "event_id": "averyrareword",
    "item": "i1",
    "kind": "click",
    "value": None,
    "at": 1_700_000_000_000_000,
    "group": None,
    "recommendation_id": None,
    "context": None,
    "received": 1_700_000_000_000_000,
    "scenario": None,
    "verdict": "learned",
    "passed": None,
}


def profile_of(*lines: object) -> bytes:
    """A file with a true digest, whatever its lines hold."""
    head = {"format": "edgerec-profile", "version": 1, "events": len(lines), "tombstones": 0}
    body = b"".join(json.dumps(line).encode() + b"\n" for line in (head, *lines))
    return body + json.dumps({"sha256": hashlib.sha256(body).hexdigest()}).encode()


HOSTILE: dict[str, dict[str, object]] = {
    "half a surrogate pair in a context": {"context": '{"a": "\ud800"}'},
    "half a surrogate pair in an id": {"event_id": "\ud800"},
    "half a surrogate pair in a verdict": {"verdict": "\ud800"},
    "a context nested deep": {"context": '{"a": ' + "[" * 30_000 + "]" * 30_000 + "}"},
    "a context nested too deep to be kept": {"context": '{"a": ' + "[" * 40 + "]" * 40 + "}"},
    "passed items nested deep": {"passed": "[" * 30_000 + "]" * 30_000},
    "passed items that are numbers": {"passed": "[1]"},
    "a context that is a list": {"context": "[1]"},
    "a context that is null": {"context": "null"},
    "NaN in a context": {"context": '{"a": NaN}'},
    "a context of 60 KB": {"context": json.dumps({"a": "x" * 60_000})},
    "an endless value": {"value": float("inf")},
    "a value of 400 digits": {"value": 10**400},
    "a true value": {"value": True},
    "a time beyond all": {"at": 10**18},
    "a time of half a microsecond": {"received": 0.5},
    "a field too many": {"seq": 1},
}


@pytest.mark.parametrize("what", [*HOSTILE])
def test_what_a_device_would_not_have_stored_is_refused(opener: Opener, tmp_path: Path, what: str) -> None:
    rec = opener()
    (tmp_path / "p").write_bytes(profile_of({"event": EVENT | HOSTILE[what]}))
    with pytest.raises(ProfileInvalid, match="line 2") as caught:
        rec.import_profile(tmp_path / "p")
    assert "averyrareword" not in str(caught.value)
    assert rec._device.events() == []


@pytest.mark.parametrize("line", [{"event": []}, {"event": [*EVENT]}, {"event": None}, {"tombstone": {"key": "zz"}}])
def test_lines_of_another_make_are_refused(opener: Opener, tmp_path: Path, line: object) -> None:
    (tmp_path / "p").write_bytes(profile_of(line))
    with pytest.raises(ProfileInvalid):
        opener().import_profile(tmp_path / "p")


def test_odd_but_lawful_ids_are_as_many_events(opener: Opener, tmp_path: Path) -> None:
    """They differ by case, by Unicode's normal form, or after a NUL, and stay apart here and on the next device."""
    ids = ["É", "é", "e\u0301", "E", "e", "e\0", "e\0f", " e", "e' OR 1=1 --", "\U0010ffff"]
    here, there = opener(data_dir=tmp_path / "here"), opener(data_dir=tmp_path / "there")
    for n, id_ in enumerate(ids):
        here.record(id_, "click", at=START + n, event_id=id_, group=id_, context={id_: id_})
    here.export_profile(tmp_path / "p")
    assert there.import_profile(tmp_path / "p").added == len(ids)
    assert [row.payload() for row in there._device.events()] == [row.payload() for row in here._device.events()]
    here.forget("e\0")
    assert [row.item for row in here._device.events()] == [one for one in ids if one != "e\0"]


def test_what_is_no_plain_file_is_not_waited_for(opener: Opener, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ProfileInvalid, match="no file"):
            opener().import_profile(path)
