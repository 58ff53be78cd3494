"""The default updater: SGD on the user vector `u`, one event after the other, in numpy.

An item scores s_i = ((q + u)·v_i + b_i) / temperature. An event's candidates are its item (place 0) and the m
negatives drawn for it; a negative that is the item itself is left out. The losses:

    softmax    -log(exp s_0 / Σ_i exp s_i)             sampled softmax (Jean et al. 2015)
    bpr        -1/m Σ_j log σ(s_0 - s_j)               Bayesian personalised ranking (Rendle et al. 2009)
    logistic   -log σ(s_0) - 1/m Σ_j log σ(-s_j)       negative sampling (Mikolov et al. 2013, eq. 4, but the mean)
    squared    ½ (s_0 - (value - centre) / scale)²     ratings; an event without a value teaches nothing

An event of negative weight speaks against its item and pays -1/m Σ_j log σ(s_j - s_0) under every loss: BPR with
the roles exchanged, which, unlike a logistic loss of s_0 alone, does not hang on the level of the scores.

One step (proximal operator of ½ pull |u|²: Duchi & Singer 2009), its move cut to length `max_step`, u to `max_norm`:

    η = rate / (1 + decay · steps)        u ← (u - η |weight| ∂loss/∂u) / (1 + η pull)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp, inf, nan, sqrt, tanh

import numpy as np

from edgerec.errors import PluginError
from edgerec.hookspecs import hookimpl
from edgerec.interfaces import Settings, UpdaterFactory
from edgerec.types import Float32, Int32, LearningBatch, Model, State
from edgerec_plugins.settings import SettingsReader

Scores = list[float]
"""One per candidate; -inf where it is left out. Plain floats: numpy's calls cost more than nine such scores."""

Example = tuple[float, Float32, Float32, Float32]
"""weight · query (dim,) · the candidates' vectors (m+1, dim) · the rest of their scores (m+1,): bias, -target, -inf."""

Loss = Callable[[Scores, float], Scores]
"""(s, scale) → scale · ∂loss/∂s, 0 for candidates that are left out. `squared` finds its target taken off s_0."""


def sigmoid(x: float) -> float:
    return 0.5 + 0.5 * tanh(0.5 * x)


def softmax(s: Scores, scale: float) -> Scores:
    largest = max(s)
    odds = [exp(x - largest) for x in s]
    share = scale / sum(odds)
    slope = [share * x for x in odds]
    slope[0] -= scale
    return slope


def bpr(s: Scores, scale: float) -> Scores:
    item, *negatives = s
    slope = [scale / len(negatives) * sigmoid(x - item) for x in negatives]
    return [-sum(slope), *slope]


def against(s: Scores, scale: float) -> Scores:
    item, *negatives = s
    slope = [-scale / len(negatives) * sigmoid(item - x) if x > -inf else 0.0 for x in negatives]
    return [-sum(slope), *slope]


def logistic(s: Scores, scale: float) -> Scores:
    item, *negatives = s
    return [-scale * sigmoid(-item), *(scale / len(negatives) * sigmoid(x) for x in negatives)]


def squared(s: Scores, scale: float) -> Scores:
    return [scale * s[0], *[0.0] * (len(s) - 1)]


LOSSES: Mapping[str, Loss] = {"softmax": softmax, "bpr": bpr, "logistic": logistic, "squared": squared}


