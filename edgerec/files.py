"""Files and folders that appear whole or not at all, whoever is killed while they are written."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has no flock; remains are then recognised by their age
    fcntl = None  # type: ignore[assignment]

SCRATCH_PREFIX = ".tmp-"
STALE_S = 24 * 3600.0
_PART = ".part"


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(data: bytes) -> str:
    """Hex sha256 of a few bytes."""
    # as the standard library's `random` does: hashlib loads OpenSSL, for which a cold start need not wait
    for name in ("_sha2", "_sha256"):
        try:
            return str(import_module(name).sha256(data).hexdigest())
        except ImportError:
            continue
    import hashlib

    return hashlib.sha256(data).hexdigest()


def sync(path: Path) -> None:
    """Flushes a file or folder to the disk; folders only where the system can."""
    if path.is_dir() and os.name != "posix":
        return
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a small file so that a reader sees all of it or none."""
    with scratch(path.parent) as folder:
        (folder / path.name).write_bytes(data)
        sync(folder / path.name)
        os.replace(folder / path.name, path)


def write_private(path: Path, data: bytes) -> None:
    """Writes a file that only its owner may read, so that a reader sees all of it or none. Raises OSError.

    It waits beside its place under a hidden name. What a killed process, or a disk that refused all, left of this file
    there is removed first.
    """
    import tempfile

    prefix = f".{path.name[:100]}."
    _sweep_parts(path.parent, prefix)
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=_PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            if fcntl is not None:  # until it has its name, nobody takes it for something that was left
                fcntl.flock(stream, fcntl.LOCK_EX)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            if fcntl is not None:
                os.replace(name, path)
        if fcntl is None:  # where an open file cannot be renamed
            os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync(path.parent)


def _sweep_parts(folder: Path, prefix: str) -> None:
    """Removes the parts under a prefix that nobody is writing, where the system can tell."""
    if fcntl is None:
        return
    for name in os.listdir(folder):
        if name.startswith(prefix) and name.endswith(_PART):
            with suppress(OSError), (folder / name).open("rb") as part:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name).unlink()


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A private folder inside `parent`, removed at the end; what killed processes left there is swept first."""
    import shutil
    import tempfile

    parent.mkdir(parents=True, exist_ok=True)
    with _presence(parent):
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _presence(parent: Path) -> Iterator[None]:
    """Holds a shared lock while scratch folders are in use: who gets it exclusively may sweep them all."""
    if fcntl is None:
        _sweep(parent, time.time() - STALE_S)
        yield
        return
    with (parent / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sweep(parent, float("inf"))
        except OSError:
            pass
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextmanager
def exclusive(path: Path, *, wait_s: float | None = None) -> Iterator[None]:
    """Holds a lock file against other threads and processes, where the system has such locks.

    Raises TimeoutError where it is held by another for longer than `wait_s`; None waits for ever.
    """
    with path.open("ab") as lock:
        if fcntl is not None:
            _lock(lock, wait_s)
        yield


def _lock(file: IO[bytes], wait_s: float | None) -> None:
    if wait_s is None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    until = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TimeoutError from None
            time.sleep(0.005)


def _sweep(parent: Path, before: float) -> None:
    import shutil

    for entry in parent.glob(f"{SCRATCH_PREFIX}*"):
        if entry.lstat().st_mtime < before:
            shutil.rmtree(entry, ignore_errors=True)
