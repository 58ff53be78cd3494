"""Looks a data directory over: what is wrong, and what to do about it. Repairs on request."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import edgerec
from edgerec.bundle import verify
from edgerec.device import PENDING
from edgerec.errors import BundleError, EdgeRecError, PluginError, StoreDamaged, StoreError
from edgerec.federation_settings import KEYS
from edgerec.participation import CONSENT, consents
from edgerec.plugins import Plugins
from edgerec.records import record
from edgerec.statistics import failures_in
from edgerec.store import BundleTable, Database, EventTable, ExposureTable, MetaTable, OutboxTable
from edgerec.store.quarantine import Quarantine, check

OK, WARNING, FAILURE = "ok", "warning", "failure"
LITTLE_SPACE, NO_SPACE = 200 << 20, 20 << 20
"""Bytes free on the disk below which a warning, or a failure, is in place."""

_PACKAGES = ("numpy", "onnxruntime", "sqlite-utils", "pluggy", "click")


@record
class Finding:
    """`status`: ok · warning · failure. `exit_code`: the command's, where this is the first failure."""

    name: str
    status: str
    message: str
    hint: str | None = None
    exit_code: int = 1


def examine(data_dir: Path | None = None, bundle: Path | None = None) -> list[Finding]:
    """Everything there is to say of this installation, of one user's data directory, and of the app's own bundle.

    Nothing is repaired; bundles are verified byte by byte.
    """
    found = [*_versions(), *_telemetry(), *_plugins()]
    paths = [] if bundle is None else [bundle]
    if data_dir is not None:
        found += _folder(data_dir)
        if data_dir.is_dir():
            found += [*_store(data_dir), *_quarantine(data_dir)]
            paths += _installed(data_dir)
    return found + [finding for path in dict.fromkeys(path.resolve() for path in paths) for finding in _bundle(path)]


def repair(data_dir: Path, bundle: Path, config: Path | None = None) -> list[str]:
    """Sets a damaged store aside, recovers what it and earlier ones hold, and finishes erasures; says what it did.

    `config`: the app's, without which it is learned anew by the defaults. Raises what `edgerec.open` raises, and
    StoreError where something could not be recovered.
    """
    quarantine = Quarantine(data_dir)
    done = []
    if (data_dir / "edgerec.db").exists() and (home := quarantine.take(Database(data_dir / "edgerec.db"))):
        done.append(f"the damaged store was set aside: {home}")
    waiting = [home.name for home in quarantine.waiting()]
    with edgerec.open(bundle, data_dir, config=config) as rec:
        n_events = rec.stats()["events"]
    for name, report in quarantine.reports().items():
        if report is None:
            raise StoreError(f"damaged store {name} could not be recovered", hint="the log says why; try again")
        if name in waiting:
            done.append(f"damaged store {name}: {report['added']} events recovered")
    return [*done, f"the store is sound and holds {n_events} events"]


def _versions() -> Iterator[Finding]:
    found = [
        f"edgerec {edgerec.__version__}",
        f"Python {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
    ]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # a frozen app carries no metadata
            found.append(f"{name} (no metadata)")
    yield Finding("versions", OK, f"{', '.join(found)}; {platform.system()} {platform.machine()}")


def _telemetry() -> Iterator[Finding]:
    if "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        yield Finding(
            "telemetry",
            WARNING,
            "onnxruntime was imported before edgerec could switch its reporting off",
            "set ORT_DISABLE_TELEMETRY=1, or import edgerec first",
        )
    else:
        yield Finding("telemetry", OK, "onnxruntime's reporting is switched off before it is imported")


def _plugins() -> Iterator[Finding]:
    plugins = Plugins()
    try:
        for name, reason in plugins.broken.items():
            yield Finding("plugins", WARNING, f"{name} cannot be loaded: {reason}", "edgerec plugins check NAME")
        yield Finding("plugins", OK, f"loaded: {', '.join(plugins.loaded)}")
    except PluginError as error:
        yield _failed("plugins", error)
    finally:
        plugins.close()


