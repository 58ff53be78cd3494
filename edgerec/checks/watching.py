"""Sees what an implementation does besides computing: the clock, chance, the network, imports."""

from __future__ import annotations

import ast
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from types import FrameType
from typing import Any, NoReturn

import numpy as np

CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")
NETWORK = (
    (socket.socket, "connect"),
    (socket.socket, "connect_ex"),
    (socket.socket, "sendto"),
    (socket, "getaddrinfo"),
    (subprocess.Popen, "__init__"),
    (os, "system"),
)
HEAVY = frozenset(("torch", "tensorflow", "jax", "onnx", "flwr", "matplotlib", "rich", "pandas", "polars", "plotly"))
NETWORKED = frozenset(("requests", "httpx", "aiohttp", "urllib3", "websockets"))
FORBIDDEN = HEAVY | NETWORKED
"""Packages that are too heavy for a device, or are there to reach the network."""


@contextmanager
def builtins_called(name_of: Callable[[Any], str | None]) -> Iterator[list[str]]:
    """Names of the built-in functions that were called on this thread, wherever they were imported to; those that
    `name_of` gives no name are not looked at, nor what `logging` calls."""
    found: list[str] = []

    def watch(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and (name := name_of(function)):
            module = str(frame.f_globals.get("__name__"))
            if module.partition(".")[0] != "logging":
                found.append(f"{name} in {module}")

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield found
    finally:
        sys.setprofile(before)


def clock_name(function: Any) -> str | None:
    """The name of a function that reads the clock."""
    name = getattr(function, "__name__", "")
    if name in CLOCKS and function is getattr(time, name):
        return f"time.{name}"
    owner = getattr(function, "__self__", None)
    if name in ("now", "utcnow", "today") and isinstance(owner, type) and issubclass(owner, date):
        return f"{owner.__name__}.{name}"
    return None


def entropy_name(function: Any) -> str | None:
    """The name of a function that draws what nobody can draw again."""
    return "os.urandom" if function is os.urandom else None


@contextmanager
def seeded(seed: int) -> Iterator[Callable[[], list[str]]]:
    """Sets the global random numbers of Python and numpy, and puts them back afterwards. Gives a function that names
    those that were drawn from since."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    start = random.getstate(), repr(np.random.get_state())

    def drawn() -> list[str]:
        now = random.getstate(), repr(np.random.get_state())
        return [name for name, old, new in zip(("random", "numpy.random"), start, now, strict=True) if old != new]

    try:
        yield drawn
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


@contextmanager
def no_network() -> Iterator[list[str]]:
    """Refuses connections and new processes with an OSError; gives the names of what was tried."""
    tried: list[str] = []
    before = [(owner, name, getattr(owner, name), name in vars(owner)) for owner, name in NETWORK]
    for owner, name in NETWORK:
        setattr(owner, name, _refusing(f"{owner.__name__}.{name}", tried))
    try:
        yield tried
    finally:
        for owner, name, function, own in before:
            if own:
                setattr(owner, name, function)
            else:
                delattr(owner, name)


def _refusing(name: str, tried: list[str]) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        tried.append(name)
        raise OSError(f"{name} is not for plugins")

    return refuse


def forbidden_imports(module: str) -> set[str]:
    """Forbidden packages that a module's source imports, wherever in it; none where there is no source."""
    file = getattr(sys.modules.get(module), "__file__", None)
    try:
        with open(file or "", encoding="utf-8") as stream:
            tree = ast.parse(stream.read())
    except (OSError, SyntaxError, ValueError):
        return set()
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module or "")
    return {name.partition(".")[0] for name in names} & FORBIDDEN


def loaded_packages() -> set[str]:
    """Forbidden packages that this process has loaded."""
    return {name.partition(".")[0] for name in list(sys.modules)} & FORBIDDEN
