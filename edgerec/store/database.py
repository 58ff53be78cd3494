"""One SQLite connection, used as edgerec promises: WAL, bounded waits, whole transactions, safe after a fork."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

from edgerec.errors import StoreBusy, StoreDamaged, StoreError, StoreTooNew
from edgerec.files import exclusive

SCHEMA = 5
"""Migrations that this version knows (`store/migrations.py`)."""

REPAIR = "close and open again: the damaged file is set aside, and what can be recovered is"
LOCK = ".edgerec.lock"
"""Held in the data directory by whoever migrates the store."""

QUARANTINE = "quarantine"
"""The folder of the data directory where damaged stores lie."""

DAMAGED = ".edgerec.damaged"
"""Left in the data directory by whoever found the store damaged: the next open looks at all of it."""


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
        self._inode = -1
        self._opened = 0
        self._connection: sqlite3.Connection | None = None
        _there_are[id(self)] = self

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection; after a fork, parent and child each open their own."""
        if self._connection is None or self._pid != os.getpid():
            self._connection = self._open()
            self._pid, self._inode = os.getpid(), self.path.stat().st_ino
            self._opened += 1
        return self._connection

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path, timeout=self.wait_s, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            try:
                with translated(self.path):
                    self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        except (OSError, sqlite3.OperationalError) as error:
            raise StoreError(f"cannot open the store {self.path}: {error}", hint="is data_dir writable?") from None
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={self.synchronous}")
        connection.execute("PRAGMA temp_store=MEMORY")  # no rows in files that nobody erases
        if connection.execute("PRAGMA secure_delete=ON").fetchone() != (1,):
            raise StoreError("this SQLite cannot erase deleted rows (secure_delete)", hint="use another SQLite build")
        if _schema(connection) == SCHEMA:
            return
        with exclusive(self.path.parent / LOCK):  # two processes must not both migrate
            if (schema := _schema(connection)) > SCHEMA:
                _check_too_new(connection, schema, self.path)
            if schema < SCHEMA:
                from edgerec.store.migrations import migrate

                migrate(connection)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of the block is stored when it ends, or nothing of it.

        A block within a block belongs to the outer one's transaction.
        """
        if not self.lock.acquire(timeout=self.wait_s):
            raise StoreBusy(f"another thread held {self.path.name} for {self.wait_s:g} s")
        try:
            with translated(self.path):
                if self._connection is not None and self._pid == os.getpid() and self._connection.in_transaction:
                    yield self._connection
                    return
                connection = self._begin()
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:  # a full disk ends it by itself
                        connection.execute("ROLLBACK")
                    raise
        finally:
            self.lock.release()

    def _begin(self) -> sqlite3.Connection:
        """Begins a write transaction on the file that is there: what is written to one that another process set aside,
        while this one waited for it or before, would be lost."""
        while True:
            if self._connection is not None and self._moved():
                self.close()
            connection = self.connection
            connection.execute("BEGIN IMMEDIATE")
            if not self._moved():
                return connection
            connection.execute("ROLLBACK")

    def _moved(self) -> bool:
        try:
            return os.stat(self.path).st_ino != self._inode
        except FileNotFoundError:
            return True

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection for a few reads."""
        with self.lock, translated(self.path):
            yield self.connection

    @contextmanager
    def steady(self) -> Iterator[sqlite3.Connection]:
        """The connection for reads that belong together: they see one moment, whatever others commit meanwhile."""
        with self.read() as connection:
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Within the block, a write that another process blocks fails at once."""
        self.connection.execute("PRAGMA busy_timeout=0")
        try:
            yield
        finally:
            self.connection.execute(f"PRAGMA busy_timeout={int(self.wait_s * 1000)}")

    def erase(self) -> None:
        """Leaves no byte of what was deleted: builds the file anew and cuts off its log.

        Raises StoreBusy while another connection reads what was there before.
        """
        with self.lock, translated(self.path):
            connection = self.connection
            connection.execute("VACUUM")  # cells that moved between pages leave copies that secure_delete does not see
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreBusy(f"another process reads {self.path.name}")

    def data_version(self) -> tuple[int, int, int]:
        """(how often the file was opened, a number that changes whenever another connection committed, one that
        changes with whatever this one does)."""
        (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        return self._opened, version, self.connection.total_changes

    def close(self) -> None:
        with self.lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None


_there_are: WeakValueDictionary[int, Database] = WeakValueDictionary()
"""Of the whole process, as forks are."""

_put_down = threading.local()


def _before_fork() -> None:
    """Waits for other threads, and closes what is open: a child that has the parent's connection in memory takes the
    parent's locks for its own, and the parent, the last one to all appearance, deletes the log under it
    (https://www.sqlite.org/howtocorrupt.html, 2.6)."""
    _put_down.databases = [one for ref in _there_are.valuerefs() if (one := ref()) is not None]
    for database in _put_down.databases:
        database.lock.acquire()
        if database._connection is not None and not database._connection.in_transaction:
            database.close()


def _after_fork() -> None:
    while _put_down.databases:
        _put_down.databases.pop().lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _mark(path: Path) -> None:
    with suppress(OSError):  # then the next open finds out by itself, or not yet
        path.with_name(DAMAGED).touch()


def _schema(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _check_too_new(connection: sqlite3.Connection, schema: int, path: Path) -> None:
    """Raises StoreTooNew, or StoreDamaged where the number alone is wrong: a newer edgerec left its migrations."""
    recorded = connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone()
    if recorded and connection.execute("SELECT count(*) FROM _sqlite_migrations").fetchone() == (SCHEMA,):
        raise StoreDamaged(f"{path} has schema {schema} by its header and {SCHEMA} by its tables", hint=REPAIR)
    raise StoreTooNew(f"{path} has schema {schema}, this edgerec knows {SCHEMA}", hint="update edgerec")


class translated:  # noqa: N801
    """Within the block, SQLite's errors are edgerec's. A class, because every read and write pays for it."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, StoreDamaged):
            _mark(self.path)
        if isinstance(error, UnicodeDecodeError):  # of what SQLite says of a damaged schema, in the schema's words
            _mark(self.path)
            raise StoreDamaged(
                f"{self.path} is not a sound SQLite database: a name is not UTF-8", hint=REPAIR
            ) from None
        if not isinstance(error, sqlite3.DatabaseError):
            return
        # Python's own: a text that is not UTF-8, which its message repeats
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreBusy(f"another process held {self.path.name} for too long") from None
        # constant SQL is in error, SQLITE_ERROR, in a damaged schema alone
        if isinstance(error, sqlite3.OperationalError) and code not in (None, sqlite3.SQLITE_ERROR):
            raise StoreError(f"{self.path}: {error}", hint="is the disk full or read-only?") from error
        _mark(self.path)
        said = str(error) if code is not None else "a text is not UTF-8"
        raise StoreDamaged(f"{self.path} is not a sound SQLite database: {said}", hint=REPAIR) from None
