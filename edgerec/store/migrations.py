"""The store's schema, as named, append-only migrations. Imported only when one is pending.

Each migration and the record that it was applied commit together; `PRAGMA user_version` counts them, so that
opening an up-to-date store needs no import of sqlite-utils.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from edgerec.store.database import SCHEMA

store = Migrations("edgerec")


@store()
def m001_first(db: Database) -> None:
    """Events, learned states, exposures, bundles and settings of the store itself."""
    db["events"].create(  # type: ignore[union-attr]
        {
            "seq": int,
            "event_id": str,
            "item": str,
            "kind": str,
            "value": float,
            "at": int,
            "group": str,
            "recommendation_id": str,
            "context": str,
            "received": int,
            "scenario": str,
            "learned": int,
            "verdict": str,
        },
        pk="seq",
        not_null={"event_id", "item", "kind", "at", "received", "learned", "verdict"},
    )
    db["events"].create_index(["event_id"], unique=True)  # type: ignore[union-attr]
    db["exposures"].create(  # type: ignore[union-attr]
        {
            "seq": int,
            "recommendation_id": str,
            "scenario": str,
            "item": str,
            "position": int,
            "score": float,
            "propensity": float,
            "at": int,
        },
        pk="seq",
    )
    db["exposures"].create_index(["recommendation_id"])  # type: ignore[union-attr]
    db["states"].create(  # type: ignore[union-attr]
        {"plugin": str, "name": str, "schema": int, "bundle_version": int, "blob": bytes},
        pk=("plugin", "name", "bundle_version"),
    )
    db["bundles"].create(  # type: ignore[union-attr]
        {"digest": str, "name": str, "version": int, "path": str, "status": str, "reason": str, "at": int},
        pk="digest",
    )
    db["meta"].create({"key": str, "value": str}, pk="key")  # type: ignore[union-attr]
    db.execute("PRAGMA user_version = 1")


@store()
def m002_overlay(db: Database) -> None:
    """Items that came after the bundle."""
    db["items_overlay"].create(  # type: ignore[union-attr]
        {
            "seq": int,
            "item": str,
            "title": str,
            "attributes": str,
            "content": bytes,
            "popularity": float,
            "bundle": str,
            "at": int,
        },
        pk="seq",
        not_null={"item", "attributes", "content", "bundle", "at"},
    )
    db["items_overlay"].create_index(["item"], unique=True)  # type: ignore[union-attr]
    db["overlay_places"].create({"bundle": str, "stamp": str, "blob": bytes}, pk="bundle")  # type: ignore[union-attr]
    db.execute("PRAGMA user_version = 2")


@store()
def m003_passed(db: Database) -> None:
    """What an event's page showed and the user passed over."""
    db["events"].add_column("passed", str)  # type: ignore[union-attr]
    db.execute("PRAGMA user_version = 3")


@store()
def m004_trust(db: Database) -> None:
    """Checksums of events, and what is left of those that were forgotten."""
    from edgerec.store.events import checksum

    names = ", ".join(f'"{name}"' for name in db["events"].columns_dict if name != "seq")
    db["events"].add_column("crc", int)  # type: ignore[union-attr]
    for seq, *values in db.execute(f"SELECT seq, {names} FROM events").fetchall():
        db.execute("UPDATE events SET crc = ? WHERE seq = ?", (checksum(values), seq))
    db["tombstones"].create({"seq": int, "key": bytes, "digest": bytes}, pk="seq", not_null={"key", "digest"})  # type: ignore[union-attr]
    db["tombstones"].create_index(["key", "digest"], unique=True)  # type: ignore[union-attr]
    db.execute("PRAGMA user_version = 4")


@store()
def m005_federation(db: Database) -> None:
    """Deltas on their way, and events that none has counted."""
    db["outbox"].create(  # type: ignore[union-attr]
        {
            "seq": int,
            "id": str,
            "bundle_version": int,
            "payload": bytes,
            "second": bytes,
            "events": str,
            "created": int,
            "arrived": int,
        },
        pk="seq",
        not_null={"id", "bundle_version", "payload", "events", "created", "arrived"},
    )
    db["outbox"].create_index(["id"], unique=True)  # type: ignore[union-attr]
    db["uncounted"].create({"event_id": str}, pk="event_id")  # type: ignore[union-attr]
    db.execute("PRAGMA user_version = 5")


def migrate(connection: sqlite3.Connection) -> None:
    """Applies what is pending; each step wholly or not at all. A number that was damaged is put right."""
    store.apply(Database(connection))
    connection.execute(f"PRAGMA user_version = {SCHEMA}")
