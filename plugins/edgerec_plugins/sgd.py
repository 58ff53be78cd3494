"""The default updater: SGD on the user vector `u`, one event after the other, in numpy.

An item scores s_i = ((q + u)·v_i + b_i) / temperature. An event's candidates are its item (place 0) and the m
negatives drawn for it; a negative that is the item itself is left out. The losses:

    softmax    -log(exp s_0 / Σ_i exp s_i)             sampled softmax (Jean et al. 2015)
    bpr        -1/m Σ_j log σ(s_0 - s_j)               Bayesian personalised ranking (Rendle et al. 2009)
    logistic   -log σ(s_0) - 1/m Σ_j log σ(-s_j)       negative sampling (Mikolov et al. 2013, eq. 4, but the mean)
    squared    ½ (s_0 - (value - centre) / scale)²     ratings; an event without a value teaches nothing

    perceptron   1/K Σ_k s_k - Σ_e a_e s_e / Σ_e a_e    ranking perceptron (Collins 2002; Crammer & Singer 2003)

The last is one loss for all positive events e of a batch together, of weight a_e, their mean weight before it; its
candidates are the batch's K rivals, items that the whole blend had put first instead. Its slope does not fade where
taste alone is right already: u learns what the blend gets wrong, whichever source is to blame. Where there are no
rivals, the events' negatives stand in for them, and nothing is replayed.

An event of negative weight speaks against its item and pays -1/m Σ_j log σ(s_j - s_0) under every loss: BPR with
the roles exchanged, which, unlike a logistic loss of s_0 alone, does not hang on the level of the scores.

One step (proximal operator of ½ pull |u|²: Duchi & Singer 2009), its move cut to length `max_step`, u to `max_norm`:

    η = rate / (1 + decay · steps)        u ← (u - η |weight| ∂loss/∂u) / (1 + η pull)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from math import exp, inf, isfinite, nan, sqrt, tanh
from typing import NamedTuple

import numpy as np

from edgerec.errors import PluginError
from edgerec.hookspecs import hookimpl
from edgerec.interfaces import Settings, UpdaterFactory
from edgerec.records import changed
from edgerec.types import Float32, LearningBatch, Model, State
from edgerec_plugins.settings import SettingsReader

Scores = list[float]
"""One per candidate; -inf where it is left out. Plain floats: numpy's calls cost more than nine such scores."""


class Example(NamedTuple):
    """One event and its candidates, gathered.

    `weight` · `vectors` float32 (m+2, dim): the candidates', and a last row for the step to put u in · `scores` float32
    (m+2,): what the candidates score under u = 0, -inf where left out, less the target under `squared`; 0 in the last
    place · `reach`: no item's vector is longer.
    """

    weight: float
    vectors: Float32
    scores: Float32
    reach: float


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


def perceptron(s: Scores, scale: float) -> Scores:
    _, *rivals = s
    return [-scale, *[scale / len(rivals)] * len(rivals)]


def squared(s: Scores, scale: float) -> Scores:
    return [scale * s[0], *[0.0] * (len(s) - 1)]


BLOCK = 65536
WITHIN = 1 - 1e-6
"""What is shortened to a bound ends so much below it: the guard refuses what rounding leaves above the same bound."""
LOSSES: Mapping[str, Loss] = {
    "softmax": softmax,
    "bpr": bpr,
    "logistic": logistic,
    "squared": squared,
    "perceptron": perceptron,
}


