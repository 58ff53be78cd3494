"""One user on one device: the store, the running engine, and a snapshot of the user that is always consistent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgerec import log
from edgerec.bundle import Bundle
from edgerec.config import Config
from edgerec.engine import Engine
from edgerec.errors import BundleError, StoreBusy, StoreDamaged, StoreError
from edgerec.exposures import Exposure, ExposureBuffer
from edgerec.history import History
from edgerec.interfaces import Arrival, Updater
from edgerec.learning.learner import Situation
from edgerec.learning.state import Learned, from_state, to_state
from edgerec.participation import is_control
from edgerec.plugins import Plugins
from edgerec.store import (
    BundleRow,
    BundleTable,
    Database,
    EventRow,
    EventTable,
    ExposureTable,
    MetaTable,
    OverlayTable,
    StateTable,
)
from edgerec.tidying import load_held
from edgerec.types import State

CORE = "edgerec"
"""The store's plugin name for what the learner itself keeps."""

OVERLAY = "overlay"
"""The setting that numbers the changes of the overlay."""

FAILURES = "plugin_failures"
"""The setting that keeps what failed of the plugins when the store was last open."""

GENERATION = "generation"
"""The setting that changes whenever events are taken out, or put in another order."""

PENDING = "erase_pending"
"""The setting that says that forgotten rows may still lie in the store's free pages or its log."""

