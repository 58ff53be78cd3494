"""Recording: an event is checked, tested, learned from and stored, all in one transaction or not at all."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Sequence

from edgerec.device import N_RECENT, Device, Snapshot, Stale, arrival
from edgerec.engine import Engine
from edgerec.event_rows import event_row
from edgerec.history import History
from edgerec.interfaces import Arrival
from edgerec.learning.exposed import passed_over
from edgerec.learning.replay import PAUSED, UNKNOWN_ITEM
from edgerec.records import changed
from edgerec.store import EventRow, EventTable, TombstoneTable
from edgerec.store.events import QUARANTINED, same_payload
from edgerec.types import Event, Receipt

_REMEMBERED = 50
"""What the user had to do with that lately was not passed over, though another item of the page was chosen."""


def record(device: Device, events: Iterable[Event]) -> list[Receipt]:
    """Records events in one transaction; receipts in the order given.

    Raises InvalidEvent, UnknownEventKind, EventConflict or StoreBusy, and then stored nothing at all.
    """
    events = list(events)
    receipts, stored = _record(device, events)
    _tell(device, events, receipts, stored)
    return receipts


def _record(device: Device, events: Sequence[Event]) -> tuple[list[Receipt], Sequence[EventRow]]:
    with device.exclusive() as snapshot:
        now = device.clock()
        try:
            return _recorded(device, snapshot, events, _rows(device, snapshot, events, now))
        except Stale:
            with device.claimed(snapshot.engine) as snapshot:  # rows anew: what a page showed may be forgotten by now
                return _recorded(device, snapshot, events, _rows(device, snapshot, events, now))


def _rows(device: Device, snapshot: Snapshot, events: Sequence[Event], now: float) -> list[EventRow]:
    engine = snapshot.engine
    rows = [event_row(event, engine.bundle.manifest, now) for event in events]
    return [_with_page(device, engine, snapshot.history, row) for row in rows]


def _tell(device: Device, events: Sequence[Event], receipts: Sequence[Receipt], stored: Sequence[EventRow]) -> None:
    """Tells the plugins that observe."""
    hooks = device.plugins.hooks
    if hooks.asked("edgerec_update_decided"):
        _tell_of_steps(device, stored)
    if hooks.asked("edgerec_event_recorded"):
        for event, receipt in zip(events, receipts, strict=True):
            hooks.observe("edgerec_event_recorded", event=event, receipt=receipt)


def _tell_of_steps(device: Device, stored: Sequence[EventRow]) -> None:
    owner = device.snapshot().engine.learner.updaters.owner
    if owner is None:
        return
    steps: dict[int, list[EventRow]] = {}
    for row in stored:
        if row.learned:
            steps.setdefault(row.learned, []).append(row)
    for rows in steps.values():
        told = {"updater": owner.name, "verdict": rows[0].verdict, "n_events": len(rows)}
        device.plugins.hooks.observe("edgerec_update_decided", **told)


def _with_page(device: Device, engine: Engine, history: History, row: EventRow) -> EventRow:
    page = row.recommendation_id
    if page is None or (scenario := device.shown_in(page)) is None:
        return row
    row = changed(row, scenario=engine.learns_as(scenario))
    if not engine.n_exposed:
        return row
    known = {engine.bundle.catalogue.item(item) for item in history.rows[-_REMEMBERED:].tolist()}
    passed = passed_over(device.shown_on(page), row.item, row.event_id, engine.n_exposed, known)
    return changed(row, passed=json.dumps(passed, ensure_ascii=False)) if passed else row


def _recorded(
    device: Device, before: Snapshot, events: Sequence[Event], rows: Sequence[EventRow]
) -> tuple[list[Receipt], Sequence[EventRow]]:
    """One try: learn on the snapshot, then store, unless somebody else stored in between."""
    receipts: dict[int, Receipt] = {}
    fresh = _without_duplicates(device, events, rows, receipts)
    now = rows[0].received if rows else 0
    snapshot = before
    stored: list[EventRow] = []
    timed = {place for place in fresh if len(rows) == 1 or events[place].at is not None}
    for unit in [fresh] if before.paused and fresh else _units(fresh, rows):
        reasons, recent = _reviewed(snapshot, unit, rows, timed)
        for place, reason in reasons.items():
            receipts[place] = Receipt(rows[place].event_id, "quarantined", False)
            stored.append(rows[place].decided(0, f"{QUARANTINED}: {reason}"))
        sound = [(place, rows[place]) for place in unit if place not in reasons]
        snapshot, kept = _learned(snapshot, sound, receipts, recent)
        stored += kept
    if not stored:
        return [receipts[place] for place in range(len(rows))], ()
    with device.write(before) as connection:
        EventTable.insert(connection, stored)
        if snapshot.learned is not before.learned:
            device.save_learned(connection, snapshot.engine, snapshot.learned)
    device.adopt(snapshot, added=len(stored))
    future = {place for place, row in enumerate(rows) if row.at > now}
    told = [
        changed(receipts[place], flags=("future",)) if place in future else receipts[place]
        for place in range(len(rows))
    ]
    return told, stored


def _without_duplicates(
    device: Device, events: Sequence[Event], rows: Sequence[EventRow], receipts: dict[int, Receipt]
) -> list[int]:
    """Places of the events that are new; repeated ones get their receipt here."""
    named = [event.event_id for event in events if event.event_id is not None]
    known, forgotten = _stored(device, named) if named else ({}, set())
    new: list[int] = []
    for place, (event, row) in enumerate(zip(events, rows, strict=True)):
        if row.event_id in forgotten:
            receipts[place] = Receipt(row.event_id, "forgotten", False)
            continue
        old = known.setdefault(row.event_id, row)
        if old is row:
            new.append(place)
        elif same_payload(old, row, at_given=event.at is not None):
            receipts[place] = Receipt(row.event_id, "duplicate", False)
    return new


def _stored(device: Device, event_ids: Sequence[str]) -> tuple[dict[str, EventRow], set[str]]:
    """Those of the events that are stored, by id; those that were forgotten."""
    with device.database.read() as connection:
        return EventTable.find(connection, event_ids), TombstoneTable.forgotten(connection, event_ids)


def _units(fresh: Sequence[int], rows: Sequence[EventRow]) -> list[list[int]]:
    """Places by learning step: a group's events together where its first one stands, in canonical order."""
    units: dict[str | int, list[int]] = {}
    for place in fresh:
        group = rows[place].group
        units.setdefault(place if group is None else group, []).append(place)
    return [sorted(unit, key=lambda place: (rows[place].at, rows[place].event_id)) for unit in units.values()]


