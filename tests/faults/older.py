"""Stores as older versions of edgerec left them, made by their own migrations."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlite_utils import Database

from edgerec.store.migrations import store as migrations


def older_store(path: Path, schema: int) -> None:
    """Rewrites a store as the older edgerec of that schema would have it, with the rows that it knew."""
    new = sqlite3.connect(path, isolation_level=None)
    made = path.with_name("older.db")
    old = sqlite3.connect(made, isolation_level=None)
    names = [one.name for one in migrations.pending(Database(old))]
    migrations.apply(Database(old), stop_before=names[schema] if schema < len(names) else None)
    tables = [name for (name,) in old.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT NULL")]
    for table in tables:
        if table.startswith(("sqlite_", "_sqlite")):
            continue
        known = {row[1] for row in new.execute(f"PRAGMA table_info({table})")}
        columns = [row[1] for row in old.execute(f"PRAGMA table_info({table})") if row[1] in known]
        listed = ", ".join(f'"{column}"' for column in columns)
        rows = new.execute(f"SELECT {listed} FROM {table}").fetchall()
        old.executemany(f"INSERT INTO {table} ({listed}) VALUES ({', '.join('?' * len(columns))})", rows)
    new.close()
    old.close()
    for leftover in ("", "-wal", "-shm"):
        path.with_name(path.name + leftover).unlink(missing_ok=True)
    made.rename(path)
