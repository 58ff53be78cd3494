"""One sync: what waits is sent, a new delta is made of what no delta has counted, sent, and the channel asked.

A delta is stored, with its bytes and the events that it counts, before it is sent, and deleted after somebody
acknowledged it; whatever is killed in between, it is sent again under the same id, and counts once. Nothing here runs,
and no connection is made, unless the app asks for a sync.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from edgerec.bundle.federated import METRICS, BlockSpec
from edgerec.deltas import Delta, DeltaRefused
from edgerec.device import CORE, GENERATION, Device, Snapshot
from edgerec.errors import EdgeRecError, StoreBusy, StoreDamaged, StoreError
from edgerec.federation import metrics
from edgerec.federation.blocks import blocks_of, consumed
from edgerec.federation.outgoing import Outgoing
from edgerec.federation_settings import Conditions, FederationSettings, conditions_of
from edgerec.files import exclusive
from edgerec.interfaces import FAILURES
from edgerec.participation import consents, is_control, made_lately, note_made, set_consent
from edgerec.records import changed, record
from edgerec.store import CountedEvents, EventRow, MetaTable, OutboxRow, OutboxTable, StateTable

if TYPE_CHECKING:
    from edgerec.updates import Update

OFF, NO_CONSENT, NOT_NOW, NOTHING = "off", "no_consent", "not_now", "nothing"
SENT, WAITING, REFUSED = "sent", "waiting", "refused"
BASELINE = "federation"
"""The state that keeps what the metrics block is counted from."""
LOCK = ".edgerec.sync.lock"
LOOK_BACK = 200
"""Events before the new ones among which their companions are looked for."""
_TRIES = 5


@record
class SyncReport:
    """What a sync came to.

    `status`: off (the app did not enable federation) · no_consent · not_now (a condition does not hold) · nothing (no
    delta was due) · sent · waiting (it did not get through: the next sync sends it again, under the same id) · refused
    (for good; its events are counted by a later delta). `reason` says why · `accepted`: deltas that were acknowledged ·
    `delta_id`: of the last one that was sent, or waits · `bytes`: sent · `update`: what the channel came to, None where
    none is configured or `update_error` says what went wrong.
    """

    status: str
    reason: str
    accepted: int = 0
    delta_id: str | None = None
    bytes: int = 0
    update: Update | None = None
    update_error: str | None = None


@record
class _Material:
    """What a delta is made of, read at one moment. `stamp`: what must not have changed when it is stored."""

    stamp: tuple[object, ...]
    rows: Sequence[EventRow]
    fresh: frozenset[str]
    until: int
    tests: metrics.Tests | None


class Synchroniser:
    """The syncs of one device; filters and transports are made once."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._outgoing: Outgoing | None = None
        self._declared: tuple[str, tuple[BlockSpec, ...]] = ("", ())

    def consent(self, given: bool) -> None:
        """What the user said. Given: what is recorded from now on may be counted. Taken back: nothing is sent any more,
        and what waits is deleted. Raises StoreBusy.
        """
        device = self._device
        with device.latest() as (connection, snapshot):
            set_consent(connection, given)
            if given:
                self._save_baseline(connection, snapshot)
            snapshot.engine.control = is_control(connection, device.config.federation)

    def sync(self, conditions: Conditions | Mapping[str, Any] | None = None) -> SyncReport:
        """Sends what is due, and asks the configured channel for a newer bundle.

        Raises ConfigError, PluginNotFound or PluginError where a filter or transport cannot be made, DeltaError where a
        filter refuses the delta, StoreBusy where another sync is at work; then nothing new was sent.
        """
        device, settings = self._device, self._device.config.federation
        now = conditions_of(conditions)
        if settings is None or not settings.enabled:
            return SyncReport(OFF, "the app did not enable federation")
        with device.database.read() as connection:
            if not consents(connection):
                return SyncReport(NO_CONSENT, "the user did not agree")
        if (unmet := settings.unmet(now)) is not None:
            return SyncReport(NOT_NOW, unmet)
        if self._outgoing is None:
            self._outgoing = Outgoing(device.config, settings, device.plugins, device.data_dir)
        with self._alone():
            report = self._deltas(self._outgoing, settings)
        return self._updated(report)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        path = self._device.data_dir / LOCK
        with ExitStack() as stack:
            try:
                stack.enter_context(exclusive(path, wait_s=0))
            except TimeoutError:
                raise StoreBusy("another sync is at work", hint="its report says what it came to") from None
            except OSError as error:
                raise StoreError(f"{path} cannot be locked: {error.strerror}", hint="is data_dir writable?") from None
            yield

    def _deltas(self, outgoing: Outgoing, settings: FederationSettings) -> SyncReport:
        with self._device.database.read() as connection:
            waiting = OutboxTable.all(connection)
        report = SyncReport(NOTHING, "no delta is due")
        for row in waiting:
            report = self._delivered(outgoing, row, report)
            if report.status == WAITING:
                return report
        made = self._made(outgoing, settings)
        if isinstance(made, str):
            return report if report.status != NOTHING else changed(report, reason=made)
        return self._delivered(outgoing, made, report)

    def _made(self, outgoing: Outgoing, settings: FederationSettings) -> OutboxRow | str:
        """A new delta, stored in the outbox; or why there is none."""
        device = self._device
        now = round(device.clock() * 1e6)
        for _ in range(_TRIES):
            snapshot = device.snapshot()
            bundle = snapshot.engine.bundle.base
            if self._declared[0] != bundle.digest:
                self._declared = bundle.digest, bundle.manifest.federation.blocks
            specs = self._declared[1]
            if not specs:
                return "the bundle declares no federated blocks"
            outgoing.check_size(specs)
            with device.database.steady() as connection:
                if len(made_lately(connection, now)) >= settings.most_per_week:
                    return f"{settings.most_per_week} within seven days, and no more"
                material = self._material(connection, snapshot, specs)
            blocks = blocks_of(specs, self._consumed(snapshot, material), material.tests)
            delta = Delta(os.urandom(16).hex(), bundle.manifest.version, blocks)
            parts = outgoing.parts(delta, specs)
            second = parts[1] if len(parts) > 1 else None
            row = OutboxRow(delta.id, delta.bundle_version, parts[0], second, tuple(sorted(material.fresh)), now)
            if self._stored(row, material, snapshot):
                return row
        raise StoreBusy("events came in, or went, faster than a delta can be made", hint="try again")

    def _material(self, connection: sqlite3.Connection, snapshot: Snapshot, specs: Sequence[BlockSpec]) -> _Material:
        rows, fresh = CountedEvents.rows(connection, LOOK_BACK)
        until = max((row.seq for row in rows), default=CountedEvents.mark(connection) or 0)
        tests = None
        if any(spec.kind == METRICS for spec in specs):
            tests = self._tests(connection, snapshot)
        return _Material(_stamp(connection), rows, frozenset(fresh), until, tests)

    def _consumed(self, snapshot: Snapshot, material: _Material) -> list[Any]:
        bundle = snapshot.engine.bundle.base
        items = bundle.catalogue.rows([row.item for row in material.rows])
        return consumed(material.rows, items, bundle.manifest, material.fresh)

    def _stored(self, row: OutboxRow, material: _Material, snapshot: Snapshot) -> bool:
        """Puts a delta into the outbox, unless what it was made of is not there any more."""
        with self._device.latest() as (connection, _):
            if _stamp(connection) != material.stamp:
                return False
            OutboxTable.add(connection, row)
            CountedEvents.cover(connection, material.until)
            note_made(connection, row.created)
            self._save_baseline(connection, snapshot)
        return True

    def _delivered(self, outgoing: Outgoing, row: OutboxRow, before: SyncReport) -> SyncReport:
        """Sends a delta, or what of it did not arrive yet, and forgets it once all of it was acknowledged."""
        report, arrived = changed(before, delta_id=row.id), row.arrived
        if len(row.parts) != len(outgoing.transports):  # the app changed its mode since
            return self._dropped(row, report, "it was made for another mode", counted=True)
        for place, (transport, payload) in enumerate(zip(outgoing.transports, row.parts, strict=True)):
            if arrived >> place & 1:
                continue
            try:
                transport.send(payload, delta_id=row.id)
            except DeltaRefused as error:
                return self._dropped(row, report, str(error))
            except FAILURES as error:
                told = str(error) if isinstance(error, EdgeRecError) else type(error).__name__
                return changed(report, status=WAITING, reason=told)
            arrived |= 1 << place
            report = changed(report, bytes=report.bytes + len(payload))
            with self._device.latest() as (connection, _):
                if arrived == (1 << len(row.parts)) - 1:
                    OutboxTable.remove(connection, row.id)
                else:
                    OutboxTable.arrived(connection, row.id, arrived)
        return changed(report, status=SENT, reason="acknowledged", accepted=report.accepted + 1)

    def _dropped(self, row: OutboxRow, report: SyncReport, why: str, *, counted: bool = False) -> SyncReport:
        """Forgets a delta. Unless it may have been `counted` its events go to the next one."""
        with self._device.latest() as (connection, _):
            if OutboxTable.remove(connection, row.id) and not counted:
                CountedEvents.give_back(connection, row.events)
        return changed(report, status=REFUSED, reason=why)

    def _tests(self, connection: sqlite3.Connection, snapshot: Snapshot) -> metrics.Tests | None:
        version = snapshot.engine.bundle.manifest.version
        kept = StateTable.load(connection, version).get((CORE, BASELINE))
        try:
            before = None if kept is None else StateTable.decode(kept)
            sums = metrics.since(before, snapshot.learned, _learned_under(connection, snapshot))
        except (StoreDamaged, KeyError):
            return None
        if sums is None:
            return None
        engine = snapshot.engine
        return metrics.Tests(engine.control, snapshot.learned.names, tuple(engine.scorer.names), sums)

    def _save_baseline(self, connection: sqlite3.Connection, snapshot: Snapshot) -> None:
        state = metrics.baseline(snapshot.learned, _learned_under(connection, snapshot))
        StateTable.save(connection, CORE, BASELINE, 1, snapshot.engine.bundle.manifest.version, state)

    def _updated(self, report: SyncReport) -> SyncReport:
        """The report, and what the configured channel came to; whatever goes wrong there, the deltas are sent."""
        if self._device.config.channel_url is None:
            return report
        from edgerec.updates import update

        try:
            done = update(self._device)
        except EdgeRecError as error:
            return changed(report, update_error=str(error))
        if done.installation is not None:
            with self._device.latest() as (connection, snapshot):
                self._save_baseline(connection, snapshot)
        return changed(report, update=done)


def _stamp(connection: sqlite3.Connection) -> tuple[object, ...]:
    """What changes whenever events are taken out, come in from elsewhere or are counted, or the user changes mind."""
    open_mark = CountedEvents.mark(connection)
    return (MetaTable.get(connection, GENERATION), open_mark, consents(connection), OutboxTable.count(connection))


def _learned_under(connection: sqlite3.Connection, snapshot: Snapshot) -> str:
    """Names the events and the bundle that what was learned is of."""
    return f"{snapshot.engine.bundle.digest} {MetaTable.get(connection, GENERATION)}"
