"""Joining events of another device, or of a damaged store, with those that are here."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from edgerec.device import FAILURES, PENDING, Device
from edgerec.errors import EventConflict
from edgerec.learning.replay import PAUSED
from edgerec.records import changed, record
from edgerec.relearning import relearn
from edgerec.store import EventRow, MetaTable, OutboxTable, StateTable, TombstoneTable
from edgerec.store.events import same_payload
from edgerec.store.tables import Tombstone, tombstone
from edgerec.trials import clear_trial


@record
class Merged:
    """`added`: events that were new here · `known`: that were here already · `forgotten`: that a tombstone kept out,
    from either side."""

    added: int
    known: int
    forgotten: int


def merge(
    device: Device, rows: Iterable[EventRow], tombstones: Iterable[Tombstone], *, ours_win: bool = False
) -> Merged:
    """Joins events by id, puts all of them in the order of (at, event_id), and learns from them anew.

    Two devices that merged each other's events have the same ones in the same order, hence have learned the same,
    whoever merged first. Raises EventConflict where one id names two events, unless `ours_win`; StoreBusy; then nothing
    was changed.
    """
    rows, tombstones = list(rows), set(tombstones)
    merged = [Merged(0, 0, 0)]
    removed = [False]

    def change(stored: list[EventRow]) -> list[EventRow]:
        with device.database.read() as connection:  # here, where another process's forget is noticed if it comes later
            buried = _Buried(tombstones | TombstoneTable.all(connection))
        here = {row.event_id for row in stored}
        union = {row.event_id: row for row in stored}
        for row in rows:
            old = union.setdefault(row.event_id, row)
            union[row.event_id] = old if old is row else joined(old, row, ours_win=ours_win)
        kept = [row for row in union.values() if row.event_id not in buried]
        stay = sum(row.event_id in here for row in kept)
        removed[0] = stay < len(here)
        merged[0] = Merged(len(kept) - stay, len({row.event_id for row in rows} & here), len(union) - len(kept))
        kept.sort(key=lambda row: (row.at, row.event_id))
        # which steps taught them differs between devices: only what is grouped is learned together from now on
        return [changed(row, seq=seq, learned=0) for seq, row in enumerate(kept, 1)]

    def store(connection: sqlite3.Connection) -> None:
        TombstoneTable.add(connection, tombstones)
        if removed[0]:
            clear_traces(connection)
            clear_trial(connection)

    relearn(device, store, change=change)
    return merged[0]


def clear_traces(connection: sqlite3.Connection) -> None:
    """Takes out what plugins and waiting deltas made of events that go, and says that their bytes are still to be
    erased."""
    OutboxTable.clear(connection)
    StateTable.clear(connection)  # what the engine learned anew is stored after this
    MetaTable.remove(connection, FAILURES)
    MetaTable.set(connection, PENDING, "1")


def joined(left: EventRow, right: EventRow, *, ours_win: bool = False) -> EventRow:
    """An event that came in twice, as it came in first, and without passed items that either forgot; the same whichever
    is `left`. Raises EventConflict where they are two events, unless `ours_win`: then it is `left`."""
    try:
        same_payload(left, right, at_given=True)
    except EventConflict:
        if ours_win:
            return left
        raise
    if left.passed == right.passed:
        passed = left.passed
    else:
        both = sorted(set(json.loads(left.passed or "[]")) & set(json.loads(right.passed or "[]")))
        passed = json.dumps(both, ensure_ascii=False) if both else None
    return changed(min(left, right, key=_first), passed=passed)


def _first(row: EventRow) -> tuple[int, str, str]:
    lasting = row.verdict if row.set_aside or row.verdict == PAUSED else ""  # any other is decided anew
    return row.received, row.scenario or "", lasting


class _Buried:
    """Which event ids some tombstones stand for."""

    def __init__(self, tombstones: set[Tombstone]) -> None:
        self._tombstones = tombstones
        self._keys = {key for key, _ in tombstones}

    def __contains__(self, event_id: str) -> bool:
        return any((key, tombstone(key, event_id)) in self._tombstones for key in self._keys)
