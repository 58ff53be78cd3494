"""Whether this device takes part in federation: the user's consent, the control group, how often a delta was made."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING

from edgerec.store import CountedEvents, MetaTable, OutboxTable

if TYPE_CHECKING:
    from edgerec.federation_settings import FederationSettings

CONSENT = "federation_consent"
DRAW = "federation_draw"
"""The setting that keeps a number in [0, 1), drawn once: below the control group's share the device belongs to it."""
MADE = "federation_made"
"""The setting that keeps when the last deltas were made. It outlives what is forgotten: a user who forgets and goes on
must not have more counted than anybody else."""
WEEK = 7 * 86_400_000_000
_MOST_KEPT = 168


def consents(connection: sqlite3.Connection) -> bool:
    """Whether the user agreed, and did not take it back."""
    return MetaTable.get(connection, CONSENT) == "1"


def set_consent(connection: sqlite3.Connection, given: bool) -> None:
    """Given: what is recorded from now on may be counted, nothing of before. Taken back: what waits is deleted."""
    if given == consents(connection):
        return
    MetaTable.set(connection, CONSENT, "1" if given else "0")
    OutboxTable.clear(connection)
    CountedEvents.cover(connection)
    if given and MetaTable.get(connection, DRAW) is None:
        MetaTable.set(connection, DRAW, repr(int.from_bytes(os.urandom(4), "little") / 2**32))


def is_control(connection: sqlite3.Connection, settings: FederationSettings | None) -> bool:
    """Whether the device serves what the bundle says, and nothing learned, so that others can be compared with it."""
    if settings is None or not settings.enabled or not consents(connection):
        return False
    with suppress(TypeError, ValueError):
        return float(MetaTable.get(connection, DRAW)) < settings.control_share  # type: ignore[arg-type]
    return False


def made_lately(connection: sqlite3.Connection, now: int) -> list[int]:
    """When deltas were made within the last seven days, in microseconds; a time in the future counts too."""
    kept = MetaTable.get(connection, MADE)
    if kept is None:
        return []
    with suppress(ValueError):
        times = json.loads(kept)
        if isinstance(times, list) and all(isinstance(one, int) for one in times):
            return [one for one in times if one > now - WEEK]
    return [now] * _MOST_KEPT  # damaged: rather none for a week than one too many


def note_made(connection: sqlite3.Connection, now: int) -> None:
    """Remembers that a delta was made."""
    MetaTable.set(connection, MADE, json.dumps([*made_lately(connection, now), now][-_MOST_KEPT:]))
