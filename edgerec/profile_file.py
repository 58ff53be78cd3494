"""A user's profile as a file: JSON lines, whole or not at all, encrypted on request (docs/profiles.md).

{"format": "edgerec-profile", "version": 1, "events": 2, "tombstones": 1}
{"event": {"event_id": …, "item": …, "kind": …, "at": …, …}}       one per event, in order of arrival
{"tombstone": {"key": "…", "digest": "…"}}                         hex, one per forgotten event
{"sha256": "…"}                                                    of every byte before this line
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgerec.errors import EventError, MissingDistribution, ProfileInvalid
from edgerec.event_rows import MAX_SECONDS, valid_text, valid_value
from edgerec.files import sha256, write_private
from edgerec.records import record
from edgerec.store import EventRow

FORMAT, VERSION = "edgerec-profile", 1
MAX_BYTES = 1 << 30
_FIELDS = (
    "event_id",
    "item",
    "kind",
    "value",
    "at",
    "group",
    "recommendation_id",
    "context",
    "received",
    "scenario",
    "verdict",
    "passed",
)
_TEXTS = ("event_id", "item", "kind")
_OPTIONAL_TEXTS = ("group", "recommendation_id", "scenario")
_MAX_JSON = 1 << 16
_ENCRYPTED = b"age-encryption.org/v1"


@record
class ProfileFile:
    """`tombstones`: (key, digest) of forgotten events."""

    rows: Sequence[EventRow]
    tombstones: Sequence[tuple[bytes, bytes]]


def save(path: Path, profile: ProfileFile, passphrase: str | None = None) -> None:
    """Writes the file for its owner alone, whole or not at all. Raises MissingDistribution or OSError."""
    head = {"format": FORMAT, "version": VERSION, "events": len(profile.rows), "tombstones": len(profile.tombstones)}
    lines: list[Mapping[str, Any]] = [head]
    lines += [{"event": {name: getattr(row, name) for name in _FIELDS}} for row in profile.rows]
    lines += [{"tombstone": {"key": key.hex(), "digest": digest.hex()}} for key, digest in profile.tombstones]
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    data += json.dumps({"sha256": sha256(data)}).encode() + b"\n"
    write_private(path, data if passphrase is None else _age().encrypt(data, passphrase))


def read(path: Path, passphrase: str | None = None) -> ProfileFile:
    """Reads a file and checks all of it. Raises ProfileInvalid, which names the line and never what it holds."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise ProfileInvalid(f"{path.name} cannot be read: {error.strerror}") from None
    if size > MAX_BYTES:
        raise ProfileInvalid(f"{path.name} has {size} bytes, more than {MAX_BYTES}")
    return parse(_decrypted(data, passphrase), path.name)


def parse(data: bytes, name: str) -> ProfileFile:
    """The profile that is in the bytes of a file. Raises ProfileInvalid."""
    body, _, last = data.rstrip(b"\n").rpartition(b"\n")
    lines = body.split(b"\n")
    head = _object(lines[0], name, 1)
    if head.get("format") != FORMAT:
        raise ProfileInvalid(f"{name} is no profile", hint="export one with export_profile()")
    if head.get("version") != VERSION:
        raise ProfileInvalid(f"{name} has a format that this edgerec does not know", hint="update edgerec")
    if _object(last, name, len(lines) + 1).get("sha256") != sha256(body + b"\n"):
        raise ProfileInvalid(f"{name} is cut short or damaged", hint="export it again")
    found = [(n, _object(line, name, n)) for n, line in enumerate(lines[1:], 2)]
    try:
        rows = [_row(one["event"]) for _, one in found if "event" in one]
        tombstones = [_tombstone(one["tombstone"]) for _, one in found if "tombstone" in one]
    except (EventError, KeyError, TypeError, ValueError) as error:
        raise ProfileInvalid(f"{name} holds something that is no event: {_said(error)}") from None
    if (len(rows), len(tombstones)) != (head.get("events"), head.get("tombstones")):
        raise ProfileInvalid(f"{name} holds another number of events than it says")
    return ProfileFile(rows, tombstones)


def _said(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, EventError) else "a field is missing or of another type"


def _object(line: bytes, name: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ProfileInvalid(f"{name}: line {number} is no JSON object", hint="export it again")
    return found


def _row(fields: Mapping[str, Any]) -> EventRow:
    if set(fields) != set(_FIELDS):
        raise ValueError
    for name in _TEXTS:
        valid_text(name, fields[name])
    for name in _OPTIONAL_TEXTS:
        if fields[name] is not None:
            valid_text(name, fields[name])
    for name in ("at", "received"):
        if type(fields[name]) is not int or not abs(fields[name]) < MAX_SECONDS * 1e6:
            raise ValueError
    _check_json(fields["context"], dict)
    passed = _check_json(fields["passed"], list)
    if passed is not None:
        for one in passed:
            valid_text("passed", one)
    verdict = fields["verdict"]
    if not isinstance(verdict, str) or len(verdict) > _MAX_JSON:
        raise ValueError
    return EventRow(seq=0, learned=0, **{**fields, "value": valid_value(fields["value"])})


def _check_json(text: object, kind: type) -> Any:
    """What a field holds as JSON text. Raises ValueError."""
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > _MAX_JSON:
        raise ValueError
    found = json.loads(text)
    if not isinstance(found, kind):
        raise ValueError
    return found


def _tombstone(fields: Mapping[str, Any]) -> tuple[bytes, bytes]:
    key, digest = bytes.fromhex(fields["key"]), bytes.fromhex(fields["digest"])
    if len(key) != 16 or len(digest) != 16:
        raise ValueError
    return key, digest


def _decrypted(data: bytes, passphrase: str | None) -> bytes:
    if not data.startswith(_ENCRYPTED):
        return data
    if passphrase is None:
        raise ProfileInvalid("the profile is encrypted", hint="give its passphrase")
    age = _age()
    try:
        return bytes(age.decrypt(data, passphrase))
    except Exception as error:  # pyrage has one class for a wrong passphrase and for damage, and no base of its own
        raise ProfileInvalid(f"the profile cannot be decrypted: {error}", hint="is the passphrase right?") from None


def _age() -> Any:
    try:
        from pyrage import passphrase
    except ImportError:
        raise MissingDistribution("encrypted profiles need pyrage", hint="pip install 'edgerec[crypt]'") from None
    return passphrase