class Objective:
    """What a batch is to teach, whatever steps are taken on it: a loss, and the examples that it is summed over."""

    def __init__(self, take: SettingsReader) -> None:
        """Takes the settings `loss`, `replay`, `temperature`, `epochs`, `centre` and `scale`; raises ConfigError."""
        self.loss = LOSSES[take.choice("loss", "softmax", LOSSES)]
        replay = take.number("replay", 0.5, 0, 1e3)
        self.replay = 0.0 if self.loss is perceptron else replay
        self.temperature = take.number("temperature", 1.0, 1e-6, 1e6)
        self.epochs = take.whole("epochs", 1, 1, 100)
        self.centre = take.number("centre", 0.0, -1e9, 1e9)
        self.scale = take.number("scale", 1.0, 1e-9, 1e9)
        self._reach: tuple[weakref.ref[Float32], float] | None = None

    def gradient(self, u: Float32, example: Example) -> Float32 | None:
        """|weight| ∂loss/∂u, float32 (dim,); None where it is not finite."""
        weight, vectors, scores, _ = example
        known = (vectors[:-1].dot(u) + scores[:-1]).tolist()
        slope = (self.loss if weight > 0 else against)(known, abs(weight))
        return np.array(slope, np.float32).dot(vectors[:-1]) if isfinite(sum(slope)) else None

    def examples(self, batch: LearningBatch) -> list[Example]:
        """What steps are taken on, in order: known items with a weight; then what is replayed."""
        if self.loss is not perceptron:
            return self._each(batch)
        together = self._together(batch)
        if not (batch.weight < 0).any():
            return together
        return together + self._each(changed(batch, weight=np.minimum(batch.weight, 0)))

    def _together(self, batch: LearningBatch) -> list[Example]:
        """The positive events as one example, whose item is their mean; none where there is nothing to compare."""
        model = batch.model
        speaks = (batch.rows >= 0) & (batch.weight > 0)
        rows, weight = batch.rows[speaks], batch.weight[speaks]
        others = batch.rivals if len(batch.rivals) else np.setdiff1d(batch.negatives, rows)
        if not len(rows) or not len(others):
            return []
        vectors = np.empty((len(others) + 2, model.dim), np.float32)
        np.dot(weight / weight.sum(), model.vectors.take(rows, axis=0), out=vectors[0])
        model.vectors.take(others, axis=0, out=vectors[1:-1])
        vectors[-1] = 0
        vectors /= np.float32(self.temperature)
        scores = np.zeros(len(vectors), np.float32)  # the slope does not ask for them
        return [Example(float(weight.mean()), vectors, scores, self._longest(model) / self.temperature)] * self.epochs

    def _each(self, batch: LearningBatch) -> list[Example]:
        past, n, model = batch.replayed, len(batch.rows), batch.model
        weights, query, drawn = batch.weight.tolist(), batch.query, batch.negatives
        again = len(past.rows) if n and self.replay else 0
        candidates = np.zeros((n + again, drawn.shape[1] + 2), np.intp)
        candidates[:n, 0], candidates[:n, 1:-1] = batch.rows, drawn
        if again:
            candidates[n:, 0] = past.rows
            candidates[n:, 1:-1] = drawn if n == 1 else drawn.take(np.arange(again) % n, axis=0)
            weights += [weight * self.replay for weight in past.weight.tolist()]
            query = np.concatenate((query, past.query))
        vectors: Float32 = np.asarray(model.vectors).take(candidates, axis=0)
        scores = _dots(vectors, query[:, None])
        scores += np.asarray(model.bias).take(candidates)
        if self.temperature != 1:
            vectors /= self.temperature
            scores /= self.temperature
        scores[:, -1] = 0
        if self.loss is squared:
            scores[:n, 0] -= np.where(batch.weight > 0, (batch.value - self.centre) / self.scale, 0)
            scores[n:, 0] = nan  # what is replayed has no value
        reach = self._longest(model) / self.temperature
        examples: list[Example] = []
        for k, (weight, (row, *negatives, _)) in enumerate(zip(weights, candidates.tolist(), strict=True)):
            if k == n:
                examples *= self.epochs
            if row in negatives:
                scores[k, 1:-1][candidates[k, 1:-1] == row] = -inf
            if row >= 0 and weight:
                examples.append(Example(weight, vectors[k], scores[k], reach))
        return examples if again else examples * self.epochs

    def _longest(self, model: Model) -> float:
        """The length of the longest item vector; kept while the same vectors are in use."""
        known = self._reach
        if known is None or known[0]() is not model.vectors:
            blocks = (model.vectors[start : start + BLOCK] for start in range(0, model.n_items, BLOCK))
            longest = sqrt(max(float(_dots(block, block).max()) for block in blocks))
            self._reach = known = weakref.ref(model.vectors), longest
        return known[1]