def _reviewed(
    snapshot: Snapshot, unit: Sequence[int], rows: Sequence[EventRow], timed: Collection[int]
) -> tuple[dict[int, str], tuple[Arrival, ...]]:
    """What the event filters set aside, place → reason, and the last arrivals after the unit.

    Events that came in together without their times say nothing of how fast they followed one another.
    """
    reasons: dict[int, str] = {}
    recent = snapshot.recent
    if not snapshot.engine.filters:
        return reasons, recent
    for place in unit:
        if place in timed:
            one = arrival(rows[place])
            if (reason := snapshot.engine.set_aside(one, recent)) is not None:
                reasons[place] = reason
            recent = (*recent, one)[-N_RECENT:]
    return reasons, recent


def _learned(
    snapshot: Snapshot,
    unit: Sequence[tuple[int, EventRow]],
    receipts: dict[int, Receipt],
    recent: tuple[Arrival, ...],
) -> tuple[Snapshot, list[EventRow]]:
    """One learning step: the snapshot after it, and its rows with their verdicts."""
    engine = snapshot.engine
    group = engine.group_events([row for _, row in unit])
    known = [event for event in group if event.item >= 0]
    learned, verdict = snapshot.learned, PAUSED
    ranks: Iterator[int | None] = itertools.repeat(None)
    if known and not snapshot.paused:
        step = engine.learner.step(learned, snapshot.situation, known)
        learned, verdict, ranks = step.learned, step.verdict, iter(step.ranks)
    kept = []
    for (place, row), event in zip(unit, group, strict=True):
        if event.item < 0:
            receipts[place] = Receipt(row.event_id, "unknown_item", False)
            kept.append(row.decided(0, PAUSED if snapshot.paused else UNKNOWN_ITEM))
        else:
            taught = learned is not snapshot.learned
            receipts[place] = Receipt(row.event_id, "stored", taught and verdict == "learned", next(ranks))
            kept.append(row.decided(learned.steps if taught else 0, verdict))
    if not known and recent is snapshot.recent:
        return snapshot, kept
    history = snapshot.history.extended([event.happening() for event in known]) if known else snapshot.history
    return Snapshot(engine, history, learned, snapshot.paused, recent), kept
