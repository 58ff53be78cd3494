"""Processes that fork: parent and children go on with the same store, and nothing that either acknowledged is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Opener, same_state

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

BEGIN = """
import os, sys, threading
import edgerec
rec = edgerec.open(sys.argv[1], sys.argv[2], plugins=["edgerec_plugins.sgd"])
rec.record("i1", "click", event_id="before")

def forked(work):
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        return child, os.fdopen(told)
    try:
        work(lambda word: os.write(tell, f"{word}\\n".encode()))
    except BaseException as error:
        os.write(2, repr(error).encode())
    os._exit(0)

def record(event_id):
    assert rec.record("i2", "click", event_id=event_id).status == "stored"
    os.write(1, f"{event_id}\\n".encode())  # in one piece, whoever else writes
"""

PARENT_LEAVES = """
go, wait = os.pipe()
def work(tell):
    record("child")
    tell("recorded")
    os.read(go, 1)
    for n in range(3):
        record(f"child, alone {n}")
child, told = forked(work)
told.readline()
record("parent")
rec.close()
os.write(wait, b"!")
os.waitpid(child, 0)
"""

CHILD_LEAVES = """
def work(tell):
    record("child")
    rec.close()
child, told = forked(work)
os.waitpid(child, 0)
for n in range(3):
    record(f"parent, alone {n}")
"""

THREADS = """
inside = threading.Event()
def clock():
    inside.set()
    return 1.7e9
rec._device.clock = clock
def busy(n):
    rec.record_many([edgerec.Event("i1", "click", event_id=f"thread {n} {m}") for m in range(50)])
    os.write(1, "".join(f"thread {n} {m}\\n" for m in range(50)).encode())
for n in range(5):
    inside.clear()
    thread = threading.Thread(target=busy, args=[n])
    thread.start()
    inside.wait()  # for the thread to hold the store
    child, told = forked(lambda tell: (rec.recommend(3), record(f"child {n}")))
    os.waitpid(child, 0)
    record(f"parent {n}")
    thread.join()
rec.close()
"""

SHOWN = """
page = rec.recommend(5)
child, told = forked(lambda tell: (record("child"), rec.close()))
os.waitpid(child, 0)
rec.record(page[0].item, "click", event_id="clicked", recommendation_id=page.id)
rec.close()
"""


def run(bundle_path: Path, state: Path, work: str) -> list[str]:
    """The ids of events that any process said it had recorded."""
    command = [sys.executable, "-W", "ignore", "-c", BEGIN + work, str(bundle_path), str(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return ["before", *done.stdout.splitlines()]


@pytest.mark.parametrize("work", [PARENT_LEAVES, CHILD_LEAVES, THREADS], ids=["parent leaves", "child leaves", "busy"])
def test_what_either_process_acknowledged_is_there(
    opener: Opener, bundle_path: Path, tmp_path: Path, work: str
) -> None:
    told = run(bundle_path, tmp_path / "state", work)
    assert len(told) > 4
    rec = opener()
    assert sorted(row.event_id for row in rec._device.events()) == sorted(told)
    snapshot = rec._device.snapshot()
    assert same_state(snapshot.learned, snapshot.engine.replay(rec._device.events(), obey=True).learned)


def test_a_page_that_the_parent_showed_is_written_once(opener: Opener, bundle_path: Path, tmp_path: Path) -> None:
    run(bundle_path, tmp_path / "state", SHOWN)
    rec = opener()
    assert rec.stats()["exposures"] == 5
    assert [row.scenario for row in rec._device.events() if row.event_id == "clicked"] == ["default"]
