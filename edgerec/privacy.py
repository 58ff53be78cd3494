"""Forgetting: rows, what was learned from them, and every byte of them in the data directory.

First one transaction takes the events out and learns anew from what remains; then the file is rebuilt and the log
cut off. What a kill leaves of the second part is finished at the next open.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgerec import log, profile_file
from edgerec.device import PENDING, Device
from edgerec.errors import ForgetPending, StoreBusy, StoreError
from edgerec.federation_settings import KEYS
from edgerec.merging import Merged, clear_traces, merge
from edgerec.profile_file import ProfileFile
from edgerec.records import changed, record
from edgerec.relearning import relearn
from edgerec.store import EventRow, EventTable, ExposureTable, MetaTable, TombstoneTable
from edgerec.store.database import QUARANTINE
from edgerec.store.tables import KEY_BYTES, tombstone
from edgerec.trials import clear_trial

ALL = "all"
"""What is pending where everything was forgotten: what transports kept goes too."""
_KEY = "tombstone_key"
_DAY = 86_400_000_000
_SLACK = 10


@record
class Forgotten:
    """What was taken out: events, and the items of pages that were logged."""

    events: int
    exposures: int


def forget(device: Device, item: str | None = None) -> Forgotten:
    """Takes out all that is known of the user, or all that has to do with one item.

    Tombstones stay, by which no import brings the events back. Raises StoreBusy, having done nothing, or
    ForgetPending, when all is out of the store but another process keeps the old bytes alive.
    """

    def gone(row: EventRow) -> bool:
        return item is None or row.item == item

    def without(row: EventRow) -> EventRow:
        return row if item is None else changed(row, passed=_without(row.passed, item))

    def shown(connection: sqlite3.Connection) -> int:
        return ExposureTable.remove(connection, item=item)

    from edgerec.store.quarantine import undisturbed

    with undisturbed(device.data_dir, device.config.wait_s):  # or what another recovers meanwhile would come back
        done = _take_out(device, gone, without, shown, bury=True, everything=item is None)
        erase(device, unrecovered=True)
    return done


def retire(device: Device) -> Forgotten:
    """Takes out what is older than the app's configuration says, and the oldest where there are a tenth too many.

    Learning anew takes its time: whole days count, so that it happens once a day at most, and a few events more are no
    reason for it. Raises as `forget` does.
    """
    days, most = device.config.retention_days, device.config.retention_events
    oldest = None if days is None else (round(device.clock() * 1e6) // _DAY - days) * _DAY
    with device.database.read() as connection:
        count, first = EventTable.extent(connection)
        shown = ExposureTable.first(connection)
    many = most is not None and count > most + most // _SLACK
    old_events, old_pages = [oldest is not None and at is not None and at < oldest for at in (first, shown)]
    if not (many or old_events or old_pages):
        return Forgotten(0, 0)

    def exposures(connection: sqlite3.Connection) -> int:
        return 0 if oldest is None else ExposureTable.remove(connection, before=oldest)

    if many or old_events:
        rows = device.events()
        kept = [row for row in rows if oldest is None or min(row.at, row.received) >= oldest]
        stays = {row.event_id for row in (kept[-most:] if many and most is not None else kept)}
        goes = {row.event_id for row in rows} - stays  # and nothing that comes in meanwhile
        done = _take_out(device, lambda row: row.event_id in goes, lambda row: row, exposures, bury=False)
    else:
        with device.latest() as (connection, _):
            done = Forgotten(0, exposures(connection))
            MetaTable.set(connection, PENDING, "1")
    erase(device)
    return done


def _take_out(
    device: Device,
    gone: Callable[[EventRow], bool],
    kept: Callable[[EventRow], EventRow],
    exposures: Callable[[sqlite3.Connection], int],
    *,
    bury: bool,
    everything: bool = False,
) -> Forgotten:
    removed: list[str] = []
    counts = [0]

    def change(rows: list[EventRow]) -> list[EventRow]:
        removed[:] = [row.event_id for row in rows if gone(row)]
        return [kept(row) for row in rows if not gone(row)]

    def store(connection: sqlite3.Connection) -> None:
        if bury:
            key = tombstone_key(connection)
            TombstoneTable.add(connection, [(key, tombstone(key, one)) for one in removed])
            clear_trial(connection)
        counts[0] = exposures(connection)
        clear_traces(connection)
        if bury and everything:
            MetaTable.set(connection, PENDING, ALL)

    relearn(device, store, change=change)
    return Forgotten(len(removed), counts[0])


def tombstone_key(connection: sqlite3.Connection) -> bytes:
    """This device's own key, drawn when it is first needed."""
    with suppress(TypeError, ValueError):  # none yet, or one that was damaged: tombstones bring their own along
        key = bytes.fromhex(MetaTable.get(connection, _KEY))  # type: ignore[arg-type]
        if len(key) == KEY_BYTES:
            return key
    key = os.urandom(KEY_BYTES)
    MetaTable.set(connection, _KEY, key.hex())
    return key


