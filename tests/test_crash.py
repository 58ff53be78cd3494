"""What `record` returned for survives `kill -9`: real processes, killed at random points."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from conftest import Opener, same_state

import edgerec

ACKNOWLEDGED = 2000
SEED = 20260101

# Records as fast as it can and prints an event's id only after record() returned. Groups and pages are mixed in so
# that a kill can fall between any two statements of any kind of write.
WRITER = """
import itertools, os, sys, edgerec
bundle, state, run = sys.argv[1:4]
with edgerec.open(bundle, state, plugins=["edgerec_plugins.sgd"]) as rec:
    for n in itertools.count():
        page = rec.recommend(3)
        ids = [f"{run}.{n}.{k}" for k in range(1 + n % 3)]
        rec.record_many([
            edgerec.Event(f"i{(n * 7 + k) % 60}", "purchase" if n % 2 else "click", group=f"{run}.{n}", event_id=one,
                          recommendation_id=page.id)
            for k, one in enumerate(ids)
        ])
        os.write(1, "".join(one + "\\n" for one in ids).encode())
"""


def run_and_kill(bundle: Path, state: Path, run: int, lines: int) -> list[str]:
    """Event ids acknowledged by a writer that was killed after it had printed about `lines` of them."""
    command = [sys.executable, "-c", WRITER, str(bundle), str(state), str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = []
    for line in process.stdout:
        acknowledged.append(line)
        if len(acknowledged) == lines:
            process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return [line.strip() for line in acknowledged if line.endswith("\n")]


def test_no_acknowledged_event_is_lost_and_state_agrees(bundle_path: Path, tmp_path: Path, opener: Opener) -> None:
    rng = random.Random(SEED)
    acknowledged: list[str] = []
    run = 0
    while len(acknowledged) < ACKNOWLEDGED:
        # the first kills fall into opening and migrating, the later ones anywhere between two writes
        acknowledged += run_and_kill(bundle_path, tmp_path / "state", run, rng.randint(1, 300))
        run += 1
    assert run >= 10
    rec = opener(plugins=["edgerec_plugins.sgd"])
    events = rec._device.events()
    stored = {event.event_id for event in events}
    assert [one for one in acknowledged if one not in stored] == []
    assert len(stored) == len(events)
    snapshot = rec._device.snapshot()
    assert same_state(snapshot.learned, snapshot.engine.replay(events, obey=True).learned)
    assert max(event.learned for event in events) == snapshot.learned.steps


def test_a_kill_while_opening_leaves_a_store_that_opens(bundle_path: Path, tmp_path: Path, opener: Opener) -> None:
    rng = random.Random(SEED)
    script = "import sys, edgerec\nprint('go', flush=True)\nedgerec.open(sys.argv[1], sys.argv[2], plugins=[])"
    for attempt in range(8):
        state = tmp_path / f"s{attempt}"
        process = subprocess.Popen([sys.executable, "-c", script, str(bundle_path), str(state)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(rng.uniform(0.0, 0.3))
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        process.stdout.close()
        with edgerec.open(bundle_path, state, plugins=["edgerec_plugins.sgd"]) as rec:
            assert rec.record("i1", "click").status == "stored"
