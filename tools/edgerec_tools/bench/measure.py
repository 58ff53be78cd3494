"""Timing in turns, and the rows that come out of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `ours` and `peer` in `unit`, smaller is better; `peer` None where there is none to run.

    `target`: the most that `target_of` (the ratio ours/peer, or ours itself) should be; None where nothing is
    promised.
    """

    name: str
    ours: float
    unit: str
    peer_name: str = ""
    peer: float | None = None
    target: float | None = None
    target_of: Literal["ratio", "ours"] = "ratio"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.peer is None else self.ours / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the target is met, None where there is none or nothing to compare with."""
        value = self.ratio if self.target_of == "ratio" else self.ours
        return None if self.target is None or value is None else value <= self.target

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of every run of one action, float64 (rounds,): on the clock, and of the processor."""

    wall: NDArray[np.float64]
    cpu: NDArray[np.float64]

    def p50_us(self) -> float:
        """Median processor time in microseconds: what other processes do meanwhile is not in it.

        Everything measured so runs in one thread and waits for nothing; on an idle machine both times are equal.
        """
        return float(np.median(self.cpu)) * 1e6

    def p99_us(self) -> float:
        """99th percentile by the clock, in microseconds: all that a user would wait for."""
        return float(np.percentile(self.wall, 99)) * 1e6

    @classmethod
    def joined(cls, timings: Iterable[Timing]) -> Timing:
        """All runs of several timings as one."""
        parts = list(timings)
        return cls(np.concatenate([part.wall for part in parts]), np.concatenate([part.cpu for part in parts]))


Action = Callable[[int], object]
"""Something to time, or to do in between; it gets the number of the round, negative while warming up."""


def in_turns(
    rounds: int, actions: Mapping[str, Action], warm_up: int = 3, *, before: Action = lambda turn: None
) -> dict[str, Timing]:
    """Runs every action once per round, each round beginning with the next one; `before` precedes a round, untimed."""
    names = list(actions)
    taken = {name: Timing(np.empty(rounds), np.empty(rounds)) for name in names}
    for turn in range(-warm_up, rounds):
        before(turn)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            action = actions[name]
            wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
            action(turn)
            cpu_end, wall_end = time.thread_time_ns(), time.perf_counter_ns()
            if turn >= 0:
                taken[name].wall[turn] = (wall_end - wall) * 1e-9
                taken[name].cpu[turn] = (cpu_end - cpu) * 1e-9
    return taken