def _without(passed: str | None, item: str) -> str | None:
    """A list of items that were passed over, without one of them."""
    if passed is None:
        return None
    left = [one for one in json.loads(passed) if one != item]
    return json.dumps(left, ensure_ascii=False) if left else None


def erase(device: Device, *, unrecovered: bool = False) -> None:
    """Overwrites what was deleted: damaged copies, free pages, the log. Raises ForgetPending.

    `unrecovered`: also damaged stores that still wait to be recovered.
    """
    if (device.data_dir / QUARANTINE).exists():
        _erase_quarantine(device.data_dir, unrecovered=unrecovered)
    with device.database.read() as connection:
        everything = MetaTable.get(connection, PENDING) == ALL
    if everything:
        _erase_keys(device.data_dir)
    try:
        device.database.erase()
        with device.database.write() as connection:
            MetaTable.remove(connection, PENDING)
    except StoreBusy:
        raise ForgetPending(
            "forgotten, but another process still reads what was there before",
            hint="its bytes are erased at the next open, or by another forget()",
        ) from None
    except StoreError as error:
        raise ForgetPending(f"forgotten, but not yet erased: {error.args[0]}", hint="is there space?") from error


def _erase_keys(data_dir: Path) -> None:
    """What transports kept: by a key that stays, whoever held deltas of it could tell that the user goes on."""
    _erase_folder(data_dir / KEYS, "a key of a transport")


def _erase_quarantine(data_dir: Path, *, unrecovered: bool) -> None:
    from edgerec.store.quarantine import Quarantine

    if not unrecovered and Quarantine(data_dir).waiting():
        raise ForgetPending("a damaged store waits to be recovered", hint="its bytes are erased at the next open")
    _erase_folder(data_dir / QUARANTINE, "a damaged copy of the store")


def _erase_folder(folder: Path, what: str) -> None:
    """Removes a folder that may be missing. Raises ForgetPending, saying what is left."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        said = f"forgotten, but {what} is still there: {error.strerror}"
        raise ForgetPending(said, hint="is data_dir writable?") from None


def settle(device: Device, *, pending: bool) -> None:
    """What is due when a store is opened: an erasure that did not end, and the limits of retention."""
    try:
        if pending:
            erase(device)
        retire(device)
    except StoreError as error:
        log.warning("erasing has to wait: %s", error)


def export_profile(device: Device, path: Path, passphrase: str | None = None) -> ProfileFile:
    """Writes events and tombstones to a file. Raises MissingDistribution, or StoreError where it cannot be written."""
    with device.database.steady() as connection:
        profile = ProfileFile(EventTable.after(connection), sorted(TombstoneTable.all(connection)))
    try:
        profile_file.save(path, profile, passphrase)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}", hint="is there space, and leave?") from None
    return profile


def import_profile(device: Device, path: Path, passphrase: str | None = None) -> Merged:
    """Joins a file's events with those here and learns from all of them anew; what was forgotten there is so here.

    Raises ProfileInvalid, EventConflict or StoreBusy, and then nothing was changed; or ForgetPending.
    """
    profile = profile_file.read(path, passphrase)
    merged = merge(device, profile.rows, profile.tombstones)
    with device.database.read() as connection:
        pending = MetaTable.get(connection, PENDING) is not None
    if pending:
        erase(device)
    return merged
