"""Keeps plugins from harming the app: counts what they do wrong, and runs outsiders' code on a thread of its own.

An outsider's call that outlasts its budget is abandoned: the thread is left to itself, whatever it still returns is
thrown away, and the plugin is called no more. A thread that never lets go of the interpreter cannot be abandoned.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from edgerec import log
from edgerec.errors import PluginError
from edgerec.interfaces import FAILURES

T = TypeVar("T")
TRACE = "EDGEREC_TRACE_PLUGINS"
FIRST_PARTY = ("edgerec", "edgerec_plugins")
BUDGET_MS = 100.0
MOST_FAILURES = 3
_MOST_TEXT = 200


class PluginTimeout(PluginError):
    """A plugin's call outlasted its budget."""


def first_party(module: str) -> bool:
    """Whether code of that module comes with edgerec."""
    return module.partition(".")[0] in FIRST_PARTY


class _Call:
    __slots__ = ("arguments", "done", "error", "function", "result")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()


class _Worker:
    """A daemon thread that makes one call after the other."""

    def __init__(self) -> None:
        from queue import SimpleQueue  # an app without outsiders needs none

        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="edgerec-plugins", daemon=True)
        self._thread.start()

    @property
    def ident(self) -> int | None:
        """The thread's, as `threading.get_ident` gives it."""
        return self._thread.ident

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call.result = call.function(*call.arguments)
            except BaseException as error:  # whatever it is, it must not end the thread unseen
                call.error = error
            call.done.release()

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> _Call | None:
        """The finished call, None if it is not finished in time."""
        call = _Call(function, arguments)
        self._calls.put(call)
        return call if call.done.acquire(timeout=seconds) else None

    def end(self) -> None:
        """The thread ends once its present call does."""
        self._calls.put(None)


class Isolation:
    """One recommender's guard over its plugins. Implementations are named by kind and name: "source recency"."""

    def __init__(self, *, budget_ms: float = BUDGET_MS, most_failures: int = MOST_FAILURES) -> None:
        """`budget_ms`: the longest one call of an outsider may take · `most_failures`: at how many it is the last."""
        self.budget_s = budget_ms / 1e3
        self.most_failures = most_failures
        self.tracing = os.environ.get(TRACE, "") not in ("", "0")
        self.failures: dict[str, int] = {}
        self.reasons: dict[str, str] = {}
        self.disabled: set[str] = set()
        self._fresh()

    def _fresh(self) -> None:
        self._process = os.getpid()
        self._worker: _Worker | None = None
        self._one_at_a_time = threading.Lock()

    def usable(self, name: str) -> bool:
        """Whether the implementation may still be called."""
        return name not in self.disabled

    def failed(self, name: str, error: BaseException, *, last: bool = False) -> None:
        """Counts a failure; a timeout, one failure too many, or one that is said to be the last, is the last."""
        if name in self.disabled:  # another thread was told before
            return
        self.reasons[name] = told(error)  # before it is counted: a report may be asked for at any moment
        self.failures[name] = self.failures.get(name, 0) + 1
        log.warning("plugin: %s failed: %s", name, type(error).__name__)
        if last or isinstance(error, PluginTimeout) or self.failures[name] >= self.most_failures:
            self.disabled.add(name)
            log.warning("plugin: %s is not used any more", name)

    def call(self, name: str, function: Callable[..., T], *arguments: Any, seconds: float | None = None) -> T:
        """Runs an outsider's function on the worker thread. Raises what it raises, or PluginTimeout, which is counted.

        A call from within a call, by an outsider that asks the recommender, is part of that one.
        """
        if self._process != os.getpid():  # a child has neither the thread nor who held the lock
            self._fresh()
        if self._worker is not None and self._worker.ident == threading.get_ident():
            return function(*arguments)
        budget = self.budget_s if seconds is None else seconds
        with self._one_at_a_time:
            if not self.usable(name):  # asked here, so that those who waited do not wait for the same one again
                raise PluginError(f"{name} is disabled: {self.reasons.get(name)}")
            call = self._within(budget, function, arguments)
            if call is None:
                timeout = PluginTimeout(f"{name} took longer than {budget * 1e3:g} ms")
                self.failed(name, timeout)
                raise timeout
        if call.error is not None:
            if isinstance(call.error, FAILURES):
                raise call.error
            raise PluginError(f"{name}: {told(call.error)}") from call.error
        result: T = call.result
        return result

    def _within(self, seconds: float, function: Callable[..., Any], arguments: tuple[Any, ...]) -> _Call | None:
        """The finished call, or None. Holds the lock."""
        worker = self._worker = self._worker or _Worker()
        call = None
        try:
            call = worker.run(function, arguments, seconds)
        finally:
            if call is None:  # it is late, or the app was interrupted: the next call must not wait behind it
                worker.end()
                self._worker = None
        return call

    def runner(self, name: str, *, outsider: bool) -> Callable[..., Any] | None:
        """What makes the calls of an implementation: None where nothing stands in between."""
        make: Callable[..., Any] | None = None
        if outsider:

            def make(function: Callable[..., Any], *arguments: Any) -> Any:
                return self.call(name, function, *arguments)

        return _traced(name, make or _direct) if self.tracing else make

    def report(self) -> dict[str, dict[str, Any]]:
        """Implementation → failures, the last reason, whether it is disabled; only those that ever failed."""
        return {
            name: {"failures": count, "reason": self.reasons.get(name, "forgotten"), "disabled": name in self.disabled}
            for name, count in sorted(self.failures.items())
        }

    def forget(self) -> None:
        """Keeps the counts and no reason: a plugin's own words may tell of the user."""
        self.reasons = {}

    def close(self) -> None:
        """Lets the worker thread end."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None


def told(error: BaseException) -> str:
    """An error in few words, its own as far as it has any."""
    try:
        text = f"{type(error).__name__}: {error}"
    except FAILURES:
        text = type(error).__name__
    return _short(text)


def _short(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"


def said(reason: Any, asked: str) -> str | None:
    """What a plugin gave for a reason, as it can be stored. Raises TypeError where it is neither text nor None."""
    if reason is None:
        return None
    if not isinstance(reason, str):
        raise TypeError(f"{asked} must return text or None, not {type(reason).__name__}")
    return _short(reason).encode(errors="replace").decode()


def _direct(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _traced(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
    """The same calls, each with a line on stderr: what was called, how long it took, how it ended."""

    def traced(function: Callable[..., Any], *arguments: Any) -> Any:
        start, ended = time.perf_counter(), "returned"
        try:
            return make(function, *arguments)
        except BaseException as error:
            ended = f"raised {type(error).__name__}"
            raise
        finally:
            took = (time.perf_counter() - start) * 1e3
            method = getattr(function, "__name__", "")
            called = f"{name}.{method}" if method.isidentifier() and method not in name.split() else name
            print(f"edgerec plugin: {called} {ended} after {took:.2f} ms", file=sys.stderr)

    return traced
