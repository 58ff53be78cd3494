"""What must be true of a data directory, whatever happened to the process that had it open."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import numpy as np

import edgerec
from edgerec.engine import Engine
from edgerec.files import scratch
from edgerec.learning.state import Learned
from edgerec.types import Event
from faults.operations import Operation
from faults.world import PAGE, START, Model, World, observed

KNOWN = re.compile(
    r"edgerec\.db|\.edgerec\.lock|\.edgerec\.quarantine\.lock|\.edgerec\.sync\.lock"
    r"|bundles/\.lock|bundles/\.settle\.lock|bundles/[0-9a-f]{64}/.+"
    r"|quarantine/\.lock|quarantine/\d+/(edgerec\.db(-wal|-shm)?|\.lock|recovered\.json)"
    r"|index/\.lock|index/[0-9a-f]{64}\.db|verified/\.lock|verified/[0-9a-f]{64}-[0-9a-f]{16}"
)
"""Files that a closed data directory may hold."""


def same_state(left: Learned, right: Learned) -> bool:
    """Whether two have learned the same, bit for bit."""
    if (left.steps, left.names, set(left.aside)) != (right.steps, right.names, set(right.aside)):
        return False
    pairs = [(left.updater, right.updater), *[(left.aside[name], right.aside[name]) for name in left.aside]]
    if any(set(one) != set(other) for one, other in pairs):
        return False
    arrays = [(one[name], other[name]) for one, other in pairs for name in one]
    arrays += [(getattr(left.progress, part), getattr(right.progress, part)) for part in ("weights", "guard", "sums")]
    return all(np.array_equal(one, other) for one, other in arrays)


def has_learned(rec: edgerec.Recommender, learned_on: str = "all") -> bool:
    """Whether the state equals a replay of the stored events, bit for bit, and the history is theirs."""
    device, snapshot = rec._device, rec._device.snapshot()
    if learned_on == "mixed":  # some were learned before new items came, some after
        return True
    engine = snapshot.engine
    if learned_on == "bundle":
        engine = Engine(engine.bundle.base, device.plugins, device.config, hooked=True)
    replayed = engine.replay(device.events(), obey=True)
    same_history = np.array_equal(snapshot.history.rows, replayed.history.rows)
    return same_history and same_state(snapshot.learned, replayed.learned)


def check_learned(rec: edgerec.Recommender, *models: Model) -> Model:
    """The one of the models by which the state follows from the events."""
    strict_first = sorted(models, key=lambda model: model.learned_on == "mixed")
    found = next((model for model in strict_first if has_learned(rec, model.learned_on)), None)
    assert found is not None, "the learned state is not that of the events"
    return found


def check_serves(rec: edgerec.Recommender) -> None:
    """A page is full and finite, and its bundle's files are what the manifest says."""
    page = rec.recommend(PAGE)
    assert len(page) == PAGE, page.reason
    assert not page.degraded, page.degraded
    assert all(isfinite(one.score) for one in page)
    folder = rec.bundle.path
    for name, entry in json.loads((folder / "manifest.json").read_bytes())["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"], f"{name} is damaged"


def next_event(tag: str) -> Event:
    """The event with which it is tried whether the next one is stored."""
    return Event("i7", "click", at=START + 1e6, event_id=tag)


def check_records(rec: edgerec.Recommender, event: Event) -> None:
    """The next event is stored, once."""
    assert [rec.record_many([event])[0].status, rec.record_many([event])[0].status] == ["stored", "duplicate"]


def check_closed(state: Path, gone: Sequence[str] = ()) -> None:
    """SQLite finds its file sound, and nothing lies about but what belongs there, with no byte of what is `gone`."""
    connection = sqlite3.connect(state / "edgerec.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    for parent in ("bundles", "index", "verified", "quarantine"):
        if (state / parent).is_dir():
            with scratch(state / parent):  # the next use of a folder sweeps what killed processes left there
                pass
    found = [path for path in state.rglob("*") if not path.is_dir()]
    strange = [name for path in found if not KNOWN.fullmatch(name := str(path.relative_to(state)))]
    assert not strange, f"left behind: {strange}"
    assert not list(state.glob("*/.tmp-*")), "a scratch folder was left behind"
    for path in found:
        kept = [text for text in gone if text.encode() in path.read_bytes()]
        assert not kept, f"{path.name} still holds {kept}"


def check(world: World, operation: Operation, allowed: Sequence[Model], tag: str = "next") -> Model:
    """All of it, and that the folder holds one of `allowed`; the one it holds."""
    with world.open(operation.factory(world)) as rec:
        found = observed(rec)
        assert found in allowed, " · or ".join(found.difference(model) for model in allowed)
        model = check_learned(rec, *[model for model in allowed if model == found])
        check_serves(rec)
        operation.check(rec, world, found)
        check_records(rec, next_event(tag))
        check_learned(rec, model.with_events([next_event(tag)]))
    check_closed(world.state, operation.gone(found))
    return model
