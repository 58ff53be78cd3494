"""A disk that is full, read-only or broken: nothing half done, pages go on, and all works again once the disk does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import shim
from faults.running import Run
from faults.running import under_shim as under_shim

SEED = 20260101

EVERY = {
    "record": 11,
    "record a basket from a page": 17,
    "record at a checkpoint": 19,
    "record and learn, ten steps": 13,
    "update the catalogue": 19,
    "pause": 11,
    "rollback": 11,
    "install a zip": 91,
    "first open": 211,
    "migrate from schema 1": 65,
    "close": 25,
    "forget": 71,
    "import a profile": 71,
    "open with retention": 91,
}
"""Of so many failures of an operation's calls, one is tried here; the study tries each."""


@pytest.mark.parametrize("name", [*EVERY])
def test_a_call_that_fails_leaves_nothing_half_done(name: str, under_shim: Run) -> None:
    """EIO, ENOSPC, EROFS and EDQUOT at a write boundary, once, from then on, or after half a write: StoreError or
    BundleError and nothing was done, or all was; pages are served; on a disk that works the same recommender does."""
    told = under_shim("-m", "faults", "fails", name, "--every", EVERY[name], "--seed", SEED)
    outcome = json.loads(told)
    assert outcome["failures"] == []
    assert outcome["kills"] > 3


def test_an_index_that_cannot_be_made_is_a_bundle_error(under_shim: Run) -> None:
    told = under_shim("-m", "faults", "fails", "first open", "--ending", "/index.db", "--every", 7)
    assert json.loads(told)["failures"] == []


@pytest.mark.parametrize("part", ["the header", "an index"])
def test_a_recovery_that_fails_is_tried_again(part: str, under_shim: Run) -> None:
    """Whatever fails while a damaged store is set aside and read: the next open brings back all that it holds."""
    told = under_shim("-m", "faults", "fails", f"open with {part} damaged", "--every", 41, "--seed", SEED)
    assert json.loads(told)["failures"] == []


SYNCED = """
import errno, sys
from pathlib import Path
from edgerec.errors import StoreError
from faults import shim
from faults.invariants import check
from faults.catalogue import OPERATIONS
from faults.world import World, observed
operation, world = OPERATIONS["record"], World(Path(sys.argv[1]))
operation.prepare(world)
before = operation.before(world)
rec = world.open(config={"store": {"synchronous": "FULL"}})
for kept in range(3):
    shim.arm(world.state, shim.Mode.FAIL_ON, 1, errno.EIO, shim.Kind.SYNC)
    try:
        operation.act(rec, world, f"{kept}")
        print("acknowledged")
    except StoreError:
        assert observed(rec) == before
    rec.recommend(5)
    shim.disarm()
    operation.act(rec, world, f"{kept}")
    before = operation.after(before, world, f"{kept}")
    assert observed(rec) == before
rec.close()
check(world, operation, [before])
print("ended")
"""


def test_an_event_whose_sync_failed_is_not_acknowledged_under_full(under_shim: Run, tmp_path: Path) -> None:
    """With synchronous = FULL, an fsync that fails is a StoreError and the event is not there; then it is, once."""
    assert under_shim("-c", SYNCED, tmp_path).split() == ["ended"]


UNREADABLE = """
import errno, sys
from pathlib import Path
from edgerec.errors import StoreError
from faults import shim
from faults.invariants import check, check_learned, check_serves
from faults.catalogue import OPERATIONS
from faults.operations import events
from faults.world import World, observed
operation, world = OPERATIONS["record"], World(Path(sys.argv[1]))
operation.prepare(world)
model = operation.before(world)
rec, other = world.open(), world.open()
shim.arm(world.state, kinds=shim.Kind.READ)
other.record_many(events("first", 1))
rec.recommend(5)
reads = len(shim.seen())
shim.disarm()
model = model.with_events(events("first", 1))
assert reads
for number in range(1, reads + 1):
    told = events(f"n{number}", 1)
    other.record_many(told)
    shim.arm(world.state, shim.Mode.FAIL_ON, number, errno.EIO, shim.Kind.READ)
    assert len(rec.recommend(5)) == 5
    try:
        rec.record_many(events(f"own{number}", 1))
    except StoreError:
        done = []
    else:
        done = events(f"own{number}", 1)
    shim.disarm()
    model = model.with_events([*told, *done])
    assert observed(rec) == model, observed(rec).difference(model)
    check_learned(rec, model)
    check_serves(rec)
rec.close()
other.close()
assert not (world.state / "quarantine").exists(), "a disk that cannot be read is no damage"
check(world, operation, [model])
print("ended")
"""


