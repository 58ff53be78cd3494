"""One user on one device: the store, the running engine, and a snapshot of the user that is always consistent."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgerec.bundle import Bundle, load_bundle
from edgerec.config import Config
from edgerec.engine import Engine
from edgerec.errors import StoreBusy, StoreDamaged, StoreError
from edgerec.history import History
from edgerec.interfaces import Arrival, Updater
from edgerec.learning.learner import Situation
from edgerec.learning.state import Learned, from_state, to_state
from edgerec.plugins import Plugins
from edgerec.store import (
    BundleTable,
    Database,
    EventRow,
    EventTable,
    ExposureTable,
    MetaTable,
    OverlayTable,
    StateTable,
)
from edgerec.types import State

CORE = "edgerec"
"""The store's plugin name for what the learner itself keeps."""

OVERLAY = "overlay"
"""The setting that numbers the changes of the overlay."""

FAILURES = "plugin_failures"
"""The setting that keeps what failed of the plugins when the store was last open."""

Exposure = tuple[str, str, str, int, float, float, int]

N_RECENT = 100
"""Arrivals that event filters are shown."""

_FLUSH_ROWS = 256
_FLUSH_SECONDS = 5.0


def arrival(row: EventRow) -> Arrival:
    """What event filters see of an event."""
    return Arrival(row.item, row.kind, row.seconds, row.group)


class Snapshot:
    """The past and what was learned from it, immutable; `situation`, the scores that follow, is made when needed."""

    __slots__ = ("_situation", "engine", "history", "learned", "paused", "recent")

    def __init__(
        self,
        engine: Engine,
        history: History,
        learned: Learned,
        paused: bool = False,
        recent: tuple[Arrival, ...] = (),
    ) -> None:
        """`recent`: the last arrivals, oldest first, where there are event filters to show them to."""
        self.engine = engine
        self.history = history
        self.learned = learned
        self.paused = paused
        self.recent = recent
        self._situation: Situation | None = None

    @property
    def situation(self) -> Situation:
        """The query and every source's scores. Two threads may both compute it: they get the same."""
        if self._situation is None:
            self._situation = self.engine.situation(self.history, self.learned)
        return self._situation


class Stale(Exception):
    """Another process committed since the snapshot was taken."""


