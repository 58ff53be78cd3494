"""Damaged stores, set aside in `quarantine/` of the data directory until what they hold was recovered."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from edgerec.errors import StoreBusy, StoreDamaged, StoreError
from edgerec.files import exclusive, scratch, write_whole
from edgerec.store.blob import decode_state
from edgerec.store.database import DAMAGED, QUARANTINE, Database
from edgerec.store.events import EventTable
from edgerec.store.outbox import MARK, OutboxTable
from edgerec.store.overlay import OverlayItem, OverlayTable, sound_item
from edgerec.store.salvage import Salvaged, salvage
from edgerec.store.tables import BundleRow, BundleTable, TombstoneTable, sound_bundle

MOST_KEPT = 3
"""Recovered stores beyond these are deleted, the oldest first."""

DATABASE = "edgerec.db"

_LOCK = ".edgerec.quarantine.lock"
_REPORT = "recovered.json"
_SIDE_TABLES = ("bundles", "meta", "items_overlay", "exposures")
_OF_THE_DISK = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
_FILES = (f"{DATABASE}-wal", f"{DATABASE}-shm", DATABASE)


def _damaged(database: Database) -> bool:
    try:
        check(database)
    except StoreDamaged:
        return True
    return False


def check(database: Database) -> None:
    """Looks at every page, and at every row that must be what was written. Raises StoreDamaged."""
    with database.read() as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise StoreDamaged(f"{database.path}: {found}")
        for table in (*_SIDE_TABLES, "overlay_places", "uncounted"):
            for _ in connection.execute(f"SELECT * FROM {table}"):  # a text that is none is met by who reads it alone
                pass
        EventTable.after(connection)
        BundleTable.all(connection)
        OverlayTable.all(connection)
        OutboxTable.all(connection)
        TombstoneTable.all(connection)
        for (blob,) in connection.execute("SELECT blob FROM states"):
            decode_state(blob)


@contextmanager
def undisturbed(data_dir: Path, wait_s: float) -> Iterator[None]:
    """Within the block nobody else sets a store aside, recovers one, or forgets. Raises StoreBusy or StoreError."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(data_dir / _LOCK, wait_s=wait_s))
        except TimeoutError:
            raise StoreBusy("another process recovers a damaged store, or forgets", hint="try again later") from None
        except OSError as error:
            raise StoreError(f"{data_dir} cannot be locked: {error.strerror}", hint="is data_dir writable?") from None
        yield


