"""Updater and candidate source `bandit`: LinUCB, one linear model per user shared by all items (Li et al. 2010).

An item is described by k numbers, x = B (v - m): the first k principal directions of the item vectors, each divided by
its standard deviation, so that they tell items apart by their broadest common traits. They are found when a user's
state begins, and kept in it. With A = ridge · I and b = 0 at first, each event of weight w adds

    A ← A + |w| x xᵀ        b ← b + w x

and the source scores an item θ·x + alpha √(xᵀ A⁻¹ x) with θ = A⁻¹ b: what it should be worth, and how little is known
of such items. Events for an item say 1 and events against it -1; as x has mean 0 over the catalogue, items of which
nothing is known stand at 0. Until the first event the source is silent.

The updater works beside the one that owns the user vector: give the source `bandit` a weight in the blend, and the
runtime keeps its state.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import numpy as np

from edgerec.errors import PluginError
from edgerec.hookspecs import hookimpl
from edgerec.interfaces import Settings, SourceFactory, UpdaterFactory
from edgerec.types import Float32, Float64, LearningBatch, Model, Profile, Request, SourceScores, State
from edgerec_plugins.settings import SettingsReader

BLOCK = 65536
FLAT = 1e-9
"""A direction whose share of the largest variance is below it is taken for none."""


class BanditUpdater:
    """State: `A` float64 (k, k) · `b` float64 (k,) · `basis` float32 (k, dim), B · `mean` float32 (dim,), m."""

    name = "bandit"
    schema = 1
    item_space = True

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader(self.name, settings)
        self.dim = take.whole("dim", 8, 1, 256)
        self.ridge = take.number("ridge", 1.0, 0, 1e6, above_low=True)
        take.done()

    def initial(self, model: Model) -> State:
        mean, basis = principal(model.vectors, self.dim)
        k = len(basis)
        return {"A": self.ridge * np.eye(k), "b": np.zeros(k), "basis": basis, "mean": mean}

    def update(self, state: State, batch: LearningBatch) -> State:
        """Adds the batch's events of known items; the replayed ones were added when they came."""
        known = (batch.rows >= 0) & np.isfinite(batch.weight) & (batch.weight != 0)
        if not known.any():
            return state
        a, b = state["A"].copy(), state["b"].copy()
        for row, weight in zip(batch.rows[known].tolist(), batch.weight[known].tolist(), strict=True):
            x = described(batch.model.vectors[row], state).astype(np.float64)
            a += abs(weight) * np.outer(x, x)
            b += weight * x
        return {**state, "A": a, "b": b}

    def user_vector(self, state: State) -> Float32 | None:
        return None

    def migrate(self, state: State, old_schema: int) -> State:
        raise PluginError(f"bandit cannot read a state of schema {old_schema}")


class BanditSource:
    """Dense scores of every item; silent for a user without a state, or of whom nothing was learned."""

    name = "bandit"

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader(self.name, settings)
        self.alpha = take.number("alpha", 0.25, 0, 1e3)
        take.done()
        self._arms: tuple[weakref.ref[Float32], bytes, Float32] | None = None

    def score(self, request: Request, profile: Profile, model: Model) -> SourceScores:
        state = profile.states.get(self.name)
        if not state or not state["b"].any():
            return SourceScores.sparse(np.empty(0, np.int32), np.empty(0, np.float32), model.n_items)
        x = self._described(state, model)
        inverse = np.linalg.inv(state["A"])
        scores: Float32 = x.dot((inverse @ state["b"]).astype(np.float32))
        if self.alpha:
            unknown = np.einsum("ik,ik->i", x.dot(inverse.astype(np.float32)), x)
            scores += np.float32(self.alpha) * np.sqrt(np.maximum(unknown, 0))
        return SourceScores.dense(scores)

    def _described(self, state: State, model: Model) -> Float32:
        """x of every item, float32 (n_items, k); kept while vectors and basis are the same."""
        known, basis = self._arms, state["basis"].tobytes()
        if known is None or known[0]() is not model.vectors or known[1] != basis:
            self._arms = known = weakref.ref(model.vectors), basis, described(model.vectors, state)
        return known[2]


def described(vectors: Float32, state: State) -> Float32:
    """B (v - m) of each vector, float32 (…, k)."""
    x: Float32 = vectors.dot(state["basis"].T)
    x -= state["basis"].dot(state["mean"])
    return x


def principal(vectors: Float32, k: int) -> tuple[Float32, Float32]:
    """The mean, float32 (dim,), and the first k principal directions over their standard deviation, float32 (k, dim).

    A direction's largest entry is positive; directions in which nothing varies are zeros.
    """
    n, dim = vectors.shape
    mean = vectors.mean(axis=0, dtype=np.float64)
    covariance: Float64 = np.zeros((dim, dim))
    for start in range(0, n, BLOCK):
        block = vectors[start : start + BLOCK].astype(np.float64) - mean
        covariance += block.T @ block / n
    variance, directions = np.linalg.eigh(covariance)
    variance, directions = variance[::-1][:k], directions.T[::-1][:k]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    flat = variance <= FLAT * max(variance[0], np.finfo(np.float32).tiny)
    scale = np.where(flat, 0, np.sign(largest[:, 0]) / np.sqrt(np.where(flat, 1, variance)))
    return mean.astype(np.float32), np.ascontiguousarray(directions * scale[:, None], np.float32)


@hookimpl
def edgerec_updaters() -> Mapping[str, UpdaterFactory]:
    return {BanditUpdater.name: BanditUpdater}


@hookimpl
def edgerec_sources() -> Mapping[str, SourceFactory]:
    return {BanditSource.name: BanditSource}
