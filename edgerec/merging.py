"""Joining events of another device, or of a damaged store, with those that are here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from edgerec.device import PENDING, Device
from edgerec.records import changed, record
from edgerec.relearning import relearn
from edgerec.store import EventRow, MetaTable, TombstoneTable
from edgerec.store.events import same_payload
from edgerec.store.tables import tombstone


@record
class Merged:
    """`added`: events that were new here · `known`: that were here already · `forgotten`: that a tombstone kept out,
    from either side."""

    added: int
    known: int
    forgotten: int


def merge(
    device: Device, rows: Iterable[EventRow], tombstones: Iterable[tuple[bytes, bytes]], *, ours_win: bool = False
) -> Merged:
    """Joins events by id, puts all of them in the order of (at, event_id), and learns from them anew.

    Two devices that merged each other's events have the same ones in the same order, hence have learned the same.
    Raises EventConflict where one id names two events, unless `ours_win`; StoreBusy; then nothing was changed.
    """
    rows, tombstones = list(rows), set(tombstones)
    with device.database.read() as connection:
        buried = tombstones | TombstoneTable.all(connection)
    merged = [Merged(0, 0, 0)]

    def change(stored: list[EventRow]) -> list[EventRow]:
        here = {row.event_id: row for row in stored}
        union = dict(here)
        for row in rows:
            old = union.setdefault(row.event_id, row)
            if old is not row and not ours_win:
                same_payload(old, row, at_given=True)
        kept = [row for row in union.values() if not _buried(row.event_id, buried)]
        added = sum(row.event_id not in here for row in kept)
        merged[0] = Merged(added, len({row.event_id for row in rows} & here.keys()), len(union) - len(kept))
        kept.sort(key=lambda row: (row.at, row.event_id))
        return [changed(row, seq=seq) for seq, row in enumerate(kept, 1)]

    def store(connection: sqlite3.Connection) -> None:
        TombstoneTable.add(connection, tombstones)
        if merged[0].forgotten:
            MetaTable.set(connection, PENDING, "1")

    relearn(device, store, change=change)
    return merged[0]


def _buried(event_id: str, tombstones: set[tuple[bytes, bytes]]) -> bool:
    return any((key, tombstone(key, event_id)) in tombstones for key in {key for key, _ in tombstones})