def test_what_cannot_be_read_is_served_from_what_was_known(under_shim: Run, tmp_path: Path) -> None:
    """EIO at each read after another process wrote: the old snapshot serves; later the new one does. SQLite calls such
    an error damage: the next open looks at the whole store, finds it sound, and takes it as it is."""
    assert under_shim("-c", UNREADABLE, tmp_path).split() == ["ended"]


LIMITED = """
import resource, sys
from pathlib import Path
from edgerec.errors import StoreError
from faults.invariants import check, check_serves
from faults.catalogue import OPERATIONS
from faults.operations import PAST, events
from faults.world import World, observed
operation, world = OPERATIONS["record"], World(Path(sys.argv[1]))
model = operation.before(world)
rec = world.open()
rec.record_many(PAST)
size = (world.state / "edgerec.db-wal").stat().st_size
for more in (0, 10, 100, 4096, 5000, 8300):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + more, resource.RLIM_INFINITY))
    try:
        rec.record_many(events(f"e{more}", 5))
        print("acknowledged")
    except StoreError as error:
        print(type(error).__name__)
    assert observed(rec) == model
    check_serves(rec)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
operation.act(rec, world, "new")
rec.close()
check(world, operation, [operation.after(model, world, "new")])
print("ended")
"""


def test_a_limit_on_file_sizes_stores_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE, as a quota would: StoreError, nothing stored, pages go on; once lifted, the next record works."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, env=shim.environment(), capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["StoreError"] * 6 + ["ended"], done.stderr


MOUNTED = """
import os, subprocess, sys
from pathlib import Path
from edgerec.errors import EdgeRecError, StoreError
from faults.invariants import check, check_serves
from faults.catalogue import OPERATIONS
from faults.operations import events
from faults.world import World, observed

def remount(how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(world.state)], check=True)

def refused(work):
    try:
        work()
    except StoreError as error:
        return error.hint
    raise AssertionError("acknowledged")

operation, world = OPERATIONS["record"], World(Path(sys.argv[1]))
world.state.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(world.state)], check=True)
operation.prepare(world)
model = operation.before(world)
rec = world.open()

filler = world.state / "filler"
with filler.open("wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
for number in range(50):  # the log's last page may still have room
    told = events(f"full{number}", 5)
    try:
        rec.record_many(told)
        model = model.with_events(told)
    except StoreError as error:
        break
else:
    raise AssertionError("the disk is not full")
assert observed(rec) == model
check_serves(rec)
assert refused(lambda: rec.record_many(events("more", 5)))
filler.unlink()
rec.record_many(events("space", 5))
model = model.with_events(events("space", 5))
assert observed(rec) == model
print("full")

rec.close()
remount("ro")
try:
    world.open()
except StoreError as error:
    assert "data_dir" in error.hint or "read-only" in error.hint, error.hint
    print("read-only")
remount("rw")
rec = world.open()
os.sync()
rec.recommend(5)
rec.close()
check(world, operation, [model])
print("ended")
"""


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = "mount -t tmpfs -o size=1m tmpfs /mnt"
    return subprocess.run(["unshare", "-rm", "sh", "-c", tried], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _may_mount(), reason="this system lets nobody mount a tmpfs of their own (unshare -rm)")
def test_a_real_file_system_that_is_full_then_read_only(tmp_path: Path) -> None:
    """A tmpfs of 4 MiB: full, record raises StoreError and pages go on; with space again it records, without being
    opened again. Mounted read-only, opening is a StoreError that says so."""
    command = ["unshare", "-rm", sys.executable, "-c", MOUNTED, str(tmp_path)]
    done = subprocess.run(command, env=shim.environment(), capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["full", "read-only", "ended"], done.stderr
