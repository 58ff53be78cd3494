"""Whatever dies, and wherever between two writes: nothing that was acknowledged is lost, nothing is half done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from faults.catalogue import OPERATIONS
from faults.running import Run
from faults.running import under_shim as under_shim

SEED = 20260101
MOST = 12
"""Kills per operation here; `make study-kills` dies at every boundary in every way."""


@pytest.mark.parametrize("name", [*OPERATIONS])
def test_a_kill_at_a_write_boundary_loses_nothing(name: str, under_shim: Run) -> None:
    """The folder holds what it held before the operation or what it holds after it, and the latter where the operation
    had returned: events with their payload, learned state equal to a replay, one whole bundle, no leftovers."""
    told = under_shim("-m", "faults", "kills", name, "--most", MOST, "--seed", SEED)
    outcome = json.loads(told)
    assert outcome["failures"] == []
    assert outcome["kills"] == min(outcome["boundaries"], MOST) > 3


def test_sequences_of_operations_survive_a_kill_after_the_other(under_shim: Run) -> None:
    """Eight lives of each folder, each killed somewhere in eight operations: the invariants hold after each."""
    told = under_shim("-m", "faults", "lives", "--seed", SEED, "--count", 3)
    outcome = json.loads(told)
    assert outcome["failures"] == []
    assert outcome["kills"] >= 18


# ── the suite itself can fail ────────────────────────────────────────────────────────────────────────────────────────

BROKEN = """
import json, sys
from dataclasses import asdict
from pathlib import Path
import numpy, onnxruntime
from edgerec.store import Database, EventTable
from faults.kills import Killer
from faults.operations import RecordOne, RecordPage, events
from faults.world import World

class TwoTransactions(RecordPage):
    def act(self, rec, world, tag):
        for event in events(tag, 3, group=tag):
            rec.record_many([event])

class EventBeforeState(RecordOne):
    def act(self, rec, world, tag):
        save = rec._device.save_learned
        rec._device.save_learned = lambda *_: None
        super().act(rec, world, tag)
        with rec._device.database.write() as connection:
            snapshot = rec._device.snapshot()
            save(connection, snapshot.engine, snapshot.learned)
"""


@pytest.mark.parametrize(
    ("broken", "word"), [("TwoTransactions", "lost events"), ("EventBeforeState", "not that of the events")]
)
def test_a_runtime_that_is_not_safe_is_found_out(broken: str, word: str, under_shim: Run, tmp_path: Path) -> None:
    code = f"{BROKEN}\nkiller = Killer({broken}(), World(Path(sys.argv[1])))\n"
    code += "print(json.dumps(asdict(killer.kill_all(killer.points()[::3]))))"
    outcome = json.loads(under_shim("-c", code, tmp_path))
    assert any(word in failure for failure in outcome["failures"])
    assert len(outcome["failures"]) < outcome["kills"], "but where nothing was done, or all, it is sound"
