"""What the device has learned besides the updater's state: per scenario, the blend, the guard and the metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgerec.learning.progressive import METRICS
from edgerec.records import changed, field, record
from edgerec.types import Float64, State

RANKINGS = ("base", "blend", "personal")
"""Rankings that are always compared; the single sources follow them."""


@record
class Progress:
    """One scenario, or K of them: then every array has K entries in front. S sources.

    `weights` float64 (S,): the learned blend · `guard` float64 (2, 3): sums per watched part (`learning.guard`)
    · `sums` float64 (3 + S, 4): METRICS per ranking.
    """

    weights: Float64
    guard: Float64
    sums: Float64


@record
class Learned:
    """Everything learned from a user's events, at one step.

    `names` of the scenarios and their `progress`, in the same order · `updater`: its state · `steps`: learning steps
    so far · `aside`: states of the updaters that do not own the user vector, by name.
    """

    names: tuple[str, ...]
    progress: Progress
    updater: State
    steps: int = 0
    aside: Mapping[str, State] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        scenarios: Mapping[str, Progress],
        updater: State,
        steps: int = 0,
        aside: Mapping[str, State] | None = None,
    ) -> Learned:
        """From the progress of each scenario."""
        each = scenarios.values()
        progress = Progress(
            np.stack([one.weights for one in each]),
            np.stack([one.guard for one in each]),
            np.stack([one.sums for one in each]),
        )
        return cls(tuple(scenarios), progress, updater, steps, aside or {})

    @property
    def scenarios(self) -> dict[str, Progress]:
        """The progress of each scenario."""
        return {name: self.scenario(name) for name in self.names}

    def scenario(self, name: str) -> Progress:
        """The progress of one scenario."""
        place, all_ = self.names.index(name), self.progress
        return Progress(all_.weights[place], all_.guard[place], all_.sums[place])


def initial_progress(weights: Float64) -> Progress:
    """The progress of a user who has done nothing."""
    return Progress(weights, np.zeros((2, 3)), np.zeros((len(RANKINGS) + len(weights), len(METRICS))))


def to_state(learned: Learned, names: Sequence[str]) -> State:
    """Steps and the scenarios' progress as a storable state; `names` of the sources are stored with it."""
    progress = learned.progress
    return {
        "names": _label(learned.names, tuple(names)),
        "steps": np.array(learned.steps),
        "weights": progress.weights,
        "guard": progress.guard,
        "sums": progress.sums,
    }


@lru_cache(maxsize=64)
def _label(scenarios: tuple[str, ...], sources: tuple[str, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps([scenarios, sources]).encode(), np.uint8)


def from_state(state: State, initial: Mapping[str, Progress], names: Sequence[str]) -> dict[str, Progress]:
    """The stored progress on today's sources and scenarios; a source that is new starts as in `initial`."""
    order, stored = json.loads(state["names"].tobytes())
    out = dict(initial)
    here = [n for n, name in enumerate(names) if name in stored]
    there = [stored.index(names[n]) for n in here]
    fixed = len(RANKINGS)
    for place, scenario in enumerate(order):
        if scenario not in out:
            continue
        progress = out[scenario]
        weights, sums = progress.weights.copy(), progress.sums.copy()
        weights[here] = state["weights"][place][there]
        sums[:fixed] = state["sums"][place][:fixed]
        sums[[fixed + n for n in here]] = state["sums"][place][[fixed + n for n in there]]
        out[scenario] = changed(progress, weights=weights, guard=state["guard"][place], sums=sums)
    return out
