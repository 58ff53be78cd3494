"""Learning everything anew from the stored events: in another item space, or when some of them came or went."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from edgerec.device import GENERATION, N_RECENT, Device, Snapshot, Stale, arrival
from edgerec.engine import Engine
from edgerec.errors import StoreDamaged
from edgerec.learning.replay import Replay
from edgerec.store import CountedEvents, EventRow, EventTable, MetaTable

_TRIES = 3

Change = Callable[[list[EventRow]], list[EventRow]]
"""From the stored events, in order of arrival, to those that shall take their places."""


def relearn(
    device: Device,
    store: Callable[[sqlite3.Connection], None],
    *,
    engine: Engine | None = None,
    change: Change | None = None,
) -> Replay:
    """Replays every event from zero and stores what was learned, in one transaction, which `store` shares.

    `engine`: makes it the running one; None keeps the one that runs. `change`: puts other events in the place of those
    that are stored. Raises StoreBusy, and what `change` or `store` raise; then nothing was changed.
    """
    for left in reversed(range(_TRIES)):
        # a replay takes its time: only where others kept writing meanwhile do they have to wait for it
        with _before(device, engine, patient=left > 0) as before:
            try:
                return _once(device, before, store, engine or before.engine, change)
            except Stale:
                continue
    raise StoreDamaged("the store changed while nobody else could write to it")


def _before(device: Device, engine: Engine | None, *, patient: bool) -> AbstractContextManager[Snapshot]:
    if engine is not None and not device.started:
        return nullcontext(device.reload(engine, follow=False))
    newest = device.snapshot()
    return nullcontext(newest) if patient else device.claimed(newest.engine)


def _once(
    device: Device,
    before: Snapshot,
    store: Callable[[sqlite3.Connection], None],
    engine: Engine,
    change: Change | None,
) -> Replay:
    stored = device.events()
    rows = stored if change is None else change(stored)
    replayed = engine.replay(rows, obey=False)
    recent = tuple(map(arrival, rows[-N_RECENT:])) if engine.filters else ()
    after = Snapshot(engine, replayed.history, replayed.learned, before.paused, recent)
    with device.exclusive():
        with device.write(before) as connection:
            generation = None
            if change is None:
                EventTable.decide(connection, replayed.decided)
            else:
                generation = _replace(connection, rows, replayed.decided)
            store(connection)
            device.save_learned(connection, engine, replayed.learned)
            device.save_overlay(connection, engine.bundle)
        device.adopt(after, generation=generation)
    return replayed


def _replace(connection: sqlite3.Connection, rows: Sequence[EventRow], decided: Sequence[EventRow]) -> str:
    """Stores other events for those there are; returns the store's new generation, by which other processes know."""
    latest = {row.seq: row for row in decided}
    uncounted = CountedEvents.open_ids(connection)
    EventTable.replace(connection, [latest.get(row.seq, row) for row in rows])
    CountedEvents.keep(connection, uncounted)
    generation = os.urandom(8).hex()
    MetaTable.set(connection, GENERATION, generation)
    return generation
