"""Checks of every kind of implementation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgerec.checks import watching
from edgerec.checks.cases import STEPS, Case, locked_state
from edgerec.checks.comparing import expect, fingerprint
from edgerec.checks.subjects import KINDS, Subject
from edgerec.records import changed

BUDGET_MS = 20.0
SMALL = (12, 3)
"""Items and dimensions of another catalogue."""


def check_interface(subject: Subject, case: Case) -> None:
    """It has a name and all that its interface asks for, of the right types."""
    one = subject.make()
    for name, kind in KINDS[subject.kind].members.items():
        value = getattr(one, name, None)
        if kind is None:
            expect(callable(value), f"there is no method `{name}`")
        else:
            expect(type(value) is kind, f"`{name}` must be {kind.__name__}, not {value!r}")
    expect(one.name.strip(), "`name` is empty")


def check_deterministic(subject: Subject, case: Case) -> None:
    """The same call twice in a row gives the same bits."""

    def twice(function: Callable[..., Any], *arguments: Any) -> Any:
        first = function(*arguments)
        seen = fingerprint(first)
        again = fingerprint(function(*arguments))
        expect(again == seen, f"{function.__name__} gives something else when it is asked again")
        return first

    subject.work(subject.make(), case, twice)


def check_fresh_instance(subject: Subject, case: Case) -> None:
    """A new instance gives the same bits as the one before it."""
    first, second = subject.trace(subject.make(), case), subject.trace(subject.make(), case)
    expect(first == second, "another instance gives something else")


def check_inputs_unchanged(subject: Subject, case: Case) -> None:
    """What it is given is read-only, and is as before after every call."""

    def locked(function: Callable[..., Any], *arguments: Any) -> Any:
        given = [locked_state(one) if _is_state(one) else one for one in arguments]
        before = fingerprint(given)
        result = function(*given)
        expect(fingerprint(given) == before, f"{function.__name__} changes what it is given")
        return result

    subject.work(subject.make(), case, locked)


def check_no_global_randomness(subject: Subject, case: Case) -> None:
    """It neither draws from the process's random numbers nor depends on them."""
    traces = []
    for seed in (1, 2):
        with watching.seeded(seed) as drawn, watching.builtins_called(watching.entropy_name) as entropy:
            traces.append(subject.trace(subject.make(), case))
            used = drawn() + sorted(set(entropy))
        expect(not used, f"draws from {', '.join(used)}")
    expect(traces[0] == traces[1], "depends on the process's random numbers")


def check_no_clock(subject: Subject, case: Case) -> None:
    """It never asks what time it is: time comes with the request or the batch."""
    one = subject.make()
    with watching.builtins_called(watching.clock_name) as read:
        subject.work(one, case)
    expect(not read, f"reads the clock: {', '.join(sorted(set(read)))}")


def check_no_network(subject: Subject, case: Case) -> None:
    """It opens no connection and starts no process."""
    with watching.no_network() as tried:
        try:
            subject.work(subject.make(), case)
        except OSError:
            expect(tried, "raises an OSError")
    expect(not tried, f"reaches out: {', '.join(sorted(set(tried)))}")


def check_no_forbidden_import(subject: Subject, case: Case) -> None:
    """It imports nothing that is too heavy for a device, and nothing that is there to reach the network."""
    before = watching.loaded_packages()
    one = subject.make()
    subject.work(one, case)
    found = watching.forbidden_imports(type(one).__module__) | (watching.loaded_packages() - before)
    expect(not found, f"imports {', '.join(sorted(found))}")


def check_time_budget(subject: Subject, case: Case) -> None:
    """Half of the calls take no longer than 20 ms."""
    took: dict[str, list[float]] = {}

    def timed(function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments)
        took.setdefault(function.__name__, []).append((time.perf_counter() - start) * 1e3)
        return result

    few = STEPS // 4
    subject.work(subject.make(), changed(case, stream=case.stream[:few], arrivals=case.arrivals[:few]), timed)
    for name, times in took.items():
        half = statistics.median(times)
        expect(half <= BUDGET_MS, f"{name} takes {half:.1f} ms, more than {BUDGET_MS:g}")


def check_any_size(subject: Subject, case: Case) -> None:
    """It works with a bundle of another size."""
    subject.work(subject.make(), subject.case(*SMALL))


def check_no_memory(subject: Subject, case: Case) -> None:
    """What it says does not depend on what it was asked before."""
    one, calls = subject.make(), list[tuple[Callable[..., Any], tuple[Any, ...], Any]]()

    def noted(function: Callable[..., Any], *arguments: Any) -> Any:
        result = function(*arguments)
        calls.append((function, arguments, fingerprint(result)))
        return result

    subject.work(one, case, noted)
    for function, arguments, seen in reversed(calls):
        now = fingerprint(function(*arguments))
        expect(now == seen, f"{function.__name__} depends on what was asked before")


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(one, np.ndarray) for one in value.values())


COMMON = (
    check_interface,
    check_deterministic,
    check_fresh_instance,
    check_inputs_unchanged,
    check_no_global_randomness,
    check_no_clock,
    check_no_network,
    check_no_forbidden_import,
    check_time_budget,
    check_any_size,
)
