"""Forked children that say what they did, and may be killed at any moment."""

from __future__ import annotations

import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

Say = Callable[..., None]
"""Tells the parent something that JSON can say; what was told survives the child."""


class Told(NamedTuple):
    """What a child said, and how it ended: by a signal, or with its own error's text."""

    said: list[Any]
    signal: int
    error: str | None

    @property
    def killed(self) -> bool:
        return self.signal == signal.SIGKILL

    def ended(self) -> list[Any]:
        """What was said by a child that came to its end."""
        if self.signal or self.error is not None:
            raise AssertionError(self.error or f"ended by signal {self.signal}")
        return self.said


def start(work: Callable[[Say], object]) -> tuple[int, int]:
    """Forks a child that works and ends without cleaning up, as a killed one does; (its id, what it says)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    os.close(reading)

    def say(*words: Any) -> None:
        os.write(writing, json.dumps(words).encode() + b"\n")

    try:
        work(say)
        os._exit(0)
    except BaseException:
        os.write(writing, json.dumps({"error": traceback.format_exc()[-4000:]}).encode() + b"\n")
        os._exit(1)


def finish(child: tuple[int, int], seconds: float = 60.0) -> Told:
    """Waits for a child; one that takes longer is killed, and that is an error."""
    pid, reading = child
    data, late = _all_of(reading, time.monotonic() + seconds)
    os.close(reading)
    if late:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    lines = [json.loads(line) for line in data.splitlines()]
    errors = [line["error"] for line in lines if isinstance(line, dict)]
    if late:
        errors.append(f"did not end within {seconds:g} s")
    said = [line for line in lines if isinstance(line, list)]
    return Told(said, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, errors[0] if errors else None)


def in_child(work: Callable[[Say], object], seconds: float = 60.0) -> Told:
    """Does the work in a forked child."""
    return finish(start(work), seconds)


def _all_of(reading: int, until: float) -> tuple[bytes, bool]:
    data = b""
    while (left := until - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            piece = os.read(reading, 1 << 16)
            if not piece:
                return data, False
            data += piece
    return data, True
