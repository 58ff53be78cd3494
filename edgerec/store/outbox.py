"""Deltas on their way, and which events none has counted yet."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import suppress

from edgerec.errors import StoreDamaged
from edgerec.records import record
from edgerec.store.database import REPAIR
from edgerec.store.events import EventRow, EventTable
from edgerec.store.tables import MetaTable

MARK = "federation_mark"
"""The setting that says up to which `seq` a delta has counted the events, but for those in `uncounted`; where it is
absent none ever was."""


@record
class OutboxRow:
    """A delta that waits for its acknowledgement, or for another try.

    `payload`: its bytes; where it travels in two shares those of the first, and `second` the other's · `events`: ids of
    those it counts · `created`: microseconds · `arrived`: a bit per share that was acknowledged.
    """

    id: str
    bundle_version: int
    payload: bytes
    second: bytes | None
    events: tuple[str, ...]
    created: int
    arrived: int = 0

    @property
    def parts(self) -> tuple[bytes, ...]:
        """What is sent: the delta, or its two shares."""
        return (self.payload,) if self.second is None else (self.payload, self.second)


class OutboxTable:
    """Hardly ever more than one row. Its deltas hold what the user did: whoever forgets empties it."""

    @staticmethod
    def all(connection: sqlite3.Connection) -> list[OutboxRow]:
        """The oldest first. Raises StoreDamaged."""
        found = connection.execute(
            "SELECT id, bundle_version, payload, second, events, created, arrived FROM outbox ORDER BY seq"
        )
        rows = []
        for one_id, version, payload, second, events, created, arrived in found:
            try:
                rows.append(OutboxRow(one_id, version, payload, second, tuple(json.loads(events)), created, arrived))
            except (TypeError, ValueError):
                raise StoreDamaged("a delta of the outbox is not what was written", hint=REPAIR) from None
        return rows

    @staticmethod
    def add(connection: sqlite3.Connection, row: OutboxRow) -> None:
        connection.execute(
            "INSERT INTO outbox (id, bundle_version, payload, second, events, created, arrived)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.id, row.bundle_version, row.payload, row.second, json.dumps(row.events), row.created, row.arrived),
        )

    @staticmethod
    def arrived(connection: sqlite3.Connection, delta_id: str, bits: int) -> None:
        connection.execute("UPDATE outbox SET arrived = ? WHERE id = ?", (bits, delta_id))

    @staticmethod
    def remove(connection: sqlite3.Connection, delta_id: str) -> bool:
        """Whether it was there."""
        return connection.execute("DELETE FROM outbox WHERE id = ?", (delta_id,)).rowcount > 0

    @staticmethod
    def clear(connection: sqlite3.Connection) -> None:
        """Drops what waits. It may have arrived without an answer: its events are not counted again."""
        connection.execute("DELETE FROM outbox")

    @staticmethod
    def count(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0])


class CountedEvents:
    """Which events are still to be counted: those after the mark, and a few before it."""

    @staticmethod
    def mark(connection: sqlite3.Connection) -> int | None:
        """None where no event is ever counted. A mark that was damaged says that all have been: never twice."""
        kept = MetaTable.get(connection, MARK)
        if kept is None:
            return None
        with suppress(TypeError, ValueError):
            return int(kept)
        return CountedEvents._last(connection)

    @staticmethod
    def cover(connection: sqlite3.Connection, until: int | None = None) -> None:
        """Every event counts as counted; `until`: those up to that `seq` alone."""
        connection.execute("DELETE FROM uncounted")
        mark = CountedEvents._last(connection) if until is None else until
        MetaTable.set(connection, MARK, str(mark))

    @staticmethod
    def give_back(connection: sqlite3.Connection, event_ids: Iterable[str]) -> None:
        """Counts those of the events that are still there once more."""
        connection.executemany(
            "INSERT OR IGNORE INTO uncounted (event_id) SELECT event_id FROM events WHERE event_id = ?",
            [(one,) for one in event_ids],
        )

    @staticmethod
    def open_ids(connection: sqlite3.Connection) -> set[str] | None:
        """Ids of the events that are to be counted; None where none ever is."""
        mark = CountedEvents.mark(connection)
        if mark is None:
            return None
        query = "SELECT event_id FROM events WHERE seq > ? UNION SELECT event_id FROM uncounted"
        return {one for (one,) in connection.execute(query, (mark,))}

    @staticmethod
    def keep(connection: sqlite3.Connection, event_ids: Collection[str] | None) -> None:
        """After events were taken out, came in from elsewhere or changed places: these are to be counted, no other."""
        if event_ids is not None:
            CountedEvents.cover(connection)
            CountedEvents.give_back(connection, sorted(event_ids))

    @staticmethod
    def rows(connection: sqlite3.Connection, before: int) -> tuple[list[EventRow], set[str]]:
        """The events to be counted and the `before` ones that arrived last before them, in order of arrival, and the
        ids of the former. Raises StoreDamaged."""
        open_ids = CountedEvents.open_ids(connection) or set()
        mark = CountedEvents.mark(connection) or 0
        rows = {row.event_id: row for row in EventTable.after(connection, max(mark - before, 0))}
        rows |= EventTable.find(connection, sorted(open_ids - rows.keys()))
        return sorted(rows.values(), key=lambda row: row.seq), open_ids

    @staticmethod
    def _last(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])
