"""What the device has learned besides the updater's state: per scenario, the blend, the guard and the metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgerec.learning.progressive import METRICS
from edgerec.types import Float64, State

RANKINGS = ("base", "blend", "personal")
"""Rankings that are always compared; the single sources follow them."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One scenario. S sources.

    `weights` float64 (S,): the learned blend · `guard` float64 (2, 3): sums per watched part (`learning.guard`)
    · `sums` float64 (3 + S, 4): METRICS per ranking.
    """

    weights: Float64
    guard: Float64
    sums: Float64


@dataclass(frozen=True, slots=True)
class Learned:
    """Everything learned from a user's events, at one step. `steps`: learning steps so far."""

    scenarios: Mapping[str, Progress]
    updater: State
    steps: int = 0


def initial_progress(weights: Float64) -> Progress:
    """The progress of a user who has done nothing."""
    return Progress(weights, np.zeros((2, 3)), np.zeros((len(RANKINGS) + len(weights), len(METRICS))))


def to_state(learned: Learned, names: Sequence[str]) -> State:
    """Steps and the scenarios' progress as a storable state; `names` of the sources are stored with it."""
    scenarios = learned.scenarios
    order = list(scenarios)
    label = json.dumps([order, list(names)]).encode()
    return {
        "names": np.frombuffer(label, np.uint8),
        "steps": np.array(learned.steps),
        "weights": np.stack([scenarios[name].weights for name in order]),
        "guard": np.stack([scenarios[name].guard for name in order]),
        "sums": np.stack([scenarios[name].sums for name in order]),
    }


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
        out[scenario] = replace(progress, weights=weights, guard=state["guard"][place], sums=sums)
    return out
