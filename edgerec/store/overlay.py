"""Items that the app told of since the bundle was made: `items_overlay`, one row per item, in order of arrival."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgerec.errors import StoreDamaged
from edgerec.records import record
from edgerec.store.blob import decode_state, encode_state
from edgerec.store.database import REPAIR
from edgerec.types import Float32, State


@record
class OverlayItem:
    """`title` None: that of the bundle stays · `content`: per modality float32 (d,), and under `vector` a ready one,
    float32 (dim,) · `popularity` None: predicted from the content · `bundle`: digest of the one that
    ran when it was told."""

    item: str
    title: str | None
    attributes: Mapping[str, Any]
    content: Mapping[str, Float32]
    popularity: float | None
    bundle: str


def sound_item(values: Sequence[Any]) -> OverlayItem:
    """The item of a row. Raises StoreDamaged where it is not what was written."""
    item, title, attributes, content, popularity, bundle = values
    try:
        told = json.loads(attributes)
        sound = isinstance(told, dict) and isinstance(item, str) and isinstance(title, str | None)
        if sound and isinstance(popularity, float | None) and isinstance(bundle, str):
            return OverlayItem(item, title, told, decode_state(content), popularity, bundle)
    except (ValueError, TypeError, StoreDamaged):
        pass
    raise StoreDamaged("an item of the overlay is not what was written", hint=REPAIR)


class OverlayTable:
    """Rows keep their place when an item is told of again: places are the rows that scores are computed for."""

    @staticmethod
    def all(connection: sqlite3.Connection) -> list[OverlayItem]:
        """In order of arrival. Raises StoreDamaged."""
        rows = connection.execute(
            "SELECT item, title, attributes, content, popularity, bundle FROM items_overlay ORDER BY seq"
        )
        return [sound_item(row) for row in rows]

    @staticmethod
    def save(connection: sqlite3.Connection, items: Iterable[OverlayItem], at: int) -> None:
        """`at`: microseconds."""
        connection.executemany(
            "INSERT INTO items_overlay (item, title, attributes, content, popularity, bundle, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (item) DO UPDATE SET title = excluded.title, attributes = excluded.attributes,"
            " content = excluded.content, popularity = excluded.popularity, bundle = excluded.bundle, at = excluded.at",
            [
                (
                    one.item,
                    one.title,
                    json.dumps(dict(one.attributes), ensure_ascii=False, allow_nan=False),
                    encode_state(one.content),
                    one.popularity,
                    one.bundle,
                    at,
                )
                for one in items
            ],
        )

    @staticmethod
    def remove(connection: sqlite3.Connection, items: Iterable[str]) -> None:
        connection.executemany("DELETE FROM items_overlay WHERE item = ?", [(item,) for item in items])

    @staticmethod
    def places(connection: sqlite3.Connection, bundle: str, stamp: str) -> State | None:
        """Where the items of the overlay `stamp` stand in a bundle, if that was kept."""
        row = connection.execute(
            "SELECT blob FROM overlay_places WHERE bundle = ? AND stamp = ?", (bundle, stamp)
        ).fetchone()
        return decode_state(row[0]) if row else None

    @staticmethod
    def save_places(connection: sqlite3.Connection, bundle: str, stamp: str, places: State) -> None:
        """Keeps them, and forgets those of overlays that are no more."""
        connection.execute("DELETE FROM overlay_places WHERE stamp != ?", (stamp,))
        connection.execute(
            "INSERT OR REPLACE INTO overlay_places (bundle, stamp, blob) VALUES (?, ?, ?)",
            (bundle, stamp, encode_state(places)),
        )