N_RECENT = 100
"""Arrivals that event filters are shown."""


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
        self._version: tuple[int, int, int] | None = None
        self._generation: str | None = None
        self._last: int | None = None
        self._written: list[Exposure] = []
        self.exposures = ExposureBuffer()
        self.trouble: str | None = None
        """Why the store could not be read when it was last tried; what was known then is served."""

    def load(self, path: Path) -> Bundle:
        """A bundle, verified and cached under the data directory."""
        return load_held(path, self.data_dir)

    def load_installed(self, row: BundleRow) -> Bundle:
        """An installed bundle: in this data directory, which may have been moved or copied, or else where it was."""
        here = self.data_dir / "bundles" / row.digest
        return self.load(here if here.exists() else Path(row.path))

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
        engine = Engine(bundle, self.plugins, self.config, hooked=True)
        engine.control = is_control(connection, self.config.federation)
        return engine

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
        """The snapshot, reloaded if another process committed; that of before where it cannot be. Holds the lock."""
        if self._snapshot is None:
            raise StoreDamaged("the device was used before a bundle was chosen")
        try:
            with self.database.read():
                version = self.database.data_version()
            if version != self._version:
                self.reload(self._snapshot.engine)
            self.trouble = None
        except (StoreError, BundleError) as error:
            if self.trouble is None:
                log.warning("the store cannot be read, what was known before is served: %s", error)
            self.trouble = str(error)
        return self._snapshot

    def reload(self, engine: Engine, *, follow: bool = True) -> Snapshot:
        """Reads what is new in the store. `follow`: under the bundle that is current there, if it is another."""
        with self.database.steady() as connection:
            version = self.database.data_version()
            engine = self._followed(connection, engine, follow)
            engine.control = is_control(connection, self.config.federation)
            generation = MetaTable.get(connection, GENERATION)
            if self._snapshot is not None and generation != self._generation:
                self.exposures.take()  # they may show what was forgotten meanwhile
                self.plugins.isolation.forget()
            known = self._snapshot
            same = self._version is not None and self._version[0] == version[0] and self._generation == generation
            if same and self._last is not None and known is not None and known.engine is engine:
                history, last = known.history, self._last
            else:
                history, last = engine.empty_history(), 0
            rows = EventTable.after(connection, last)
            states = StateTable.load(connection, engine.bundle.manifest.version)
            paused = MetaTable.get(connection, "paused") == "1"
            recent = EventTable.last(connection, N_RECENT) if engine.filters else []
        history = history.extended(engine.happenings(rows))
        learned = self._learned(engine, states)
        self._snapshot = Snapshot(engine, history, learned, paused, tuple(map(arrival, recent)))
        self._version, self._generation, self._last = version, generation, rows[-1].seq if rows else last
        return self._snapshot

    def _followed(self, connection: sqlite3.Connection, engine: Engine, follow: bool) -> Engine:
        current = next((row for row in BundleTable.all(connection) if row.status == "current"), None)
        if follow and current and current.digest != engine.bundle.digest:
            return self._engine(connection, self.load_installed(current))
        if MetaTable.get(connection, OVERLAY) != engine.bundle.stamp:
            return self._engine(connection, engine.bundle.base)
        return engine

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
    def claimed(self, engine: Engine) -> Iterator[Snapshot]:
        """A write transaction first and the newest snapshot then, for whoever found it `Stale`: the others wait."""
        self._written = []
        try:
            with self.database.write():
                yield self.reload(engine)
        except BaseException:
            self._version, self._last = None, None  # what was adopted may not have been stored
            self.exposures.give_back(self._written)
            raise

    @contextmanager
    def write(self, seen: Snapshot) -> Iterator[sqlite3.Connection]:
        """A write transaction, in which buffered exposures are written too.

        Raises Stale, having stored nothing, where another process committed since `seen`.
        """
        waiting = self.exposures.take()
        try:
            with self.database.write() as connection:
                if seen is not self._snapshot or self.database.data_version() != self._version:
                    raise Stale
                if waiting:
                    ExposureTable.insert(connection, waiting)
                yield connection
            self._written = waiting
        except BaseException:
            self.exposures.give_back(waiting)
            raise

    def adopt(self, snapshot: Snapshot, *, added: int = 0, generation: str | None = None) -> None:
        """Takes what was just committed as the newest snapshot, with so many new events. Call under `exclusive()`.

        `generation`: that of the store, where events were taken out or put in another order.
        """
        self._snapshot = snapshot
        if generation is not None:
            self.plugins.isolation.forget()
            self._generation, self._last = generation, None
        elif self._last is not None:
            self._last += added
        self._own()

    def _own(self) -> None:
        """What this process stored is known here; a commit that was cut off from its adoption is read anew."""
        if self._version is not None:
            self._version = (*self._version[:2], self.database.connection.total_changes)

    def expose(self, rows: Sequence[Exposure]) -> None:
        """Buffers what was shown; writes the buffer when it is due and nobody has to be waited for."""
        if self.exposures.add(rows) and self.database.lock.acquire(blocking=False):
            try:
                with self.database.impatient():
                    self.flush()
            except StoreError:
                pass  # the buffer is kept; the next record or close writes it
            finally:
                self.database.lock.release()

    def flush(self) -> None:
        """Writes the buffered exposures."""
        with self.latest():
            pass

    @contextmanager
    def latest(self) -> Iterator[tuple[sqlite3.Connection, Snapshot]]:
        """A write transaction that nothing can have made stale, and the snapshot in it; exposures are written too."""
        with (
            self.exclusive() as known,
            self.claimed(known.engine) as snapshot,
            self.write(snapshot) as connection,
        ):
            yield connection, snapshot
            self._own()

    def _close_book(self) -> None:
        """Writes the buffered exposures, and what failed of the plugins, for whoever asks later."""
        try:
            with self.latest() as (connection, _):
                if report := self.plugins.isolation.report():
                    MetaTable.set(connection, FAILURES, json.dumps(report))
        except (StoreError, BundleError) as error:  # no event is among it
            log.warning("the last exposures were not written: %s", error)

    def shown_in(self, recommendation_id: str) -> str | None:
        """The scenario of a page, None for an unknown one."""
        for row in self.exposures.page(recommendation_id):
            return row[1]
        with self.database.read() as connection:
            return ExposureTable.scenario_of(connection, recommendation_id)

    def shown_on(self, recommendation_id: str) -> list[tuple[str, int]]:
        """(item, position from 1) of what a page showed, from the top; nothing for an unknown one."""
        waiting = [(row[2], row[3]) for row in self.exposures.page(recommendation_id)]
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
            return EventTable.after(connection)

    def close(self) -> None:
        """Writes what is buffered and lets go of the store."""
        try:
            if self._snapshot is not None and (self.exposures or self.plugins.isolation.failures):
                self._close_book()
        finally:
            self.plugins.close()
            self.database.close()
