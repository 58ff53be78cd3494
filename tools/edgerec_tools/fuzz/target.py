"""What a target is, and what one execution of it may do."""

from __future__ import annotations

import hashlib
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgerec.errors import EdgeRecError
from edgerec_tools.fuzz.mutation import Shape

Run = Callable[[bytes], None]

MAX_MESSAGE = 1000
"""Characters of an error's text: whoever sends the input must not be able to fill a log."""

SLOW_S = 1.0
"""CPU seconds that one execution may take."""

_SHOWN = 200


@dataclass(frozen=True)
class Target:
    """One reader. `make` gets an empty folder of its own and returns what is run on every input.

    It returns for what the reader takes, raises one of `refusals` for what it does not, and anything else is a finding;
    so is a promise that does not hold (`promise`). `tokens`: pieces of the language that inputs are written in;
    `shape`: changes an input so that it stays of that language (`mutation.Shape`).
    """

    name: str
    about: str
    make: Callable[[Path], Run]
    refusals: tuple[type[EdgeRecError], ...]
    tokens: tuple[bytes, ...] = ()
    shape: Shape | None = None
    bounded: bool = True


class BrokenPromise(Exception):
    """The reader took an input, but not as it promises to."""


class TooSlow(BaseException):
    """An execution was broken off. No Exception, so that no reader takes it for one of its own."""


def promise(holds: bool, what: str) -> None:
    """Raises BrokenPromise unless it holds."""
    if not holds:
        raise BrokenPromise(what)


@dataclass(frozen=True)
class Finding:
    """What should not have happened: `kind`, the error's type or "slow"; `place`, file:line inside edgerec."""

    kind: str
    place: str
    message: str
    data: bytes

    @property
    def key(self) -> str:
        """The same for all inputs that go wrong in one way."""
        return hashlib.sha256(f"{self.kind} {self.place}".encode()).hexdigest()[:16]


def execute(target: Target, run: Run, data: bytes) -> Finding | None:
    """One execution; None where it went as it should."""
    began = time.thread_time()
    try:
        try:
            run(data)
        except target.refusals as error:
            _check_refusal(error, target.bounded)
    except (Exception, TooSlow) as error:
        return _finding(error, data)
    took = time.thread_time() - began
    return Finding("slow", target.name, f"{took:.2f} s of CPU", data) if took > SLOW_S else None


def _check_refusal(error: EdgeRecError, bounded: bool) -> None:
    text = str(error)
    promise(
        0 < len(text) <= (MAX_MESSAGE if bounded else math.inf), f"{type(error).__name__} with a text of any length"
    )
    promise(not any(0xD800 <= ord(letter) < 0xE000 for letter in text), f"{type(error).__name__} with half a character")


def _finding(error: BaseException, data: bytes) -> Finding:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "edgerec" in frame.filename]
    inside = [frame for frame in frames if "edgerec_tools" not in frame.filename] or frames
    place = f"{Path(inside[-1].filename).name}:{inside[-1].lineno}" if inside else "?"
    if isinstance(error, BrokenPromise):
        place = str(error)[:_SHOWN]
    message = str(error).encode("utf-8", "replace").decode()
    return Finding(type(error).__name__, place, (message.splitlines() or [""])[0][:_SHOWN], data)
