"""A bundle's life on the device: chosen at open, installed after trial, rolled back for good.

Every switch is in this order: the new bundle's files are on the disk, one transaction makes it the current one with all
that was learned under it, and what nobody needs any more is removed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from edgerec import log
from edgerec.bundle import Bundle
from edgerec.config import Config
from edgerec.device import Device
from edgerec.engine import Engine
from edgerec.errors import BundleError, BundleInvalid, BundleRefused, PluginNotFound, StoreError
from edgerec.learning.replay import Replay
from edgerec.plugins import Plugins
from edgerec.records import changed, record
from edgerec.relearning import relearn
from edgerec.store import BundleRow, BundleTable
from edgerec.store.database import QUARANTINE
from edgerec.tidying import remove, unneeded
from edgerec.trials import FAILED, ON, Probation, Trial, checkpoints, compared, probation, save_probation
from edgerec.types import BundleFacts, BundleReview

CURRENT, PREVIOUS, ROLLED_BACK = "current", "previous", "rolled_back"

_DAY_US = 86_400_000_000


@record
class BundleInfo:
    """The bundle that runs, and why it."""

    name: str
    version: int
    digest: str
    path: Path
    reason: str


@record
class Installation:
    """What an install did."""

    bundle: BundleInfo
    trial: Trial
    relearned: int


def start(device: Device, factory: Bundle) -> BundleInfo:
    """Chooses the highest valid version among the factory bundle and those installed, and makes it run.

    A version that was rolled back is not taken, unless nothing else is left.
    """
    while True:
        try:
            return _started(device, factory)
        except _Overtaken:
            continue


def _started(device: Device, factory: Bundle) -> BundleInfo:
    with device.database.read() as connection:
        rows = BundleTable.all(connection)
    current = _with_status(rows, CURRENT)
    bundle, reason = _chosen(device, factory, rows)
    engine = device.engine(bundle)
    if current is None or current.digest != bundle.digest:
        newer = current is not None and bundle.manifest.version > current.version
        _switch(device, engine, _digest(current), reason, watched=newer)
    else:
        device.reload(engine)
    return _info(bundle, reason)


def running(device: Device) -> BundleInfo:
    """The bundle that runs now, whichever process installed it."""
    bundle = device.snapshot().engine.bundle
    with device.database.read() as connection:
        row = _with_status(BundleTable.all(connection), CURRENT)
    return _info(bundle, row.reason if row and row.digest == bundle.digest else "installed")


def _with_status(rows: Sequence[BundleRow], status: str) -> BundleRow | None:
    return next((row for row in rows if row.status == status), None)


def _digest(row: BundleRow | None) -> str | None:
    return None if row is None else row.digest


def _chosen(device: Device, factory: Bundle, rows: Sequence[BundleRow]) -> tuple[Bundle, str]:
    """The bundle to run and why."""
    refused = {row.digest: row.version for row in rows if row.status == ROLLED_BACK}
    bundle = _installed(device, factory, rows, 0 if factory.digest in refused else factory.manifest.version)
    if bundle is not None:
        reason = f"installed; the factory bundle is version {factory.manifest.version}"
    elif factory.digest in refused:
        return factory, "the factory bundle; it was rolled back before, but nothing else is left"
    else:
        bundle, reason = factory, "the factory bundle"
    newer = max((version for version in refused.values() if version > bundle.manifest.version), default=None)
    return bundle, reason if newer is None else f"{reason}; version {newer} was rolled back"


def _installed(device: Device, factory: Bundle, rows: Sequence[BundleRow], floor: int) -> Bundle | None:
    """The newest sound one among those that were installed and are newer than `floor`."""
    for row in sorted(rows, key=lambda row: -row.version):
        if row.version <= floor or row.digest == factory.digest or row.status == ROLLED_BACK:
            continue
        try:
            return _stored(device, row)
        except BundleError as error:
            log.warning("installed bundle %s is not usable: %s", row.version, error)
    return None


def _stored(device: Device, row: BundleRow) -> Bundle:
    """A bundle that was installed. Raises BundleError where it is gone or another one lies in its place."""
    bundle = device.load_installed(row)
    if bundle.digest != row.digest:
        raise BundleInvalid(f"version {bundle.manifest.version} lies where version {row.version} was installed from")
    return bundle


def _info(bundle: Bundle, reason: str) -> BundleInfo:
    return BundleInfo(bundle.manifest.name, bundle.manifest.version, bundle.digest, bundle.path, reason)


def install(device: Device, path: Path, *, force: bool = False) -> Installation:
    """Verifies a bundle, tries it, and switches to it; or refuses, and everything stays as it was.

    Raises BundleNotFound, BundleInvalid, BundleUnsupported, GoldenMismatch or BundleRefused. `force` takes a
    bundle that is older, of another name, was rolled back, or does worse in the shadow evaluation.
    """
    bundle = device.load(path)
    engine = device.engine(bundle)
    check_host(bundle, device.plugins)
    old = device.snapshot().engine
    with device.database.read() as connection:
        rows = BundleTable.all(connection)
    if not force:
        _check_version(rows, bundle, old.bundle)
    trial = compared(old, engine, device.events())
    if trial.refuses and not force:
        raise BundleRefused(
            f"version {bundle.manifest.version} does worse on this user's events: {trial}",
            hint="force=True takes it all the same",
        )
    if not force and (veto := device.plugins.hooks.review_bundle(_review(device, old.bundle, bundle, trial))):
        raise BundleRefused(f"vetoed by {veto}", hint="force=True takes it all the same")
    # what is left for an older one must not be the highest version again at the next start
    older = bundle.manifest.version < old.bundle.manifest.version
    replaced, leaving = _digest(_with_status(rows, CURRENT)), ROLLED_BACK if older else PREVIOUS
    replayed = _switch(device, engine, replaced, "installed", leaving=leaving, watched=not force)
    return Installation(_info(bundle, "installed"), trial, sum(1 for row in replayed.decided if row.learned))


def facts(bundle: Bundle) -> BundleFacts:
    """What observers and reviewers are told of a bundle."""
    manifest = bundle.manifest
    return BundleFacts(manifest.name, manifest.version, bundle.digest, manifest.n_items, manifest.dim)


def _review(device: Device, running: Bundle, candidate: Bundle, trial: Trial) -> BundleReview:
    items = sorted({row.item for row in device.events()})
    missing = int((candidate.catalogue.rows(items) < 0).sum())
    return BundleReview(facts(running), facts(candidate), len(items), missing, trial.n, trial.difference)


def check_host(bundle: Bundle, plugins: Plugins) -> None:
    """Repeats the bundle's golden cases, under its own constants whatever the app configured.

    Raises GoldenMismatch. Where the bundle's own updater is not at hand, its stories cannot be told.
    """
    from edgerec.golden import check_golden

    try:
        check_golden(Engine(bundle, plugins, Config()))
    except PluginNotFound:
        check_golden(Engine(bundle, plugins, Config(updater="none")), stories=False)


def _check_version(rows: Sequence[BundleRow], bundle: Bundle, running: Bundle) -> None:
    known = {row.digest: row.status for row in rows}
    if bundle.digest == running.digest:
        raise BundleRefused("this bundle is running already")
    if bundle.manifest.name != running.manifest.name:
        raise BundleRefused(
            f"its name is {bundle.manifest.name!r}, that of the running bundle {running.manifest.name!r}",
            hint="versions of another name say nothing; force=True takes it all the same",
        )
    if known.get(bundle.digest) == ROLLED_BACK:
        raise BundleRefused("this bundle was rolled back on this device", hint="force=True takes it all the same")
    if bundle.manifest.version <= running.manifest.version:
        raise BundleRefused(
            f"version {bundle.manifest.version} is not newer than {running.manifest.version}",
            hint="publish under a higher version, or use rollback()",
        )


def rollback(device: Device, *, expected: str | None = None, why: str = "", trial: Trial | None = None) -> BundleInfo:
    """Goes back to the bundle before; the one that ran is remembered and not taken again.

    `expected`: digest of the bundle that must be running · `why` is remembered with it, and told to whoever asks ·
    `trial` is kept with its probation. Raises BundleRefused where there is no earlier bundle, and BundleError where it
    is gone.
    """
    engine, current = previous(device)
    if expected is not None and current != expected:
        raise _Overtaken
    reason = f"rolled back to: {why}" if why else "rolled back to"
    _switch(device, engine, current, reason, leaving=ROLLED_BACK, trial=trial)
    return _info(engine.bundle, reason)


def previous(device: Device) -> tuple[Engine, str]:
    """An engine of the bundle before, and the digest of the one that took its place. Raises BundleError."""
    with device.database.read() as connection:
        rows = BundleTable.all(connection)
    before, current = _with_status(rows, PREVIOUS), _with_status(rows, CURRENT)
    if before is None or current is None:
        raise BundleRefused("there is no earlier bundle to go back to")
    return device.engine(_stored(device, before)), current.digest


class _Overtaken(BundleRefused):
    """Another process switched meanwhile."""

    def __init__(self) -> None:
        super().__init__("another process switched to another bundle meanwhile", hint="try again")


def _switch(
    device: Device,
    engine: Engine,
    replaced: str | None,
    reason: str,
    *,
    leaving: str = PREVIOUS,
    watched: bool = False,
    trial: Trial | None = None,
) -> Replay:
    """Makes an engine the running one in the place of the bundle `replaced`: relearns every event in its space and
    switches in one transaction. `watched`: puts it on probation. Raises BundleRefused where another one runs by then.
    """
    old = facts(device.snapshot().engine.bundle) if device.started else None

    def store(connection: sqlite3.Connection) -> None:
        rows, now = BundleTable.all(connection), round(device.clock() * 1e6)
        if _digest(_with_status(rows, CURRENT)) != replaced:
            raise _Overtaken
        _save_rows(connection, engine.bundle, rows, reason, leaving, now)
        if leaving == ROLLED_BACK:
            _end_probation(connection, replaced, reason if trial is None else str(trial))
        else:
            save_probation(connection, _probation(device, engine.bundle, replaced, now) if watched else None)

    replayed = relearn(device, store, engine=engine)
    _tidy(device)
    device.plugins.hooks.observe("edgerec_bundle_changed", old=old, new=facts(engine.bundle), reason=reason)
    return replayed


def _probation(device: Device, bundle: Bundle, replaced: str | None, now: int) -> Probation | None:
    """The probation that a bundle begins, None where the app wants none or there is nothing to go back to."""
    config = device.config
    if replaced is None or not config.automatic_rollback:
        return None
    until = now + round(config.window_days * _DAY_US)
    return Probation(bundle.digest, replaced, now, until, checkpoints(config.window_events))


def _end_probation(connection: sqlite3.Connection, failed: str | None, reason: str) -> None:
    one = probation(connection)
    if one is not None and one.digest == failed and one.status == ON:
        save_probation(connection, changed(one, status=FAILED, reason=reason))


def _tidy(device: Device) -> None:
    """Removes what no switch can come back to; whatever goes wrong, the switch is done."""
    if (device.data_dir / QUARANTINE).exists():
        from edgerec.store.quarantine import Quarantine  # hardly any device has one

        if Quarantine(device.data_dir).waiting():  # it may know of more bundles
            return
    try:
        with device.database.read() as connection:
            keep = {row.digest for row in BundleTable.all(connection) if row.status in (CURRENT, PREVIOUS)}
            if not (digests := unneeded(device.data_dir, keep)):
                return
            # a switch that is not on the disk yet may be undone by a power loss, and needs the files of before
            _, frames, stored = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if frames == stored:
            remove(device.data_dir, digests)
    except (OSError, StoreError) as error:
        log.warning("unused bundles were not removed: %s", type(error).__name__)


def _save_rows(
    connection: sqlite3.Connection, bundle: Bundle, rows: Sequence[BundleRow], reason: str, leaving: str, now: int
) -> None:
    """The new bundle is current, the one that ran is `leaving`, older ones are forgotten but for what was refused."""
    for row in rows:
        if row.digest == bundle.digest:
            continue
        if row.status == CURRENT:
            left = changed(row, status=leaving)
            BundleTable.save(connection, changed(left, reason=reason) if leaving == ROLLED_BACK else left)
        elif row.status == PREVIOUS and leaving == PREVIOUS:
            BundleTable.remove(connection, row)
    manifest = bundle.manifest
    path = str(bundle.path.absolute())
    BundleTable.save(connection, BundleRow(bundle.digest, manifest.name, manifest.version, path, CURRENT, reason, now))
