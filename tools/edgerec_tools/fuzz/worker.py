"""One target in a process of its own: `python -m edgerec_tools.fuzz.worker`, started by `python -m edgerec_tools.fuzz`.

A report is a line of JSON on stdout. The process may take so many bytes more than it had when it began; an execution
that does not come back is broken off.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from edgerec_tools.fuzz.mutation import MAX_LENGTH, inputs
from edgerec_tools.fuzz.target import Finding, Run, Target, TooSlow, execute

MEMORY = 512 << 20
"""Bytes that a worker may take beyond what it had when it began: the executions', and the engine's own."""

HANGING_S = 10

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


def main() -> None:
    """Carries out the order that is the one argument, as JSON."""
    order = json.loads(sys.argv[1])
    work = mutate if order["engine"] == "mutation" else guided
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="edgerec-fuzz-", dir=base) as folder:
        work(order, Path(folder))


def mutate(order: dict[str, Any], folder: Path) -> None:
    """Inputs drawn from the seed (`mutation`)."""
    target, session = _session(order, folder)
    signal.signal(signal.SIGALRM, _break_off)
    corpus = [path.read_bytes()[:MOST] for path in _files(order["corpus"])]
    for data in inputs(corpus, target.tokens, target.shape, order["seed"]):
        signal.setitimer(signal.ITIMER_REAL, HANGING_S)
        session.one(data)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if session.over:
            break
    session.report()


def guided(order: dict[str, Any], folder: Path) -> None:
    """Inputs that Atheris draws: it keeps what reaches code that nothing reached before."""
    import atheris

    with atheris.instrument_imports(include=["edgerec", "zipfile", "tomllib"], exclude=["edgerec_tools"]):
        target, session = _session(order, folder)

    def one(data: bytes) -> None:
        session.one(data)
        if session.over:
            session.report()
            _leave(folder)

    def changed(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        shaped = target.shape(rng, data, target.tokens) if target.shape is not None and rng.random() < 0.5 else None
        return bytes(atheris.Mutate(data, most) if shaped is None or len(shaped) > most else shaped)

    words = folder / "words"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in target.tokens))
    options = [f"-seed={order['seed'] % (1 << 32) or 1}", f"-dict={words}", f"-max_len={MAX_LENGTH}"]
    options += [f"-timeout={HANGING_S}", "-rss_limit_mb=0", f"-artifact_prefix={order['findings']}/dead-"]
    options += ["-print_final_stats=0", "-verbosity=0", "-reload=0"]
    atheris.Setup([sys.argv[0], *options, *order["corpus"]], one, custom_mutator=changed)
    atheris.Fuzz()


def _session(order: dict[str, Any], folder: Path) -> tuple[Target, Session]:
    from edgerec_tools.fuzz.targets import TARGETS

    warnings.simplefilter("error")
    target = TARGETS[order["target"]]
    home = folder / "home"
    home.mkdir()
    run = target.make(home)
    now = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    if now:
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    return target, Session(target, run, order)


def _files(folders: Iterable[str]) -> list[Path]:
    return [path for folder in folders for path in sorted(Path(folder).iterdir()) if path.is_file()]


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def _break_off(*_: object) -> NoReturn:
    raise TooSlow(f"no end after {HANGING_S} s")


def _leave(folder: Path) -> NoReturn:
    """libFuzzer gives no way to stop but to end the process."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
