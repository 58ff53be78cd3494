"""A damaged store never keeps the app from opening: it is set aside, and what it holds comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    result = _started(device, start)
    recover(device)
    with device.database.read() as connection:
        pending = MetaTable.get(connection, PENDING) is not None
    if pending or device.config.retains:
        from edgerec.privacy import settle  # most devices keep everything

        settle(device, pending=pending)
    return result


def _started(device: Device, start: Callable[[], T]) -> T:
    if (device.data_dir / DAMAGED).exists() or (device.data_dir / QUARANTINE).exists():
        _prepare(device)
    try:
        return start()
    except StoreDamaged as error:
        log.warning("the store is damaged and is set aside: %s", error)
    _set_aside(device)
    return start()


def recover(device: Device) -> None:
    """Merges the events of every damaged store that waits; one that cannot be read or merged now waits on."""
    if not (device.data_dir / QUARANTINE).exists():
        return
    from edgerec.store.quarantine import undisturbed

    quarantine = _quarantine(device)
    for home in quarantine.waiting():
        try:
            # or what another process forgets meanwhile would come back; one that recovers is not waited for
            with undisturbed(device.data_dir, 0):
                if home in quarantine.waiting():
                    quarantine.finished(home, _merged(device, quarantine, home))
        except (EdgeRecError, OSError) as error:
            log.warning("a damaged store waits to be recovered: %s", type(error).__name__)


def _quarantine(device: Device) -> Quarantine:
    # imported here because hardly any start of an app needs it
    from edgerec.store.quarantine import Quarantine

    return Quarantine(device.data_dir)


def _prepare(device: Device) -> None:
    if (device.data_dir / DAMAGED).exists():
        _set_aside(device)
    else:
        _restore(device)


def _set_aside(device: Device) -> None:
    _quarantine(device).take(device.database)
    _restore(device)


def _restore(device: Device) -> None:
    """Settings and bundles first: they decide what is started."""
    quarantine = _quarantine(device)
    for home in quarantine.waiting():
        try:
            quarantine.restore_side_tables(home, device.database)
        except (EdgeRecError, OSError) as error:
            log.warning("settings of a damaged store were not recovered: %s", type(error).__name__)


def _merged(device: Device, quarantine: Quarantine, home: Path) -> Mapping[str, Any]:
    """What came of a damaged store."""
    from edgerec.merging import merge

    found = quarantine.salvaged(home)
    if not found.rows and not found.tombstones:
        return {"found": 0, "added": 0}
    merged = merge(device, found.rows, found.tombstones, ours_win=True)
    return {"found": len(found.rows), "added": merged.added, "forgotten": merged.forgotten}
