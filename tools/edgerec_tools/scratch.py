"""A folder for files that nobody needs once this process is gone: in memory where there is room."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MEMORY = Path("/dev/shm")
_PREFIX = "edgerec-"
_LOCK = ".running"
_SETTLED_S = 60.0


@contextmanager
def scratch(memory: Path = MEMORY) -> Iterator[Path]:
    """A new folder, removed at the end; in `memory` if that is there and has 256 MiB left.

    First it removes what processes that were killed have left in `memory`.
    """
    roomy = memory.is_dir() and os.access(memory, os.W_OK)
    if roomy:
        sweep(memory)
        space = os.statvfs(memory)
        roomy = space.f_bavail * space.f_frsize > 256 << 20
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=memory if roomy else None, ignore_cleanup_errors=True) as name:
        lock = _held(Path(name) / _LOCK)
        try:
            yield Path(name)
        finally:
            if lock is not None:
                os.close(lock)


def sweep(memory: Path) -> None:
    """Removes this user's folders whose lock nobody holds any more: the kernel lets go of a dead process's locks.

    A folder without a lock, or with one so young that its owner may not hold it yet, is left alone.
    """
    for folder in memory.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
                continue
            lock = folder / _LOCK
            if time.time() - lock.stat().st_mtime < _SETTLED_S:
                continue
            held = _held(lock)
            if held is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(held)


def _held(lock: Path) -> int | None:
    """The open file of a lock that is now ours; None where another process has it, or locks are not to be had."""
    try:
        import fcntl
    except ImportError:
        return None
    file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file
