"""Scratch folders: gone at the end, and what a killed process has left goes with the next start."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgerec_tools.scratch import scratch

HOLDER = """
import sys
import tempfile
from pathlib import Path
from edgerec_tools.scratch import scratch
with scratch(Path(sys.argv[1])) as folder:
    (folder / "store.db").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(memory: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that works in a scratch folder until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(memory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


def aged(folder: Path) -> None:
    """As if it had been made an hour ago."""
    os.utime(folder / ".running", (time.time() - 3600,) * 2)


def test_a_folder_is_gone_at_the_end(tmp_path: Path) -> None:
    with scratch(tmp_path) as folder:
        (folder / "file").write_text("x")
        assert folder.parent in (tmp_path, Path(tempfile.gettempdir()))
    assert not folder.exists()


def test_without_memory_it_lies_among_the_temporary_files(tmp_path: Path) -> None:
    with scratch(tmp_path / "absent") as folder:
        assert folder.is_dir()
        assert not folder.is_relative_to(tmp_path)


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, left):
        process.kill()
        process.wait()
    assert (left / "store.db").is_file()
    with scratch(tmp_path):
        assert left.is_dir()  # so young that its owner might still be about to take the lock
    aged(left)
    with scratch(tmp_path):
        assert not left.exists()


def test_what_a_living_process_uses_stays(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, used):
        aged(used)
        with scratch(tmp_path):
            assert (used / "store.db").is_file()
        process.communicate("")
    assert process.returncode == 0
    assert not used.exists()


def test_folders_of_others_stay(tmp_path: Path) -> None:
    unlocked, elsewhere = tmp_path / "edgerec-mine", tmp_path / "elsewhere"
    unlocked.mkdir()
    elsewhere.mkdir()
    (elsewhere / ".running").touch()
    aged(elsewhere)
    (tmp_path / "edgerec-link").symlink_to(elsewhere)
    with scratch(tmp_path):
        assert unlocked.is_dir()
        assert elsewhere.is_dir()
