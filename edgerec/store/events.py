"""The event table: the one record of what the user did, and of what was learned from it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from edgerec.errors import EventConflict
from edgerec.records import record
from edgerec.types import Event

_COLUMNS = (
    'event_id, item, kind, value, at, "group", recommendation_id, context, received, scenario, learned, verdict, passed'
)
_INSERT = f"INSERT INTO events ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT = f"SELECT seq, {_COLUMNS} FROM events"
_FIND = f"{_SELECT} WHERE event_id = ?"


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

    def values(self) -> tuple[Any, ...]:
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


class EventTable:
    """Constant SQL over the events; every method takes the connection of a running transaction or read."""

    @staticmethod
    def insert(connection: sqlite3.Connection, rows: Iterable[EventRow]) -> None:
        connection.executemany(_INSERT, [row.values() for row in rows])

    @staticmethod
    def find(connection: sqlite3.Connection, event_ids: Sequence[str]) -> dict[str, EventRow]:
        """Those of the events that are stored, by id."""
        rows = (connection.execute(_FIND, (event_id,)).fetchone() for event_id in event_ids)
        return {row[1]: EventRow(*row) for row in rows if row}

    @staticmethod
    def all(connection: sqlite3.Connection) -> Iterator[EventRow]:
        """Every event in order of arrival."""
        for row in connection.execute(f"{_SELECT} ORDER BY seq"):
            yield EventRow(*row)

    @staticmethod
    def last(connection: sqlite3.Connection, count: int) -> list[EventRow]:
        """The newest events, oldest first."""
        rows = connection.execute(f"{_SELECT} ORDER BY seq DESC LIMIT ?", (count,)).fetchall()
        return [EventRow(*row) for row in reversed(rows)]

    @staticmethod
    def history(connection: sqlite3.Connection) -> list[tuple[str, str, int, str | None]]:
        """(item, kind, effective time, group) of every event that was not set aside, by time then arrival."""
        return connection.execute(
            'SELECT item, kind, min(at, received), "group" FROM events '
            "WHERE verdict NOT GLOB 'quarantined*' ORDER BY min(at, received), seq"
        ).fetchall()

    @staticmethod
    def count(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])

    @staticmethod
    def set_verdicts(connection: sqlite3.Connection, verdicts: Sequence[tuple[int, str, int]]) -> None:
        """(learned, verdict, seq) of events that were learned from anew."""
        connection.executemany("UPDATE events SET learned = ?, verdict = ? WHERE seq = ?", verdicts)


def same_payload(stored: EventRow, new: EventRow, *, at_given: bool) -> bool:
    """Whether a repeated event_id brings the same event. Raises EventConflict when it does not."""
    old, fresh = list(stored.payload()), list(new.payload())
    if not at_given:
        old[4] = fresh[4] = 0
    if old != fresh:
        raise EventConflict(
            f"event_id {new.event_id!r} was recorded before with another payload",
            hint="an event_id names one event; draw a new one for a new event",
        )
    return True
