"""One SQLite connection, used as edgerec promises: WAL, bounded waits, whole transactions, safe after a fork."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgerec.errors import StoreBusy, StoreDamaged, StoreError, StoreTooNew

SCHEMA = 3
"""Migrations that this version knows (`store/migrations.py`)."""


class Database:
    """Owns `edgerec.db` in a data directory.

    One connection, guarded by one lock: every method is safe to call from any thread. Writers wait at most
    `wait_s` for other threads and processes, then raise StoreBusy.
    """

    def __init__(self, path: Path, *, wait_s: float = 2.0, synchronous: str = "NORMAL") -> None:
        self.path = path
        self.wait_s = wait_s
        self.synchronous = synchronous
        self.lock = threading.RLock()
        self._pid = -1
        self._connection: sqlite3.Connection | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection; a forked child opens its own."""
        if self._connection is None or self._pid != os.getpid():
            self._connection = self._open()
            self._pid = os.getpid()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path, timeout=self.wait_s, isolation_level=None, check_same_thread=False, cached_statements=64
            )
        except (OSError, sqlite3.OperationalError) as error:
            raise StoreError(f"cannot open the store {self.path}: {error}", hint="is data_dir writable?") from None
        try:
            with translated(self.path):
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={self.synchronous}")
        if connection.execute("PRAGMA secure_delete=ON").fetchone() != (1,):
            raise StoreError("this SQLite cannot erase deleted rows (secure_delete)", hint="use another SQLite build")
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if schema > SCHEMA:
            raise StoreTooNew(f"{self.path} has schema {schema}, this edgerec knows {SCHEMA}", hint="update edgerec")
        if schema < SCHEMA:
            from edgerec.store.migrations import migrate

            migrate(connection)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of the block is stored when it ends, or nothing of it."""
        if not self.lock.acquire(timeout=self.wait_s):
            raise StoreBusy(f"another thread held {self.path.name} for {self.wait_s:g} s")
        try:
            connection = self.connection
            with translated(self.path):
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                try:
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
        finally:
            self.lock.release()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection for a few reads."""
        with self.lock, translated(self.path):
            yield self.connection

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Within the block, a write that another process blocks fails at once."""
        self.connection.execute("PRAGMA busy_timeout=0")
        try:
            yield
        finally:
            self.connection.execute(f"PRAGMA busy_timeout={int(self.wait_s * 1000)}")

    def data_version(self) -> int:
        """Changes whenever another connection committed; own commits do not count."""
        return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        with self.lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None


class translated:  # noqa: N801
    """Within the block, SQLite's errors are edgerec's. A class, because every read and write pays for it."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.OperationalError):
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StoreBusy(f"another process held {self.path.name} for too long") from None
            raise StoreError(f"{self.path}: {error}", hint="is the disk full or read-only?") from error
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.IntegrityError):
            hint = "restore or remove it"
            raise StoreDamaged(f"{self.path} is not a sound SQLite database: {error}", hint=hint) from error
