"""The smaller tables: learned states, exposures, installed bundles, and the store's own settings."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from edgerec.errors import StoreDamaged
from edgerec.records import record
from edgerec.store.blob import decode_state, encode_state
from edgerec.store.database import REPAIR
from edgerec.types import State

KEY_BYTES = 16
_DIGEST_BYTES = 16

Tombstone = tuple[bytes, bytes]
"""(key, digest)."""


def tombstone(key: bytes, event_id: str) -> bytes:
    """What is left of a forgotten event: BLAKE2b of its id under a key, 16 bytes."""
    from hashlib import blake2b

    return blake2b(event_id.encode(), key=key, digest_size=_DIGEST_BYTES).digest()


class TombstoneTable:
    """Which events were forgotten, so that nothing brings them back; it says no more than that of an id."""

    @staticmethod
    def all(connection: sqlite3.Connection) -> set[Tombstone]:
        """Raises StoreDamaged."""
        found = set(connection.execute("SELECT key, digest FROM tombstones"))
        if not all(isinstance(one, bytes) and len(one) == KEY_BYTES == _DIGEST_BYTES for both in found for one in both):
            raise StoreDamaged("a tombstone is not what was written", hint=REPAIR)
        return found

    @staticmethod
    def add(connection: sqlite3.Connection, found: Iterable[Tombstone]) -> None:
        connection.executemany("INSERT OR IGNORE INTO tombstones (key, digest) VALUES (?, ?)", sorted(found))

    @staticmethod
    def forgotten(connection: sqlite3.Connection, event_ids: Iterable[str]) -> set[str]:
        """Those of the ids that were forgotten."""
        keys = TombstoneTable._keys(connection)
        find = "SELECT 1 FROM tombstones WHERE key = ? AND digest = ?"
        return {
            one for one in event_ids for key in keys if connection.execute(find, (key, tombstone(key, one))).fetchone()
        }

    @staticmethod
    def _keys(connection: sqlite3.Connection) -> list[bytes]:
        """One per device that forgot; SELECT DISTINCT would look at every tombstone."""
        keys: list[bytes] = []
        after = "SELECT min(key) FROM tombstones WHERE key > ?"
        while (key := connection.execute(after, (keys[-1] if keys else b"",)).fetchone()[0]) is not None:
            keys.append(key)
        return keys


class StateTable:
    """Learned states, keyed by plugin, name and bundle version."""

    @staticmethod
    def load(connection: sqlite3.Connection, bundle_version: int) -> dict[tuple[str, str], tuple[int, bytes]]:
        """(plugin, name) → (schema, blob)."""
        rows = connection.execute(
            "SELECT plugin, name, schema, blob FROM states WHERE bundle_version = ?", (bundle_version,)
        )
        return {(plugin, name): (schema, blob) for plugin, name, schema, blob in rows}

    @staticmethod
    def save(
        connection: sqlite3.Connection, plugin: str, name: str, schema: int, bundle_version: int, state: State
    ) -> None:
        connection.execute(
            "INSERT INTO states (plugin, name, schema, bundle_version, blob) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (plugin, name, bundle_version) DO UPDATE SET schema = excluded.schema, blob = excluded.blob",
            (plugin, name, schema, bundle_version, encode_state(state)),
        )

    @staticmethod
    def clear(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM states")

    @staticmethod
    def decode(found: tuple[int, bytes]) -> State:
        return decode_state(found[1])


class ExposureTable:
    """What was shown: one row per item of a page."""

    @staticmethod
    def insert(connection: sqlite3.Connection, rows: Iterable[tuple[str, str, str, int, float, float, int]]) -> None:
        """Rows of (recommendation_id, scenario, item, position, score, propensity, at in microseconds)."""
        connection.executemany(
            "INSERT INTO exposures (recommendation_id, scenario, item, position, score, propensity, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    @staticmethod
    def remove(connection: sqlite3.Connection, *, item: str | None = None, before: int | None = None) -> int:
        """Takes out those of an item, or older than a time in microseconds, or all; returns how many."""
        query = "DELETE FROM exposures WHERE (?1 IS NULL OR item = ?1) AND (?2 IS NULL OR at < ?2)"
        return connection.execute(query, (item, before)).rowcount

    @staticmethod
    def first(connection: sqlite3.Connection) -> int | None:
        """When the earliest was shown, in microseconds."""
        first: int | None = connection.execute("SELECT min(at) FROM exposures").fetchone()[0]
        return first

    @staticmethod
    def scenario_of(connection: sqlite3.Connection, recommendation_id: str) -> str | None:
        row = connection.execute(
            "SELECT scenario FROM exposures WHERE recommendation_id = ? LIMIT 1", (recommendation_id,)
        ).fetchone()
        return row[0] if row else None

    @staticmethod
    def page(connection: sqlite3.Connection, recommendation_id: str) -> list[tuple[str, int]]:
        """(item, position from 1) of what a page showed, from the top."""
        return connection.execute(
            "SELECT item, position FROM exposures WHERE recommendation_id = ? ORDER BY position", (recommendation_id,)
        ).fetchall()

    @staticmethod
    def all(connection: sqlite3.Connection) -> Iterator[tuple[str, str, str, float, int]]:
        """(recommendation_id, scenario, item, propensity, at) of every exposure, page by page, each from the top."""
        yield from connection.execute(
            "SELECT recommendation_id, scenario, item, propensity, at FROM exposures ORDER BY seq"
        )

    @staticmethod
    def count(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT count(*) FROM exposures").fetchone()[0])


@record
class BundleRow:
    """A bundle this device installed. `status`: current · previous · rolled_back."""

    digest: str
    name: str
    version: int
    path: str
    status: str
    reason: str
    at: int


def sound_bundle(values: Sequence[Any]) -> BundleRow:
    """The bundle of a row. Raises StoreDamaged where it is not what was written."""
    if tuple(map(type, values)) != (str, str, int, str, str, str, int):
        raise StoreDamaged("what is kept of a bundle is not what was written", hint=REPAIR)
    return BundleRow(*values)


class BundleTable:
    """Installed bundles and what became of them."""

    @staticmethod
    def all(connection: sqlite3.Connection) -> list[BundleRow]:
        """The oldest first. Raises StoreDamaged."""
        rows = connection.execute("SELECT digest, name, version, path, status, reason, at FROM bundles ORDER BY at")
        return [sound_bundle(row) for row in rows]

    @staticmethod
    def save(connection: sqlite3.Connection, row: BundleRow) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO bundles (digest, name, version, path, status, reason, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.digest, row.name, row.version, row.path, row.status, row.reason, row.at),
        )

    @staticmethod
    def remove(connection: sqlite3.Connection, row: BundleRow) -> None:
        """Forgets a bundle and what was learned under it."""
        connection.execute("DELETE FROM bundles WHERE digest = ?", (row.digest,))
        connection.execute("DELETE FROM states WHERE bundle_version = ?", (row.version,))


class MetaTable:
    """The store's own settings, as text."""

    @staticmethod
    def get(connection: sqlite3.Connection, key: str) -> str | None:
        row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    @staticmethod
    def set(connection: sqlite3.Connection, key: str, value: str) -> None:
        connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    @staticmethod
    def remove(connection: sqlite3.Connection, key: str) -> None:
        connection.execute("DELETE FROM meta WHERE key = ?", (key,))
