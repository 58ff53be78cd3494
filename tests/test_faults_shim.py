"""The shim sees every write boundary, and does at one what it was told."""

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

INSTALLS = """
import json, os, sys
from pathlib import Path
import edgerec
from faults import shim
from faults.operations import PAST
from faults.world import World
world = World(Path(sys.argv[1]))
rec = world.open()
rec.record_many(PAST)
shim.arm(world.state)
{begin}
rec.install(world.second)
rec.recommend(5)
rec.record("i7")
rec.close()
{end}
print(json.dumps([[int(kind), size, path] for kind, size, path in shim.seen()]))
"""


def test_every_boundary_of_one_record_is_seen(under_shim: Run, tmp_path: Path) -> None:
    """A record appends whole pages to the log and nothing else: SQLite's own calls go through the shim."""
    code = INSTALLS.format(begin="", end="").replace("rec.install(world.second)\nrec.recommend(5)\n", "")
    code = code.replace("rec.close()", "shim.disarm()")
    seen = [
        shim.Boundary(shim.Kind(kind), size, path) for kind, size, path in json.loads(under_shim("-c", code, tmp_path))
    ]
    written = [(one.path, one.size) for one in seen if one.kind is shim.Kind.WRITE]
    assert {path for path, _ in written} == {"/edgerec.db-wal"}
    assert [size for _, size in written].count(4096) >= 2, "an event and a state"
    assert len(seen) == len(written)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_write_escapes_the_shim(under_shim: Run, tmp_path: Path) -> None:
    """What strace sees written below the data directory during an install, a record and a close, the shim counts."""
    log, state = tmp_path / "strace.log", tmp_path / "state"
    library = shim.build(tmp_path)
    names = "write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync_file_range,msync,ftruncate,truncate,fallocate"
    names += ",rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat"
    names += ",open,openat,openat2,creat,copy_file_range,sendfile"
    mark = "try: os.rmdir('/edgerec-{0}')\nexcept OSError: pass"
    code = INSTALLS.format(begin=mark.format("begin"), end=mark.format("end"))
    command = ["strace", "-f", "-y", "-o", str(log), "-e", f"trace={names}", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=shim.environment(library), capture_output=True, text=True, check=True)
    during = log.read_text().split("/edgerec-begin")[1].split("/edgerec-end")[0].splitlines()
    calls = [line for line in during if str(state) in line and "resumed>" not in line]
    changing = [line for line in calls if not (" open" in line and "O_CREAT" not in line and "O_TRUNC" not in line)]
    assert len(changing) == len(json.loads(done.stdout)) > 80


@pytest.mark.parametrize(
    ("mode", "left"), [("KILL_BEFORE", b"old"), ("KILL_TORN", b"oldne"), ("KILL_AFTER", b"oldnew!")]
)
def test_a_kill_falls_before_into_or_after_a_write(mode: str, left: bytes, under_shim: Run, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from faults import shim; from faults.processes import in_child\n"
        "def work(say):\n"
        "    file = (Path(sys.argv[1]) / 'file').open('ab', buffering=0)\n"
        f"    shim.arm(Path(sys.argv[1]), shim.Mode.{mode}, 2)\n"
        "    file.write(b'old'); file.write(b'new!')\n"
        "print(in_child(work).killed)"
    )
    assert under_shim("-c", code, tmp_path).strip() == "True"
    assert (tmp_path / "file").read_bytes() == left


def test_calls_fail_with_the_error_that_was_asked_for(under_shim: Run, tmp_path: Path) -> None:
    code = (
        "import errno, os, sys; from pathlib import Path; from faults import shim\n"
        "place = Path(sys.argv[1])\n"
        "file = (place / 'file').open('wb', buffering=0)\n"
        "def tried(call, *arguments):\n"
        "    try: return call(*arguments)\n"
        "    except OSError as error: return errno.errorcode[error.errno]\n"
        "shim.arm(place, shim.Mode.FAIL_ONCE, 2, errno.EIO, shim.Kind.WRITE)\n"
        "print(*[tried(file.write, b'abcd') for _ in range(3)])\n"
        "shim.arm(place, shim.Mode.FAIL_SHORT, 1, errno.ENOSPC)\n"
        "print(tried(file.write, b'abcd'), tried(file.write, b'abcd'), tried(os.mkdir, place / 'new'))\n"
        "shim.arm(place, shim.Mode.FAIL_ON, 1, errno.EIO, shim.Kind.SYNC)\n"
        "print(tried(file.write, b'abcd'), tried(os.fsync, file.fileno()), tried(os.fsync, file.fileno()))\n"
        "shim.disarm()\n"
        "print(tried(os.fsync, file.fileno()))\n"
    )
    assert under_shim("-c", code, tmp_path).splitlines() == ["4 EIO 4", "2 ENOSPC ENOSPC", "4 EIO EIO", "None"]