class Sgd:
    """Updater `sgd`. State: `u` float32 (dim,); `steps` int64 (), the steps taken so far."""

    name = "sgd"
    schema = 1
    item_space = True

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader("sgd", settings)
        self.loss = LOSSES[take.choice("loss", "softmax", LOSSES)]
        self.rate = take.number("rate", 0.1, 0, 1e3, above_low=True)
        self.decay = take.number("decay", 0.0, 0, 1e3)
        self.pull = take.number("pull", 0.01, 0, 1e3)
        self.max_norm = take.number("max_norm", 10.0, 0, 1e6, above_low=True)
        self.max_step = take.number("max_step", 1.0, 0, 1e6, above_low=True)
        self.replay = take.number("replay", 0.5, 0, 1e3)
        self.temperature = take.number("temperature", 1.0, 1e-6, 1e6)
        self.epochs = take.whole("epochs", 1, 1, 100)
        self.centre = take.number("centre", 0.0, -1e9, 1e9)
        self.scale = take.number("scale", 1.0, 1e-9, 1e9)
        take.done()

    def initial(self, model: Model) -> State:
        return {"u": np.zeros(model.dim, np.float32), "steps": np.zeros((), np.int64)}

    @np.errstate(all="ignore")  # numbers that are not finite have no step
    def update(self, state: State, batch: LearningBatch) -> State:
        """The batch's events in order, `epochs` times over; then the replayed ones, `replay` times their weight."""
        u, steps = state["u"], int(state["steps"])
        for weight, q, v, rest in self._examples(batch):
            if (moved := self.step(u, steps, weight, q, v, rest)) is not None:
                u, steps = moved, steps + 1
        return {"u": u, "steps": np.array(steps, np.int64)}

    def step(self, u: Float32, steps: int, weight: float, q: Float32, v: Float32, rest: Float32) -> Float32 | None:
        """`u` after one example; None where it would not be finite."""
        rate = self.rate / (1 + self.decay * steps)
        loss = self.loss if weight > 0 else against
        s = v.dot(q + u) + rest
        slope = loss(s.tolist(), -rate * abs(weight))
        moved: Float32 = np.array(slope, np.float32).dot(v)
        length = sqrt(moved.dot(moved))
        if not length < inf:
            return None
        if length > self.max_step:
            moved *= self.max_step / length
        moved += u
        moved *= 1 / (1 + rate * self.pull)
        if (norm := sqrt(moved.dot(moved))) > self.max_norm:
            moved *= self.max_norm / norm
        return moved

    def user_vector(self, state: State) -> Float32:
        return state["u"]

    def migrate(self, state: State, old_schema: int) -> State:
        raise PluginError(f"sgd cannot read a state of schema {old_schema}")

    def _examples(self, batch: LearningBatch) -> list[Example]:
        past, n = batch.replayed, len(batch.rows)
        examples = self._gather(batch.model, batch.rows, batch.weight, batch.value, batch.query, batch.negatives)
        examples *= self.epochs
        if n and len(past.rows) and self.replay:
            negatives = batch.negatives.take([k % n for k in range(len(past.rows))], axis=0)
            values = np.full(len(past.rows), nan, np.float32)
            examples += self._gather(batch.model, past.rows, past.weight * self.replay, values, past.query, negatives)
        return examples

    def _gather(
        self, model: Model, rows: Int32, weights: Float32, values: Float32, queries: Float32, negatives: Int32
    ) -> list[Example]:
        """What can be learned from, in order: known items with a weight."""
        candidates = np.empty((len(rows), 1 + negatives.shape[1]), np.intp)
        candidates[:, 0] = rows
        candidates[:, 1:] = negatives
        vectors: Float32 = np.asarray(model.vectors).take(candidates, axis=0)
        rest: Float32 = np.asarray(model.bias).take(candidates)
        if self.temperature != 1:
            vectors /= self.temperature
            rest /= self.temperature
        if self.loss is squared:
            rest[:, 0] -= np.where(weights > 0, (values - self.centre) / self.scale, 0)
        examples = []
        for k, (row, weight, drawn) in enumerate(zip(rows.tolist(), weights.tolist(), negatives.tolist(), strict=True)):
            if row in drawn:
                rest[k, 1:][negatives[k] == row] = -inf
            if row >= 0 and weight:
                examples.append((weight, queries[k], vectors[k], rest[k]))
        return examples


@hookimpl
def edgerec_updaters() -> Mapping[str, UpdaterFactory]:
    return {Sgd.name: Sgd}
