"""A damaged store never keeps the app from opening: it is set aside, and what it holds comes back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgerec import log
from edgerec.device import PENDING, Device
from edgerec.errors import EdgeRecError, StoreDamaged
from edgerec.store import MetaTable
from edgerec.store.database import DAMAGED, QUARANTINE

if TYPE_CHECKING:
    from edgerec.store.quarantine import Quarantine

T = TypeVar("T")


def started(device: Device, start: Callable[[], T]) -> T:
    """Starts a device; over a damaged store, with what could be recovered of it, and with what was due erased."""
    result, unsettled = _started(device, start)
    recover(device, unsettled)
    with device.database.read() as connection:
        pending = MetaTable.get(connection, PENDING) is not None
    if pending or device.config.retains:
        from edgerec.privacy import settle  # most devices keep everything

        settle(device, pending=pending)
    return result


def _started(device: Device, start: Callable[[], T]) -> tuple[T, Collection[Path]]:
    """What `start` gives, and damaged stores whose settings could not be taken over."""
    unsettled: Collection[Path] = ()
    if (device.data_dir / DAMAGED).exists():
        unsettled = _set_aside(device)
    elif (device.data_dir / QUARANTINE).exists():
        unsettled = _restore(device)
    try:
        return start(), unsettled
    except StoreDamaged as error:
        log.warning("the store is damaged and is set aside: %s", error)
    unsettled = _set_aside(device)
    return start(), unsettled


def recover(device: Device, unsettled: Collection[Path]) -> None:
    """Merges the events of every damaged store that waits. One that cannot be read or merged now waits on, and so does
    one of those that are `unsettled`."""
    if not (device.data_dir / QUARANTINE).exists():
        return
    from edgerec.store.quarantine import undisturbed

    quarantine = _quarantine(device)
    for home in quarantine.waiting():
        try:
            # or what another process forgets meanwhile would come back; one that recovers is not waited for
            with undisturbed(device.data_dir, 0):
                if home in quarantine.waiting():
                    report = _merged(device, quarantine, home)
                    if home not in unsettled:
                        quarantine.finished(home, report)
        except (EdgeRecError, OSError) as error:
            log.warning("a damaged store waits to be recovered: %s", type(error).__name__)


def _quarantine(device: Device) -> Quarantine:
    # imported here because hardly any start of an app needs it
    from edgerec.store.quarantine import Quarantine

    return Quarantine(device.data_dir)


def _set_aside(device: Device) -> Collection[Path]:
    _quarantine(device).take(device.database)
    return _restore(device)


def _restore(device: Device) -> Collection[Path]:
    """Settings and bundles first: they decide what is started. Those where it failed."""
    quarantine = _quarantine(device)
    failed = []
    for home in quarantine.waiting():
        try:
            quarantine.restore_side_tables(home, device.database)
        except (EdgeRecError, OSError) as error:
            log.warning("settings of a damaged store were not recovered: %s", type(error).__name__)
            failed.append(home)
    return failed


def _merged(device: Device, quarantine: Quarantine, home: Path) -> Mapping[str, Any]:
    """What came of a damaged store."""
    from edgerec.merging import merge

    found = quarantine.salvaged(home)
    if not found.rows and not found.tombstones:
        return {"found": 0, "added": 0}
    merged = merge(device, found.rows, found.tombstones, ours_win=True)
    return {"found": len(found.rows), "added": merged.added, "forgotten": merged.forgotten}
