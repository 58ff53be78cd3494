"""A target at work: inputs are executed and counted, and the first one of each way to go wrong is kept."""

from __future__ import annotations

import json
import mmap
import resource
import struct
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from edgerec_tools.fuzz.target import Finding, Run, Target, execute
from edgerec_tools.fuzz.targets import TARGETS

MEMORY = 512 << 20
"""Bytes that a worker may take beyond what it had when it began: the executions', and the engine's own."""

CURRENT = "current"
"""Where the input that is being executed lies, its length before it."""

MOST = 1 << 20
SIZE = struct.Struct("<I")
REPORT_S = 2.0


class Session:
    """Executes inputs, counts them, keeps the first input of each way to go wrong, and says so now and then."""

    def __init__(self, target: Target, run: Run, order: dict[str, Any]) -> None:
        self._target, self._run = target, run
        self._executions, self._seconds = order["executions"], order["seconds"]
        self._findings = Path(order["findings"])
        self._current = _scratchpad(self._findings / CURRENT)
        self._seen: set[str] = set()
        self._new: list[dict[str, str]] = []
        self.count = 0
        self._began = self._told = time.monotonic()

    def one(self, data: bytes) -> None:
        """One execution. The input lies in a file meanwhile, in case the process does not survive it."""
        self._current[: SIZE.size + len(data)] = SIZE.pack(len(data)) + data
        finding = execute(self._target, self._run, data)
        self.count += 1
        if finding and finding.key not in self._seen:
            self._keep(finding)
        if self.count & 15 == 0 and time.monotonic() - self._told > REPORT_S:
            self.report()

    @property
    def over(self) -> bool:
        """Whether the order is carried out."""
        if self._executions is not None and self.count >= self._executions:
            return True
        return self._seconds is not None and time.monotonic() - self._began >= self._seconds

    def report(self) -> None:
        """Tells the counts since the beginning, and what was found since the last report."""
        self._told = time.monotonic()
        told = {"executions": self.count, "seconds": self._told - self._began, "findings": self._new}
        print(json.dumps(told), flush=True)
        self._new = []

    def _keep(self, finding: Finding) -> None:
        self._seen.add(finding.key)
        path = self._findings / finding.key
        path.write_bytes(finding.data)
        told = {"kind": finding.kind, "place": finding.place, "message": finding.message}
        self._new.append({"key": finding.key, **told, "file": str(path)})


def _scratchpad(path: Path) -> mmap.mmap:
    path.write_bytes(bytes(SIZE.size + MOST))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def begin(order: dict[str, Any], folder: Path) -> tuple[Target, Session]:
    """Makes the target that an order names, and limits the memory of this process from now on."""
    warnings.simplefilter("error")
    target = TARGETS[order["target"]]
    home = folder / "home"
    home.mkdir()
    run = target.make(home)
    if sys.platform == "linux":
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    return target, Session(target, run, order)