def _folder(data_dir: Path) -> Iterator[Finding]:
    if not data_dir.is_dir():
        yield Finding("folder", FAILURE, f"there is no data directory at {data_dir}", "name a user's", 50)
        return
    free = shutil.disk_usage(data_dir).free
    status = FAILURE if free < NO_SPACE else WARNING if free < LITTLE_SPACE else OK
    yield Finding("space", status, f"{free >> 20} MiB are free", None if status == OK else "make room", 50)
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("permissions", FAILURE, f"{data_dir} cannot be written to", "change its permissions", 50)
        return
    others, reach = stat.S_IRGRP | stat.S_IROTH, stat.S_IXGRP | stat.S_IXOTH
    private = [*data_dir.glob("edgerec.db*"), *data_dir.glob(f"{KEYS}/*/*")]
    loose = sorted(path.name for path in private if path.stat().st_mode & others)
    if os.name == "posix" and loose and data_dir.stat().st_mode & reach:
        told = f"others on this machine may read {', '.join(loose)}"
        yield Finding("permissions", WARNING, told, f"chmod 700 {data_dir}")
    else:
        yield Finding("permissions", OK, "the user alone can read the store")


def _store(data_dir: Path) -> Iterator[Finding]:
    path = data_dir / "edgerec.db"
    if not path.exists():
        yield Finding("store", WARNING, "there is no store yet", "the first open makes one")
        return
    database = Database(path)
    try:
        check(database)
        with database.read() as connection:
            counts = f"{EventTable.count(connection)} events, {ExposureTable.count(connection)} exposures"
            pending = MetaTable.get(connection, PENDING) is not None
            federation = _federation(connection)
        yield Finding(
            "store", OK, f"sound: {counts}, {sum(p.stat().st_size for p in data_dir.glob('edgerec.db*'))} bytes"
        )
        yield from federation
        if pending:
            yield Finding(
                "erasure", WARNING, "forgotten data is not erased to the last byte yet", "open the store once"
            )
        for name, failure in failures_in(data_dir).items():
            yield Finding("plugins", WARNING, f"{name} failed when the store was last open", str(failure))
    except StoreDamaged as error:
        yield Finding("store", FAILURE, str(error.args[0]), "edgerec doctor --repair --bundle …", error.exit_code)
    except StoreError as error:
        yield _failed("store", error)
    finally:
        database.close()


def _federation(connection: sqlite3.Connection) -> list[Finding]:
    """Nothing where the user was never asked."""
    if MetaTable.get(connection, CONSENT) is None:
        return []
    waiting = OutboxTable.count(connection)
    if not consents(connection):
        return [Finding("federation", OK, "the user did not agree: no delta is sent")]
    return [Finding("federation", OK, f"the user agreed; {waiting} delta waits" if waiting else "the user agreed")]


def _quarantine(data_dir: Path) -> Iterator[Finding]:
    for name, report in Quarantine(data_dir).reports().items():
        if report is None:
            yield Finding("quarantine", WARNING, f"damaged store {name} waits", "edgerec doctor --repair --bundle …")
        else:
            yield Finding("quarantine", WARNING, f"of damaged store {name} {report['added']} events were recovered")


def _installed(data_dir: Path) -> list[Path]:
    """Bundles that this user's store names, but for those that were rolled back."""
    if not (data_dir / "edgerec.db").exists():
        return []
    database = Database(data_dir / "edgerec.db")
    try:
        with database.read() as connection:
            rows = [row for row in BundleTable.all(connection) if row.status != "rolled_back"]
        return [here if (here := data_dir / "bundles" / row.digest).exists() else Path(row.path) for row in rows]
    except StoreError:  # which has a finding of its own
        return []
    finally:
        database.close()


def _bundle(path: Path) -> Iterator[Finding]:
    try:
        manifest = verify(path)
        yield Finding("bundle", OK, f"{manifest.name} version {manifest.version} is sound")
    except BundleError as error:
        yield _failed("bundle", error)


def _failed(name: str, error: EdgeRecError) -> Finding:
    return Finding(name, FAILURE, str(error.args[0]), error.hint, error.exit_code)
