"""The gateway's tables, and the database they live in: SQLite that survives power loss, or PostgreSQL by URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    create_engine,
    event,
)
from sqlalchemy.exc import ArgumentError

from edgerec.errors import ConfigError, MissingDistribution

SCHEMA = 1
WAITING, COUNTED, DROPPED = 0, 1, 2
"""States of a delta: for a round to come · claimed by a round · taken out, and not to be counted if it comes again."""

_BIG = BigInteger().with_variant(Integer, "sqlite")  # what SQLite numbers by itself must be called INTEGER there

metadata = MetaData()

meta = Table("meta", metadata, Column("name", String(64), primary_key=True), Column("value", Text, nullable=False))

bundles = Table(
    "bundles",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String(64), nullable=False),
    Column("blocks", Text, nullable=False),
    Column("open", Boolean, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("id", _BIG, primary_key=True),
    Column("public_key", LargeBinary(32), nullable=False, unique=True),
    Column("enrolled_day", Integer, nullable=False),
    Column("blocked", Boolean, nullable=False, default=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("purpose", String(16), nullable=False),
    Column("uses_left", Integer),
    Column("expires", BigInteger),
)

nonces = Table(
    "nonces",
    metadata,
    Column("device", _BIG, primary_key=True, autoincrement=False),
    Column("nonce", LargeBinary(16), primary_key=True),
    Column("expires", BigInteger, nullable=False),
    Index("nonces_by_expiry", "expires"),
)

rounds = Table(
    "rounds",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("bundle_version", BigInteger, ForeignKey("bundles.version"), nullable=False),
    Column("opened", BigInteger, nullable=False),
    Column("closed", BigInteger),
    Column("answer", LargeBinary),
)

deltas = Table(
    "deltas",
    metadata,
    Column("seq", _BIG, primary_key=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("device", _BIG, ForeignKey("devices.id")),
    Column("bundle_version", BigInteger, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("arrived", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("round", BigInteger, ForeignKey("rounds.number")),
    Column("payload", LargeBinary),
    Index("deltas_by_device", "device", "state"),
    Index("deltas_by_version", "bundle_version", "state"),
    Index("deltas_by_round", "round"),
    sqlite_autoincrement=True,
)

READ_ONLY = "edgerec_read_only"


def open_engine(place: str | os.PathLike[str], *, wait_s: float) -> Engine:
    """The database at a path (SQLite) or URL. Raises MissingDistribution without PostgreSQL's driver, ConfigError."""
    text = os.fspath(place)
    if "://" not in text:
        _private(Path(text))
        return _sqlite(f"sqlite:///{text}", wait_s)
    if text.startswith("sqlite"):
        return _sqlite(text, wait_s)
    if text.startswith("postgresql://"):
        text = text.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        return create_engine(text, isolation_level="READ COMMITTED")
    except ImportError as error:
        raise MissingDistribution(
            f"a store at {text.partition(':')[0]} needs {error.name or 'its driver'}",
            hint="pip install 'edgerec-exporters[gateway,postgresql]'",
        ) from None
    except ArgumentError:  # without its text: a URL may hold a password
        raise ConfigError("gateway: the store's URL is none", hint="a file's path, or postgresql://…") from None


def for_reading(engine: Engine) -> Engine:
    """The same database, for transactions that see it as it was when they began, and write nothing."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{READ_ONLY: True})
    return engine.execution_options(isolation_level="REPEATABLE READ")


def _private(path: Path) -> None:
    """A new store is its owner's alone; SQLite gives the log beside it the same rights."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _sqlite(url: str, wait_s: float) -> Engine:
    engine = create_engine(url, connect_args={"timeout": wait_s})

    @event.listens_for(engine, "connect")
    def _settle(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where `_begin` says, not where sqlite3 guesses
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Who will write takes the lock at once: a transaction that began by reading could no longer get it.
        read_only = connection.get_execution_options().get(READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
