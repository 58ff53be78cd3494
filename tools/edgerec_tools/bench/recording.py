"""`record`: an event tested, learned from and stored, against storing an event and a vector with sqlite3 alone."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

import edgerec
from edgerec_tools.bench import shops
from edgerec_tools.bench.measure import Row, Timing, in_turns

MOST = 8.0
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, item TEXT NOT NULL, kind TEXT NOT NULL, value FLOAT,
    at INTEGER NOT NULL);
CREATE TABLE states (name TEXT PRIMARY KEY, blob BLOB);
"""


class RawStore:
    """The least that must be done: one transaction that inserts an event and replaces a vector."""

    def __init__(self, path: Path, dim: int) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.executescript(_SCHEMA)
        self.vector = np.random.default_rng(0).standard_normal(dim).astype(np.float32)

    def record(self, item: str, at: int) -> None:
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        execute(
            "INSERT INTO events (event_id, item, kind, value, at) VALUES (?, ?, ?, ?, ?)",
            (os.urandom(16).hex(), item, "purchase", None, at),
        )
        execute(
            "INSERT INTO states VALUES ('u', ?) ON CONFLICT (name) DO UPDATE SET blob = excluded.blob",
            (self.vector.tobytes(),),
        )
        execute("COMMIT")


def rows(bundles: dict[int, Path], users: int, rounds: int) -> Iterator[Row]:
    """Median and 99th percentile over `users` new users, each recording `rounds` purchases after its history."""
    for n_items, path in bundles.items():
        with tempfile.TemporaryDirectory(prefix="edgerec-bench-") as scratch:
            folder = Path(scratch)
            with edgerec.load_bundle(path, folder) as bundle:
                taken = [_one_user(bundle, folder, user, n_items, rounds) for user in range(users)]
        ours, raw = (Timing.joined(user[name] for user in taken) for name in ("record", "raw"))
        name, peer = f"record() at {n_items:,} items", "sqlite3 transaction"
        yield Row(f"{name}, p50", ours.p50_us(), "µs", peer, raw.p50_us(), MOST)
        yield Row(f"{name}, p99", ours.p99_us(), "µs", peer, raw.p99_us())


def _one_user(bundle: edgerec.Bundle, folder: Path, user: int, n_items: int, rounds: int) -> dict[str, Timing]:
    items = np.random.default_rng(100 + user).integers(0, n_items, rounds + 3).tolist()
    store = RawStore(folder / f"raw{user}.db", bundle.manifest.dim)
    with closing(store.connection), shops.opened(bundle, folder / f"user{user}", n_items, user) as rec:
        return in_turns(
            rounds,
            {
                "record": lambda turn: rec.record(f"i{items[turn]}", "purchase"),
                "raw": lambda turn: store.record(f"i{items[turn]}", turn),
            },
        )
