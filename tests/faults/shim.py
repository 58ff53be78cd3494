"""The shim as Python sees it: built by the system's C compiler, loaded by LD_PRELOAD, told by ctypes what to do."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from enum import IntEnum, IntFlag
from functools import cache
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-nonnull-compare")


class Kind(IntFlag):
    """What a write boundary does; reads are counted where they are asked for."""

    WRITE = 1
    SYNC = 2
    TRUNCATE = 4
    RENAME = 8
    REMOVE = 16
    MAKE = 32
    ALL = 63
    READ = 64


class Mode(IntEnum):
    """What happens at the boundary that was named; a torn write is half a write, then death."""

    COUNT = 0
    KILL_BEFORE = 1
    KILL_AFTER = 2
    KILL_TORN = 3
    FAIL_ONCE = 4
    FAIL_ON = 5
    FAIL_SHORT = 6
    """Half of the first write is written, and from then on all fail: a disk that fills up."""


class Boundary(NamedTuple):
    """One call that changes what is on the disk; `path` is relative to the folder that is watched."""

    kind: Kind
    size: int
    path: str

    def __str__(self) -> str:
        return f"{self.kind.name} {self.path}" + (f" ({self.size} bytes)" if self.size else "")


class _Seen(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("size", ctypes.c_long), ("path", ctypes.c_char * 120))


def missing() -> str | None:
    """Why there can be no shim here, None where there can."""
    if not sys.platform.startswith("linux"):
        return "the fault shim is for Linux"
    return None if shutil.which("cc") else "no C compiler (cc) to build the fault shim with"


def build(folder: Path) -> Path:
    """The shim, compiled into a folder."""
    target = folder / "shim.so"
    command = [
        "cc",
        "-std=gnu11",
        "-O2",
        *WARNINGS,
        "-shared",
        "-fPIC",
        "-o",
        str(target),
        str(HERE / "shim.c"),
        "-ldl",
    ]
    subprocess.run(command, check=True)
    return target


def environment(shim: Path | None = None) -> dict[str, str]:
    """For a process that finds this package, has one thread, so that it may fork, and runs under `shim`."""
    tests = str(HERE.parent)
    quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    loaded = {} if shim is None else {"LD_PRELOAD": str(shim)}
    return {**os.environ, **quiet, **loaded, "PYTHONPATH": path}


@cache
def _loaded() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.fault_arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_int]
    library.fault_arm.restype = None
    library.fault_count.restype = ctypes.c_long
    library.fault_seen.argtypes = [ctypes.c_long]
    library.fault_seen.restype = ctypes.POINTER(_Seen)
    return library


def arm(folder: Path, mode: Mode = Mode.COUNT, at: int = 0, error: int = 0, kinds: Kind = Kind.ALL) -> None:
    """From now on boundaries of these kinds below `folder` are counted from 1; `mode` happens at number `at`."""
    _loaded().fault_arm(os.fsencode(folder.resolve()), int(kinds), int(mode), at, error)


def disarm() -> None:
    """From now on all goes through."""
    _loaded().fault_disarm()


def seen() -> list[Boundary]:
    """The boundaries since the shim was armed."""
    library = _loaded()
    found = [library.fault_seen(n) for n in range(library.fault_count())]
    return [
        Boundary(Kind(one.contents.kind), one.contents.size, one.contents.path.decode(errors="replace"))
        for one in found
        if one
    ]
