"""A bundle's life on the device: chosen at open, installed after trial, rolled back for good."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgerec import log
from edgerec.bundle import Bundle
from edgerec.config import Config
from edgerec.device import Device
from edgerec.engine import Engine
from edgerec.errors import BundleError, BundleRefused, PluginNotFound
from edgerec.learning.replay import Replay
from edgerec.plugins import Plugins
from edgerec.records import changed, record
from edgerec.relearning import relearn
from edgerec.store import BundleRow, BundleTable
from edgerec.types import BundleFacts, BundleReview

CURRENT, PREVIOUS, ROLLED_BACK = "current", "previous", "rolled_back"
MIN_TRIALS = 30
"""With fewer paired comparisons a shadow evaluation cannot refuse a bundle."""


@record
class BundleInfo:
    """The bundle that runs, and why it."""

    name: str
    version: int
    digest: str
    path: Path
    reason: str


@record
class Trial:
    """A shadow evaluation: both bundles learned from zero on this user's events, test-then-train.

    `difference`: mean NDCG@10 of the new bundle minus the old one's over `n` paired steps; `ci95` its normal
    interval; None with fewer than two pairs.
    """

    n: int
    difference: float | None
    ci95: tuple[float, float] | None

    @property
    def refuses(self) -> bool:
        """Whether the interval lies below zero on enough comparisons."""
        return self.ci95 is not None and self.n >= MIN_TRIALS and self.ci95[1] < 0


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
    with device.database.read() as connection:
        rows = BundleTable.all(connection)
    current = next((row for row in rows if row.status == CURRENT), None)
    refused = {row.digest for row in rows if row.status == ROLLED_BACK}
    bundle, reason = _chosen(device, factory, [row for row in rows if row.status in (CURRENT, PREVIOUS)], refused)
    engine = device.engine(bundle)
    if current is None or current.digest != bundle.digest:
        _switch(device, engine, rows, reason)
    else:
        device.reload(engine)
    return _info(bundle, reason)


def _chosen(device: Device, factory: Bundle, installed: Sequence[BundleRow], refused: set[str]) -> tuple[Bundle, str]:
    """The bundle to run and why."""
    floor = 0 if factory.digest in refused else factory.manifest.version
    for row in sorted(installed, key=lambda row: -row.version):
        if row.version <= floor or row.digest == factory.digest:
            continue
        try:
            return device.load_installed(row), f"installed; the factory bundle is version {factory.manifest.version}"
        except BundleError as error:
            log.warning("installed bundle %s is not usable: %s", row.version, error)
    if factory.digest in refused:
        return factory, "the factory bundle; it was rolled back before, but nothing else is left"
    return factory, "the factory bundle"


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
    if not force:
        _check_version(device, bundle, old.bundle)
    trial = shadow(device, old, engine)
    if trial.refuses and not force:
        raise BundleRefused(
            f"version {bundle.manifest.version} does worse on this user's events: NDCG@10 {trial.difference:+.4f}",
            hint="force=True takes it all the same",
        )
    if not force and (veto := device.plugins.hooks.review_bundle(_review(device, old.bundle, bundle, trial))):
        raise BundleRefused(f"vetoed by {veto}", hint="force=True takes it all the same")
    with device.database.read() as connection:
        rows = BundleTable.all(connection)
    # what is left for an older one must not be the highest version again at the next start
    older = bundle.manifest.version < old.bundle.manifest.version
    replayed = _switch(device, engine, rows, "installed", leaving=ROLLED_BACK if older else PREVIOUS)
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


def _check_version(device: Device, bundle: Bundle, running: Bundle) -> None:
    with device.database.read() as connection:
        known = {row.digest: row.status for row in BundleTable.all(connection)}
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


def shadow(device: Device, old: Engine, new: Engine) -> Trial:
    """Both engines learn from zero on the stored events; NDCG@10 per step and scenario, paired."""
    events = device.events()
    left, right = old.replay(events, obey=False).ndcg, new.replay(events, obey=False).ndcg
    pairs = np.array([right[key] - left[key] for key in left if key in right])
    if len(pairs) < 2:
        return Trial(len(pairs), None, None)
    mean = float(pairs.mean())
    margin = 1.96 * float(pairs.std(ddof=1)) / math.sqrt(len(pairs))
    return Trial(len(pairs), mean, (mean - margin, mean + margin))


def rollback(device: Device) -> BundleInfo:
    """Goes back to the bundle before; the one that ran is remembered and not taken again.

    Raises BundleRefused where there is none.
    """
    with device.database.read() as connection:
        rows = BundleTable.all(connection)
    previous = next((row for row in rows if row.status == PREVIOUS), None)
    if previous is None:
        raise BundleRefused("there is no earlier bundle to go back to")
    engine = device.engine(device.load_installed(previous))
    _switch(device, engine, rows, "rolled back to", leaving=ROLLED_BACK)
    return _info(engine.bundle, "rolled back to")


def _switch(
    device: Device, engine: Engine, rows: Sequence[BundleRow], reason: str, *, leaving: str = PREVIOUS
) -> Replay:
    """Makes an engine the running one: relearns every event in its space and switches in one transaction."""
    old = facts(device.snapshot().engine.bundle) if device.started else None

    def store(connection: sqlite3.Connection) -> None:
        _save_rows(connection, engine.bundle, rows, reason, leaving, round(device.clock() * 1e6))

    replayed = relearn(device, store, engine=engine)
    device.plugins.hooks.observe("edgerec_bundle_changed", old=old, new=facts(engine.bundle), reason=reason)
    return replayed


def _save_rows(
    connection: sqlite3.Connection, bundle: Bundle, rows: Sequence[BundleRow], reason: str, leaving: str, now: int
) -> None:
    """The new bundle is current, the one that ran is `leaving`, older ones are forgotten but for what was refused."""
    for row in rows:
        if row.digest == bundle.digest:
            continue
        if row.status == CURRENT:
            BundleTable.save(connection, changed(row, status=leaving))
        elif row.status == PREVIOUS and leaving == PREVIOUS:
            BundleTable.remove(connection, row)
    manifest = bundle.manifest
    path = str(bundle.path.absolute())
    BundleTable.save(connection, BundleRow(bundle.digest, manifest.name, manifest.version, path, CURRENT, reason, now))