class Sgd(Objective):
    """Updater `sgd`. State: `u` float32 (dim,); `steps` int64 (), the steps taken so far."""

    name = "sgd"
    schema = 1
    item_space = True

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where a setting is unknown or out of range."""
        take = SettingsReader("sgd", settings)
        super().__init__(take)
        self.rate = take.number("rate", 0.1, 0, 1e3, above_low=True)
        self.decay = take.number("decay", 0.0, 0, 1e3)
        self.pull = take.number("pull", 0.01, 0, 1e3)
        self.max_norm = take.number("max_norm", 10.0, 0, 1e6, above_low=True)
        self.max_step = take.number("max_step", 1.0, 0, 1e6, above_low=True)
        take.done()

    def initial(self, model: Model) -> State:
        return {"u": np.zeros(model.dim, np.float32), "steps": np.zeros((), np.int64)}

    @np.errstate(all="ignore")  # numbers that are not finite have no step
    def update(self, state: State, batch: LearningBatch) -> State:
        """The batch's events in order, `epochs` times over; then the replayed ones, `replay` times their weight."""
        u, steps = state["u"], int(state["steps"])
        for example in self.examples(batch):
            if (moved := self.step(u, steps, example)) is not None:
                u, steps = moved, steps + 1
        return {"u": u, "steps": np.array(steps, np.int64)}

    def step(self, u: Float32, steps: int, example: Example) -> Float32 | None:
        """`u` after one example; None where it would not be finite."""
        weight, vectors, scores, reach = example
        rate = self.rate / (1 + self.decay * steps)
        shrink = 1 / (1 + rate * self.pull)
        scale = -rate * abs(weight) * shrink
        vectors[-1] = u  # as one more row: one product makes all scores and |u|², another the whole move
        s = vectors.dot(u)
        s += scores
        known = s.tolist()
        square = known.pop()
        slope = (self.loss if weight > 0 else against)(known, scale)
        if not isfinite(sum(slope)):
            return None
        most = (abs(slope[0]) if self.loss is squared else -2 * scale) * reach  # Σ |slope| · reach
        if not (most <= self.max_step * shrink and sqrt(square) * shrink + most <= self.max_norm):
            return self._bounded(u, np.array(slope, np.float32).dot(vectors[:-1]), shrink)
        slope.append(shrink)
        moved: Float32 = np.array(slope, np.float32).dot(vectors)
        return moved

    def _bounded(self, u: Float32, move: Float32, shrink: float) -> Float32 | None:
        """`u` after a move, both already times `shrink`, that may be longer than is allowed."""
        length = sqrt(move.dot(move)) / shrink
        if not length < inf:
            return None
        if length > self.max_step:
            move *= WITHIN * self.max_step / length
        move += u * np.float32(shrink)
        if (norm := sqrt(move.dot(move))) > self.max_norm:
            move *= WITHIN * self.max_norm / norm
        return move

    def user_vector(self, state: State) -> Float32:
        return state["u"]

    def migrate(self, state: State, old_schema: int) -> State:
        raise PluginError(f"sgd cannot read a state of schema {old_schema}")


def _dots(left: Float32, right: Float32) -> Float32:
    """Dot products along the last axis."""
    dots: Float32 = np.vecdot(left, right) if hasattr(np, "vecdot") else np.einsum("...d,...d->...", left, right)
    return dots


@hookimpl
def edgerec_updaters() -> Mapping[str, UpdaterFactory]:
    return {Sgd.name: Sgd}