class Quarantine:
    """The damaged stores of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.folder = data_dir / QUARANTINE

    def take(self, database: Database) -> Path | None:
        """Moves the store here if it is damaged; None where it is sound after all. `database` is closed.

        Raises StoreError where it cannot be moved, or another process does not let go of it.
        """
        database.close()
        with undisturbed(self.data_dir, database.wait_s):  # another process may just have done so
            try:
                home = self._begun()
                if home is None and _damaged(database):
                    home = self._new_home()
                if home is not None:
                    self._move(database, home)
                (self.data_dir / DAMAGED).unlink(missing_ok=True)
            except OSError as error:
                said = f"the damaged store cannot be set aside: {error.strerror}"
                raise StoreError(said, hint="is the disk full or read-only?") from None
            finally:
                database.close()
        return home

    def _begun(self) -> Path | None:
        """Where a process that was killed had begun to move the store to: its log may be there already."""
        homes = self._homes()
        if homes and not any((homes[-1] / name).exists() for name in (DATABASE, _REPORT)):
            return homes[-1]
        return None

    def _new_home(self) -> Path:
        numbers = [int(home.name) for home in self._homes()]
        home = self.folder / str(max(numbers, default=0) + 1)
        home.mkdir(parents=True)
        return home

    def _move(self, database: Database, home: Path) -> None:
        """Moves the files, between two transactions of whoever still writes to them."""
        with ExitStack() as stack:
            with suppress(StoreDamaged):
                stack.enter_context(database.write())
            for name in _FILES:  # the database last: while it is there, the next open finds that this was begun
                # and opens it, which makes an empty log where the one with events has gone already
                if (self.data_dir / name).exists() and not (home / name).exists():
                    os.replace(self.data_dir / name, home / name)

    def _homes(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted((one for one in self.folder.iterdir() if one.name.isdecimal()), key=lambda one: int(one.name))

    def reports(self) -> dict[str, Mapping[str, Any] | None]:
        """Per damaged store what was recovered of it, None where it waits."""
        return {home.name: _read(home / _REPORT) for home in self._homes()}

    def waiting(self) -> list[Path]:
        """Damaged stores of which nothing was recovered yet, the oldest first."""
        return [home for home in self._homes() if not (home / _REPORT).is_file()]

    def salvaged(self, home: Path) -> Salvaged:
        """Events and tombstones of a damaged store."""
        return salvage(home / DATABASE, home / f"{DATABASE}-wal")

    def finished(self, home: Path, report: Mapping[str, Any]) -> None:
        """Keeps what came of it, and deletes old stores of which all was recovered that could be."""
        write_whole(home / _REPORT, json.dumps(report).encode())
        done = [home for home in self._homes() if home not in self.waiting()]
        for old in done[:-MOST_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def restore_side_tables(self, home: Path, database: Database) -> None:
        """Takes over what SQLite can still read of bundles, settings, the overlay and exposures; what is there stays.

        All of it or nothing. Raises StoreError or OSError.
        """
        with undisturbed(self.data_dir, database.wait_s), scratch(self.folder) as folder:
            for name in _FILES:
                if (home / name).exists():
                    shutil.copyfile(home / name, folder / name)
            found = {table: _readable(folder / DATABASE, table) for table in _SIDE_TABLES}
            with database.write() as connection:
                if BundleTable.all(connection):  # the app went on without what was installed
                    found["bundles"] = [{**row, "status": "previous"} for row in found["bundles"] if _ran(row)]
                for table, rows in found.items():
                    _insert(connection, table, [_anew(row) for row in rows if _sound(table, row)])


def _ran(row: Mapping[str, Any]) -> bool:
    return row.get("status") in ("current", "previous")


def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    columns = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
    for row in rows:
        if columns.issuperset(row):
            names, places = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
            connection.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({places})", tuple(row.values()))


def _read(report: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(report.read_text("utf-8"))
        return found if isinstance(found, dict) and isinstance(found.get("added"), int) else {"added": 0}
    except FileNotFoundError:
        return None
    except ValueError:
        return {"added": 0}


def _readable(path: Path, table: str) -> list[dict[str, Any]]:
    """The rows of a table up to the first that is damaged. Raises StoreError where it is the disk that fails."""
    rows: list[dict[str, Any]] = []
    connection = sqlite3.connect(path)
    connection.text_factory = _text
    try:
        for values in (cursor := connection.execute(f"SELECT * FROM {table}")):
            rows.append({column[0]: value for column, value in zip(cursor.description, values, strict=True)})
    except UnicodeDecodeError:  # of SQLite's own message
        pass
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_DISK:
            raise StoreError(f"a copy of the damaged store: {error}", hint="is the disk full or read-only?") from None
    finally:
        connection.close()
    return rows


def _text(data: bytes) -> str | bytes:
    """A text, or the bytes of what is none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _anew(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row as it is, but for the mark: the events it counted are gone from where it counted them, and others begin."""
    return {**row, "value": "0"} if row.get("key") == MARK else row


def _sound(table: str, row: Mapping[str, Any]) -> bool:
    """Whether a row that SQLite can read is what was written, as far as can be told."""
    try:
        if table == "bundles":
            sound_bundle([row[name] for name in BundleRow.__match_args__])
        elif table == "items_overlay":
            sound_item([row[name] for name in OverlayItem.__match_args__])
        elif any(isinstance(value, bytes) for value in row.values()):
            return False
    except (StoreDamaged, KeyError):
        return False
    return True
