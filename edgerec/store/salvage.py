"""Reads events out of a damaged SQLite file without SQLite: page by page, each row proven by its checksum.

The file format is SQLite's own (https://www.sqlite.org/fileformat.html): leaf pages of tables hold cells of a payload
length, a rowid and a record; records that do not fit go on in overflow pages. Nothing that the file says of itself is
needed, but where its pages begin; the frames of a write-ahead log are pages too, the newest last.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgerec.records import record
from edgerec.store.events import EventRow, sound_row
from edgerec.store.tables import Tombstone

_LEAF = 13
_OTHER_KINDS = (2, 5, 10)
_N_EVENT = len(EventRow.__match_args__) + 1
_VALUE = EventRow.__match_args__.index("value")
_WAL_HEADER, _FRAME_HEADER = 32, 24
_MAX_PAYLOAD = 1 << 20
_HEADERS = {4, *range(_N_EVENT + 1, 2 * _N_EVENT + 2)}
"""Lengths that the header of a tombstone's or an event's record can have: a byte or two per column."""
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


@record
class Salvaged:
    """What was found: events, each once and as it was last written, in the order of their `seq`; tombstones."""

    rows: list[EventRow]
    tombstones: set[Tombstone]


def salvage(database: Path, log: Path) -> Salvaged:
    """Reads a database file and its write-ahead log, either of which may be missing."""
    pages = _Pages(_read(database), _read(log))
    rows: dict[str, EventRow] = {}
    tombstones: set[Tombstone] = set()
    for page, start in pages.all():
        for values in pages.records(page, start):
            if len(values) == _N_EVENT and (row := _event(values)) is not None:
                rows[row.event_id] = row
            elif len(values) == 3 and all(isinstance(one, bytes) and len(one) == 16 for one in values[1:]):
                tombstones.add((values[1], values[2]))
    return Salvaged(sorted(rows.values(), key=lambda row: row.seq), tombstones)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _event(values: Sequence[Any]) -> EventRow | None:
    values = list(values)
    if isinstance(values[_VALUE], int):  # SQLite writes a whole number of a REAL column as an integer
        values[_VALUE] = float(values[_VALUE])
    return sound_row(values)


class _Pages:
    """Pages of a file and its log, by number; the newest image of a number last."""

    def __init__(self, data: bytes, log: bytes) -> None:
        self.size = _page_size(data[16:18], log[8:12])
        pages = [(at // self.size + 1, data[at : at + self.size]) for at in range(0, len(data), self.size)]
        left_over, newest = self._frames(log)
        self._images: list[tuple[int, bytes]] = [*left_over, *pages, *newest]
        self._newest = dict(self._images)

    def _frames(self, log: bytes) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
        """A log's frames, left over from before it last began anew, and since; what is left over was checkpointed."""
        step = _FRAME_HEADER + self.size
        places = range(_WAL_HEADER, len(log) - step + 1, step)
        salts = [log[at + 8 : at + 16] for at in places]
        salt = log[16:24] if log[16:24] in salts else next(iter(salts), b"")
        frames: tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]] = ([], [])
        for at, own in zip(places, salts, strict=True):
            (number,) = struct.unpack_from(">I", log, at)
            frames[own == salt].append((number, log[at + _FRAME_HEADER : at + step]))
        return frames

    def all(self) -> Iterator[tuple[bytes, int]]:
        """Every image, oldest first, and where its page begins: the first page starts with the file's header."""
        for number, image in self._images:
            yield image, 100 if number == 1 else 0

    def records(self, page: bytes, start: int) -> Iterator[list[Any]]:
        """What is found in a leaf page: by its list of cells, or, where that is damaged, at any place."""
        if len(page) < start + 8 or (page[start] in _OTHER_KINDS) or not any(page):
            return
        (count,) = struct.unpack_from(">H", page, start + 3)
        places = [
            struct.unpack_from(">H", page, at)[0]
            for at in range(start + 8, min(start + 8 + 2 * count, len(page) - 1), 2)
        ]
        found = [self._record(page, place) for place in places]
        if page[start] == _LEAF and all(map(_plausible, found)):
            yield from (one for one in found if one is not None)
        else:
            for place in range(start, len(page) - 4):
                if (one := self._record(page, place)) is not None:
                    yield one

    def _record(self, page: bytes, place: int) -> list[Any] | None:
        try:
            length, place = _varint(page, place)
            rowid, place = _varint(page, place)
            if not 4 <= length <= _MAX_PAYLOAD:
                return None
            kept = self._local(length)
            payload = page[place : place + kept]
            if len(payload) < kept or payload[0] not in _HEADERS:
                return None
            if kept < length:
                (following,) = struct.unpack_from(">I", page, place + kept)
                payload += self._overflow(following, length - kept)
            return _values(payload, rowid)
        except (IndexError, struct.error, UnicodeDecodeError, ValueError):
            return None

    def _local(self, length: int) -> int:
        """How much of a payload lies in the leaf page."""
        most = self.size - 35
        if length <= most:
            return length
        least = (self.size - 12) * 32 // 255 - 23
        kept = least + (length - least) % (self.size - 4)
        return kept if kept <= most else least

    def _overflow(self, number: int, length: int) -> bytes:
        parts = b""
        while len(parts) < length:
            page = self._newest.get(number, b"")
            if len(page) < self.size:
                raise ValueError("an overflow page is missing")
            (number,) = struct.unpack_from(">I", page)
            parts += page[4 : 4 + length - len(parts)]
        return parts


def _page_size(header: bytes, log_header: bytes) -> int:
    sizes = [int.from_bytes(header, "big"), int.from_bytes(log_header, "big")]
    sizes = [65536 if size == 1 else size for size in sizes]
    return next((size for size in sizes if 512 <= size <= 65536 and size & (size - 1) == 0), 4096)


def _plausible(values: list[Any] | None) -> bool:
    """Whether what a cell holds is whole: an event must be proven, the rest must be readable."""
    return values is not None and (len(values) != _N_EVENT or _event(values) is not None)


def _values(payload: bytes, rowid: int) -> list[Any]:
    """The columns of a record; the first one, NULL in the file, is the rowid."""
    header, at = _varint(payload, 0)
    kinds = []
    while at < header:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[Any] = []
    for kind in kinds:
        value, at = _value(payload, at, kind)
        values.append(value)
    if at != len(payload) or not values or values[0] is not None:
        raise ValueError("not a record of ours")
    return [rowid, *values[1:]]


def _value(payload: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind == 0:
        return None, at
    if kind in _INTEGERS:
        end = at + _INTEGERS[kind]
        return int.from_bytes(payload[at:end], "big", signed=True), end
    if kind == 7:
        return struct.unpack_from(">d", payload, at)[0], at + 8
    if kind in (8, 9):
        return kind - 8, at
    if kind < 12:
        raise ValueError("a kind that no file has")
    end = at + (kind - 12) // 2
    if end > len(payload):
        raise IndexError
    data = payload[at:end]
    return (data.decode() if kind % 2 else data), end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for n in range(9):
        byte = data[at + n]
        if n == 8:
            return (value << 8) | byte, at + 9
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, at + n + 1
    raise AssertionError
