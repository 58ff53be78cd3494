"""Updaters `adagrad` and `ftrl`: the losses of `sgd`, with a step size per coordinate that falls as it is used.

g is the gradient of one example's loss times |weight|, all operations are per coordinate:

    adagrad    G ← G + g²    η = rate / (√G + epsilon)    u ← (u - η g) / (1 + η pull)
    ftrl       z ← z + g - (√(n + g²) - √n) u / rate    n ← n + g²
               u ← - (z - l1 sign z) / ((beta + √n) / rate + l2) where |z| > l1, else 0

The first is Duchi, Hazan & Singer (2011) with the diagonal matrix and the pull as a proximal (composite) term; its move
is cut to length `max_step`. The second is FTRL-Proximal: McMahan et al. (2013), algorithm 1; with l1 = l2 = 0 it is the
first with epsilon = beta and no pull. u is cut to length `max_norm` in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import numpy as np

from edgerec.errors import PluginError
from edgerec.hookspecs import hookimpl
from edgerec.interfaces import Settings, UpdaterFactory
from edgerec.types import Float32, Float64, LearningBatch, Model, State
from edgerec_plugins.settings import SettingsReader
from edgerec_plugins.sgd import WITHIN, Objective


class Adaptive(Objective):
    """What both have in common: one step per example, in the batch's order. A step that is not finite is not taken."""

    name: str
    schema = 1
    item_space = True
    sums: tuple[str, ...]
    """Names of the state's arrays beside `u`, float64 (dim,), zeros at first."""

    def initial(self, model: Model) -> State:
        return {"u": np.zeros(model.dim, np.float32), **{name: np.zeros(model.dim) for name in self.sums}}

    @np.errstate(all="ignore")  # numbers that are not finite have no step
    def update(self, state: State, batch: LearningBatch) -> State:
        """The batch's events in order, `epochs` times over; then the replayed ones, `replay` times their weight."""
        for example in self.examples(batch):
            gradient = self.gradient(state["u"], example)
            if gradient is not None:
                moved = self.step(state, gradient.astype(np.float64))
                state = moved if all(np.isfinite(array).all() for array in moved.values()) else state
        return state

    def step(self, state: State, gradient: Float64) -> State:
        """The state after one gradient, float64 (dim,)."""
        raise NotImplementedError

    def user_vector(self, state: State) -> Float32:
        return state["u"]

    def migrate(self, state: State, old_schema: int) -> State:
        raise PluginError(f"{self.name} cannot read a state of schema {old_schema}")


class Adagrad(Adaptive):
    """Updater `adagrad`. State: `u` float32 (dim,) · `G` float64 (dim,), the sum of squared gradients."""

    name = "adagrad"
    sums = ("G",)

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader(self.name, settings)
        super().__init__(take)
        self.rate = take.number("rate", 0.1, 0, 1e3, above_low=True)
        self.epsilon = take.number("epsilon", 1e-10, 0, 1e3, above_low=True)
        self.pull = take.number("pull", 0.01, 0, 1e3)
        self.max_norm = take.number("max_norm", 10.0, 0, 1e6, above_low=True)
        self.max_step = take.number("max_step", 1.0, 0, 1e6, above_low=True)
        take.done()

    def step(self, state: State, gradient: Float64) -> State:
        squares = state["G"] + gradient * gradient
        rate = self.rate / (np.sqrt(squares) + self.epsilon)
        u = state["u"].astype(np.float64)
        move = cut((u - rate * gradient) / (1 + rate * self.pull) - u, self.max_step)
        return {"u": cut(u + move, self.max_norm).astype(np.float32), "G": squares}


class Ftrl(Adaptive):
    """Updater `ftrl`. State: `u` float32 (dim,) · `z` float64 (dim,) · `n` float64 (dim,), squared gradients' sum."""

    name = "ftrl"
    sums = ("z", "n")

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader(self.name, settings)
        super().__init__(take)
        self.rate = take.number("rate", 0.1, 0, 1e3, above_low=True)
        self.beta = take.number("beta", 1.0, 0, 1e3, above_low=True)
        self.l1 = take.number("l1", 0.0, 0, 1e3)
        self.l2 = take.number("l2", 0.1, 0, 1e3)
        self.max_norm = take.number("max_norm", 10.0, 0, 1e6, above_low=True)
        take.done()

    def step(self, state: State, gradient: Float64) -> State:
        squares = state["n"] + gradient * gradient
        root = np.sqrt(squares)
        z = state["z"] + gradient - (root - np.sqrt(state["n"])) / self.rate * state["u"]
        beyond = np.sign(z) * np.maximum(np.abs(z) - self.l1, 0)
        u = -beyond / ((self.beta + root) / self.rate + self.l2)
        return {"u": cut(u, self.max_norm).astype(np.float32), "z": z, "n": squares}


def cut(vector: Float64, most: float) -> Float64:
    """The vector, no longer than `most`."""
    length = sqrt(vector.dot(vector))
    return vector * (WITHIN * most / length) if length > most else vector


@hookimpl
def edgerec_updaters() -> Mapping[str, UpdaterFactory]:
    return {each.name: each for each in (Adagrad, Ftrl)}