class Device:
    """Joins the store with the engine. Readers use `snapshot()` and wait for nobody; writers use `write()`."""

    def __init__(self, data_dir: Path, plugins: Plugins, config: Config, clock: Callable[[], float]) -> None:
        self.data_dir = data_dir
        self.plugins = plugins
        self.config = config
        self.clock = clock
        self.database = Database(data_dir / "edgerec.db", wait_s=config.wait_s, synchronous=config.synchronous)
        self._snapshot: Snapshot | None = None
        self._version = -1
        self._exposures: list[Exposure] = []
        self._exposures_lock = threading.Lock()
        self._last_flush = time.monotonic()

    def load(self, path: Path) -> Bundle:
        """A bundle, verified and cached under the data directory."""
        return load_bundle(path, self.data_dir)

    def engine(self, bundle: Bundle) -> Engine:
        """An engine that runs the bundle, and the store's overlay of new items on it."""
        with self.database.read() as connection:
            return self._engine(connection, bundle)

    def _engine(self, connection: sqlite3.Connection, bundle: Bundle) -> Engine:
        stamp = MetaTable.get(connection, OVERLAY)
        if stamp is not None:
            # imported here because most devices never have an overlay
            from edgerec.bundle.overlay import OverlaidBundle, unpacked

            try:
                kept = OverlayTable.places(connection, bundle.digest, stamp)
                placed = unpacked(kept) if kept else None
            except (StoreDamaged, KeyError):  # it can be worked out again
                placed = None
            bundle = OverlaidBundle(bundle, OverlayTable.all(connection), stamp, placed)
        return Engine(bundle, self.plugins, self.config, hooked=True)

    def save_overlay(self, connection: sqlite3.Connection, bundle: Bundle) -> None:
        """Stores where the overlay's items stand in the bundle, so that the next start need not work it out."""
        if bundle.stamp is not None:
            from edgerec.bundle.overlay import packed

            OverlayTable.save_places(connection, bundle.digest, bundle.stamp, packed(bundle))

    @property
    def started(self) -> bool:
        """Whether a bundle was chosen and the user was read."""
        return self._snapshot is not None

    def snapshot(self) -> Snapshot:
        """The newest snapshot. While a writer of this process is at work, the one before it."""
        known = self._snapshot
        if known is None or self.database.lock.acquire(blocking=False):
            if known is None:
                self.database.lock.acquire()
            try:
                return self._current()
            finally:
                self.database.lock.release()
        return known

    def _current(self) -> Snapshot:
        """The snapshot, reloaded if another process committed. Holds the lock."""
        with self.database.read():
            version = self.database.data_version()
        if self._snapshot is None:
            raise StoreDamaged("the device was used before a bundle was chosen")
        if version != self._version:
            self.reload(self._snapshot.engine)
        return self._snapshot

    def reload(self, engine: Engine, *, follow: bool = True) -> Snapshot:
        """Reads the user from the store. `follow`: under the bundle that is current there, if it is another."""
        with self.database.read() as connection:
            self._version = self.database.data_version()
            current = next((row for row in BundleTable.all(connection) if row.status == "current"), None)
            if follow and current and current.digest != engine.bundle.digest:
                engine = self._engine(connection, self.load(Path(current.path)))
            elif MetaTable.get(connection, OVERLAY) != engine.bundle.stamp:
                engine = self._engine(connection, engine.bundle.base)
            happened = EventTable.history(connection)
            states = StateTable.load(connection, engine.bundle.manifest.version)
            paused = MetaTable.get(connection, "paused") == "1"
            recent = EventTable.last(connection, N_RECENT) if engine.filters else []
        rows = engine.bundle.catalogue.rows([item for item, *_ in happened]).tolist()
        kinds = engine.bundle.manifest.event_kinds  # another bundle's events may be of others
        history = engine.empty_history().extended(
            [
                (row, kind, at / 1e6, group)
                for row, (_, kind, at, group) in zip(rows, happened, strict=True)
                if row >= 0 and kind in kinds
            ]
        )
        learned = self._learned(engine, states)
        self._snapshot = Snapshot(engine, history, learned, paused, tuple(map(arrival, recent)))
        return self._snapshot

    def _learned(self, engine: Engine, states: dict[tuple[str, str], tuple[int, bytes]]) -> Learned:
        learned = engine.learner.initial()
        updaters = engine.learner.updaters
        core = states.get((CORE, "progress"))
        if core is None:
            return learned
        stored = StateTable.decode(core)
        scenarios = from_state(stored, learned.scenarios, engine.scorer.names)

        def state_of(updater: Updater, initial: State) -> State:
            own = states.get((updater.name, "state"))
            return updaters.restored(updater, StateTable.decode(own), own[0]) if own else initial

        state = state_of(updaters.owner, learned.updater) if updaters.owner else learned.updater
        aside = {each.name: state_of(each, learned.aside[each.name]) for each in updaters.aside}
        return Learned.of(scenarios, state, int(stored["steps"]), aside)

    @contextmanager
    def exclusive(self) -> Iterator[Snapshot]:
        """Keeps this process's other writers out; gives the newest snapshot. Raises StoreBusy."""
        if not self.database.lock.acquire(timeout=self.config.wait_s):
            raise StoreBusy(f"another thread held the store for {self.config.wait_s:g} s")
        try:
            yield self._current()
        finally:
            self.database.lock.release()

    @contextmanager
    def write(self, seen: Snapshot) -> Iterator[sqlite3.Connection]:
        """A write transaction, in which buffered exposures are written too.

        Raises Stale, having stored nothing, where another process committed since `seen`.
        """
        waiting = self._take_exposures()
        try:
            with self.database.write() as connection:
                if seen is not self._snapshot or self.database.data_version() != self._version:
                    raise Stale
                if waiting:
                    ExposureTable.insert(connection, waiting)
                yield connection
        except BaseException:
            with self._exposures_lock:
                self._exposures[:0] = waiting
            raise

    def adopt(self, snapshot: Snapshot) -> None:
        """Takes what was just committed as the newest snapshot. Call under `exclusive()`."""
        self._snapshot = snapshot

    def _take_exposures(self) -> list[Exposure]:
        with self._exposures_lock:
            waiting, self._exposures = self._exposures, []
            self._last_flush = time.monotonic()
        return waiting

    def expose(self, rows: Sequence[Exposure]) -> None:
        """Buffers what was shown; writes the buffer when it is due and nobody has to be waited for."""
        with self._exposures_lock:
            self._exposures.extend(rows)
            due = len(self._exposures) >= _FLUSH_ROWS or time.monotonic() - self._last_flush > _FLUSH_SECONDS
        if due and self.database.lock.acquire(blocking=False):
            try:
                with self.database.impatient():
                    self.flush()
            except (StoreError, Stale):
                pass  # the buffer is kept; the next record or close writes it
            finally:
                self.database.lock.release()

    def flush(self) -> None:
        """Writes the buffered exposures."""
        with self.exclusive() as snapshot, self.write(snapshot):
            pass

    def _close_book(self) -> None:
        """Writes the buffered exposures, and what failed of the plugins, for whoever asks later."""
        report = self.plugins.isolation.report()
        with self.exclusive() as snapshot, self.write(snapshot) as connection:
            if report:
                MetaTable.set(connection, FAILURES, json.dumps(report))

    def shown_in(self, recommendation_id: str) -> str | None:
        """The scenario of a page, None for an unknown one."""
        with self._exposures_lock:
            for row in reversed(self._exposures):
                if row[0] == recommendation_id:
                    return row[1]
        with self.database.read() as connection:
            return ExposureTable.scenario_of(connection, recommendation_id)

    def shown_on(self, recommendation_id: str) -> list[tuple[str, int]]:
        """(item, position from 1) of what a page showed, from the top; nothing for an unknown one."""
        with self._exposures_lock:
            waiting = [(row[2], row[3]) for row in self._exposures if row[0] == recommendation_id]
        if waiting:
            return waiting
        with self.database.read() as connection:
            return ExposureTable.page(connection, recommendation_id)

    def save_learned(self, connection: sqlite3.Connection, engine: Engine, learned: Learned) -> None:
        """Stores all that was learned, as part of a transaction."""
        version = engine.bundle.manifest.version
        core = to_state(learned, engine.scorer.names)
        StateTable.save(connection, CORE, "progress", 1, version, core)
        updaters = engine.learner.updaters
        if owner := updaters.owner:
            StateTable.save(connection, owner.name, "state", owner.schema, version, learned.updater)
        for each in updaters.aside:
            StateTable.save(connection, each.name, "state", each.schema, version, learned.aside[each.name])

    def events(self) -> list[EventRow]:
        """Every event in order of arrival."""
        with self.database.read() as connection:
            return list(EventTable.all(connection))

    def close(self) -> None:
        """Writes what is buffered and lets go of the store."""
        try:
            if self._snapshot is not None and (self._exposures or self.plugins.isolation.failures):
                self._close_book()
        finally:
            self.plugins.close()
            self.database.close()


def failures_in(data_dir: Path) -> dict[str, dict[str, Any]]:
    """What failed of the plugins when the store in a folder was last open (`Isolation.report`).

    Raises StoreError where there is no store.
    """
    path = data_dir / "edgerec.db"
    if not path.exists():
        raise StoreError(f"there is no store in {data_dir}", hint="name a user's data directory")
    database = Database(path)
    try:
        with database.read() as connection:
            found: dict[str, dict[str, Any]] = json.loads(MetaTable.get(connection, FAILURES) or "{}")
            return found
    finally:
        database.close()
