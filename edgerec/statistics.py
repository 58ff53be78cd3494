"""What a recommender says of itself."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from edgerec.device import FAILURES, Device, Snapshot
from edgerec.errors import StoreError
from edgerec.learning.guard import PARTS
from edgerec.learning.progressive import METRICS
from edgerec.learning.state import RANKINGS
from edgerec.lifecycle import BundleInfo
from edgerec.participation import consents, is_control
from edgerec.store import CountedEvents, Database, EventTable, ExposureTable, MetaTable, OutboxTable
from edgerec.trials import as_values, probation


def statistics(device: Device, running: BundleInfo) -> dict[str, Any]:
    """Plain values, ready for JSON."""
    snapshot = device.snapshot()
    with device.database.read() as connection:
        events, exposures = EventTable.count(connection), ExposureTable.count(connection)
        trial = probation(connection)
        federation = _federation(device, connection)
    updater = snapshot.engine.learner.updaters.owner
    return {
        "bundle": {
            "name": running.name,
            "version": running.version,
            "digest": running.digest,
            "why": running.reason,
            "probation": trial and as_values(trial),
        },
        "events": events,
        "exposures": exposures,
        "learning": {
            "updater": updater.name if updater else None,
            "paused": snapshot.paused,
            "steps": snapshot.learned.steps,
            "scenarios": {name: _scenario(snapshot, name) for name in snapshot.learned.names},
        },
        "federation": federation,
        "store_bytes": sum(p.stat().st_size for p in device.data_dir.glob("edgerec.db*")),
        "plugins": {**device.plugins.summary(), "loaded": list(device.plugins.loaded)},
    }


def _federation(device: Device, connection: sqlite3.Connection) -> dict[str, Any]:
    settings = device.config.federation
    return {
        "enabled": settings is not None and settings.enabled,
        "consent": consents(connection),
        "control": is_control(connection, settings),
        "waiting": OutboxTable.count(connection),
        "uncounted": len(CountedEvents.open_ids(connection) or ()) if consents(connection) else 0,
    }


def _scenario(snapshot: Snapshot, name: str) -> dict[str, Any]:
    learner, sources = snapshot.engine.learner, snapshot.engine.scorer.names
    progress = snapshot.learned.scenario(name)
    weights, _ = snapshot.engine.serving(snapshot.learned, name)
    rankings = {}
    for ranking, sums in zip((*RANKINGS, *sources), progress.sums.tolist(), strict=True):
        n = int(sums[0])
        means = {metric: total / n if n else None for metric, total in zip(METRICS[1:], sums[1:], strict=True)}
        rankings[ranking] = {"n": n, **means}
    return {
        "weights": dict(zip(sources, weights.tolist(), strict=True)),
        "served": dict(zip(PARTS, learner.trusted(progress.guard), strict=True)),
        "progressive": rankings,
    }


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
            kept = MetaTable.get(connection, FAILURES)
        try:
            found: dict[str, dict[str, Any]] = json.loads(kept or "{}")
        except ValueError:  # a damaged setting, of no more use
            found = {}
        return found
    finally:
        database.close()
