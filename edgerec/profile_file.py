"""A user's profile as a file: JSON lines, whole or not at all, encrypted on request (docs/privacy.md).

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
from edgerec.event_rows import MAX_SECONDS, valid_context, valid_text, valid_value
from edgerec.files import sha256, write_private
from edgerec.records import record
from edgerec.store import EventRow
from edgerec.store.tables import Tombstone

FORMAT, VERSION = "edgerec-profile", 1
MAX_BYTES = 1 << 27
"""To read a file takes ten times its size in memory; 128 MiB hold some 400,000 events."""

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
    tombstones: Sequence[Tombstone]


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
        if not path.is_file():  # a pipe or a device may have no end
            raise ProfileInvalid(f"there is no file {path.name}", hint="export one with export_profile()")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProfileInvalid(f"{path.name} cannot be read: {error.strerror}", hint="may it be read?") from None
    if len(data) > MAX_BYTES:
        raise ProfileInvalid(f"{path.name} has more than {MAX_BYTES} bytes", hint="forget some events first")
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
    rows: list[EventRow] = []
    tombstones: list[Tombstone] = []
    for number, line in enumerate(lines[1:], 2):
        one = _object(line, name, number)
        try:
            if "event" in one:
                rows.append(_row(one["event"]))
            if "tombstone" in one:
                tombstones.append(_tombstone(one["tombstone"]))
        except (EventError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ProfileInvalid(f"{name}: line {number} is no event: {_said(error)}", hint="export it again") from None
    if (len(rows), len(tombstones)) != (head.get("events"), head.get("tombstones")):
        raise ProfileInvalid(f"{name} holds another number of events than it says", hint="export it again")
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
    valid_context(_parsed(fields["context"], dict))
    for one in _parsed(fields["passed"], list) or ():
        valid_text("passed", one)
    verdict = fields["verdict"]
    if not isinstance(verdict, str) or len(verdict.encode()) > _MAX_JSON:
        raise ValueError
    return EventRow(seq=0, learned=0, **{**fields, "value": valid_value(fields["value"])})


def _parsed(text: object, kind: type) -> Any:
    """What a field holds as JSON text, None for none. Raises ValueError or RecursionError."""
    if text is None:
        return None
    if not isinstance(text, str) or len(text.encode()) > _MAX_JSON:
        raise ValueError
    found = json.loads(text)
    if not isinstance(found, kind):
        raise ValueError
    return found


def _tombstone(fields: Mapping[str, Any]) -> Tombstone:
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
