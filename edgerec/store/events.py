"""The event table: the one record of what the user did, and of what was learned from it."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from edgerec.errors import EventConflict, StoreDamaged
from edgerec.records import record
from edgerec.store.database import REPAIR
from edgerec.types import Event

QUARANTINED = "quarantined"
"""Begins the verdict of what an event filter set aside, which enters no history and is not learned from."""

_as_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def checksum(values: Sequence[Any]) -> int:
    """The `crc` of an event: CRC-32 of its other columns but `seq`, in their order, as an ASCII JSON list."""
    return zlib.crc32(_as_json(values).encode())


@record
class EventRow:
    """An event as stored. `at` and `received` are integer microseconds since 1970 UTC.

    `scenario`: that of the page which led to the event, None where none is known. `learned` is 0 for an event that
    was not learned from, else the number of the learning step that did; events of one step were tested together.
    `verdict`: "learned", "refused: …" or "quarantined: …" with the reason, "paused" or "unknown item" · `passed`: items
    of its page that were passed over and count against it, a JSON list, None where there are none.
    """

    seq: int
    event_id: str
    item: str
    kind: str
    value: float | None
    at: int
    group: str | None
    recommendation_id: str | None
    context: str | None
    received: int
    scenario: str | None = None
    learned: int = 0
    verdict: str = ""
    passed: str | None = None

    @property
    def seconds(self) -> float:
        """When it happened, as the app says."""
        return self.at / 1e6

    @property
    def effective_seconds(self) -> float:
        """When it happened, but not after it arrived: a future timestamp must not make all else look old."""
        return min(self.at, self.received) / 1e6

    def event(self) -> Event:
        """The event as an updater sees it."""
        context = json.loads(self.context) if self.context is not None else None
        return Event(
            self.item, self.kind, self.value, self.seconds, self.group, self.recommendation_id, context, self.event_id
        )

    def decided(self, learned: int, verdict: str) -> EventRow:
        """The event with what was decided about it; `dataclasses.replace` takes six times as long."""
        return EventRow(
            self.seq,
            self.event_id,
            self.item,
            self.kind,
            self.value,
            self.at,
            self.group,
            self.recommendation_id,
            self.context,
            self.received,
            self.scenario,
            learned,
            verdict,
            self.passed,
        )

    @property
    def set_aside(self) -> bool:
        """Whether an event filter set the event aside."""
        return self.verdict.startswith(QUARANTINED)

    def values(self) -> tuple[Any, ...]:
        """The columns from `event_id` on, without the checksum."""
        return (*self.payload(), self.received, self.scenario, self.learned, self.verdict, self.passed)

    def payload(self) -> tuple[Any, ...]:
        return (
            self.event_id,
            self.item,
            self.kind,
            self.value,
            self.at,
            self.group,
            self.recommendation_id,
            self.context,
        )


_COLUMNS = ", ".join(f'"{name}"' for name in EventRow.__match_args__[1:])
_INSERT = f"INSERT INTO events (seq, {_COLUMNS}, crc) VALUES (?{', ?' * len(EventRow.__match_args__)})"
_SELECT = f"SELECT seq, {_COLUMNS}, crc FROM events"
_FIND = f"{_SELECT} WHERE event_id = ?"


def sound_row(values: Sequence[Any]) -> EventRow | None:
    """The event of a row (`seq`, the columns, `crc`), None where it is not what was written."""
    try:
        sound = checksum(values[1:-1]) == values[-1]
    except TypeError:  # bytes, where a header of the file was damaged
        return None
    return EventRow(*values[:-1]) if sound else None


class EventTable:
    """Constant SQL over the events; every method takes the connection of a running transaction or read.

    What is read is checked: StoreDamaged where a row is not what was written.
    """

    @staticmethod
    def insert(connection: sqlite3.Connection, rows: Iterable[EventRow]) -> None:
        """Appends events; one with a `seq` of its own takes that place."""
        connection.executemany(_INSERT, [_record(row) for row in rows])

    @staticmethod
    def find(connection: sqlite3.Connection, event_ids: Sequence[str]) -> dict[str, EventRow]:
        """Those of the events that are stored, by id."""
        rows = (connection.execute(_FIND, (event_id,)).fetchone() for event_id in event_ids)
        return {row[1]: _checked(row) for row in rows if row}

    @staticmethod
    def after(connection: sqlite3.Connection, seq: int = 0) -> list[EventRow]:
        """Every event that arrived after one, in order of arrival."""
        return [_checked(row) for row in connection.execute(f"{_SELECT} WHERE seq > ? ORDER BY seq", (seq,))]

    @staticmethod
    def last(connection: sqlite3.Connection, count: int) -> list[EventRow]:
        """The newest events, oldest first."""
        rows = connection.execute(f"{_SELECT} ORDER BY seq DESC LIMIT ?", (count,)).fetchall()
        return [_checked(row) for row in reversed(rows)]

    @staticmethod
    def count(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])

    @staticmethod
    def learned_since(connection: sqlite3.Connection, received: int) -> dict[str, int]:
        """How many events of each kind arrived after a time, in microseconds, and were learned from."""
        query = "SELECT kind, count(*) FROM events WHERE received > ? AND learned > 0 GROUP BY kind"
        return dict(connection.execute(query, (received,)))

    @staticmethod
    def extent(connection: sqlite3.Connection) -> tuple[int, int | None]:
        """How many events there are, and when the earliest happened, in microseconds, but not after it arrived."""
        count, first = connection.execute("SELECT count(*), min(min(at, received)) FROM events").fetchone()
        return count, first

    @staticmethod
    def decide(connection: sqlite3.Connection, rows: Iterable[EventRow]) -> None:
        """Stores `learned` and `verdict` of events that were learned from anew."""
        connection.executemany(
            "UPDATE events SET learned = ?, verdict = ?, crc = ? WHERE seq = ?",
            [(row.learned, row.verdict, checksum(row.values()), row.seq) for row in rows],
        )

    @staticmethod
    def replace(connection: sqlite3.Connection, rows: Iterable[EventRow]) -> None:
        """Puts these events, with the `seq` they have, in the place of all there are."""
        connection.execute("DELETE FROM events")
        EventTable.insert(connection, rows)


def _record(row: EventRow) -> tuple[Any, ...]:
    values = row.values()
    return (row.seq or None, *values, checksum(values))


def _checked(values: Sequence[Any]) -> EventRow:
    row = sound_row(values)
    if row is None:
        raise StoreDamaged("an event is not what was written: its checksum differs", hint=REPAIR)
    return row


def same_payload(stored: EventRow, new: EventRow, *, at_given: bool) -> bool:
    """Whether a repeated event_id brings the same event. Raises EventConflict when it does not."""
    old, fresh = list(stored.payload()), list(new.payload())
    if not at_given:
        old[4] = fresh[4] = 0
    if old != fresh:
        raise EventConflict(
            "this event_id was recorded before with another payload",
            hint="an event_id names one event; draw a new one for a new event",
        )
    return True
