"""One SGD step on the user vector: the plugin's against the same arithmetic in plain numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgerec.types import Event, LearningBatch, Model, Replayed, State
from edgerec_plugins.sgd import Sgd
from edgerec_tools.bench.measure import Row, in_turns
from edgerec_tools.synthetic import random_vectors

DIM, NEGATIVES, ITEMS = 64, 8, 10_000
RATE, PULL = 0.1, 0.01
MOST_US = 10.0

Vector = NDArray[np.float32]


def plain_step(u: Vector, query: Vector, vectors: Vector, bias: Vector) -> Vector:
    """Sampled softmax over m + 1 candidates, the first of which happened: `vectors` (m+1, dim), `bias` (m+1,)."""
    scores = vectors @ (query + u) + bias
    odds = np.exp(scores - scores.max())
    slope = odds / odds.sum()
    slope[0] -= 1.0
    moved: Vector = (u - RATE * (slope @ vectors)) / (1 + RATE * PULL)
    return moved


def rows(rounds: int) -> Iterator[Row]:
    """The step alone, its candidates gathered; and a whole update, which gathers them."""
    rng = np.random.default_rng(0)
    model = Model(random_vectors(ITEMS, DIM), np.zeros(ITEMS, np.float32), np.zeros(ITEMS, np.float32))
    candidates = rng.integers(0, ITEMS, (rounds + 3, 1 + NEGATIVES)).astype(np.int32)
    query = rng.standard_normal(DIM).astype(np.float32)
    u = rng.normal(0, 0.1, DIM).astype(np.float32)
    sgd = Sgd({"rate": RATE, "pull": PULL, "replay": 0.0})
    state: State = {"u": u, "steps": np.zeros((), np.int64)}
    gathered = [(model.vectors[one], model.bias[one]) for one in candidates]
    batches = [_batch(model, query, one) for one in candidates]
    examples = [sgd.examples(batch)[0] for batch in batches]

    def plain_update(turn: int) -> Vector:
        chosen = candidates[turn]
        return plain_step(u, query, model.vectors[chosen], model.bias[chosen])

    taken = in_turns(
        rounds,
        {
            "step": lambda turn: sgd.step(u, 0, examples[turn]),
            "plain_step": lambda turn: plain_step(u, query, *gathered[turn]),
            "update": lambda turn: sgd.update(state, batches[turn]),
            "plain_update": plain_update,
        },
    )
    times = {name: timing.p50_us() for name, timing in taken.items()}
    what = f"{DIM}-d, {NEGATIVES} negatives"
    yield Row(f"SGD step, {what}", times["step"], "µs", "plain numpy", times["plain_step"], MOST_US, target_of="ours")
    yield Row(f"SGD update(), one event, {what}", times["update"], "µs", "plain numpy", times["plain_update"])


def _batch(model: Model, query: Vector, candidates: NDArray[np.int32]) -> LearningBatch:
    """A batch of one purchase without a past."""
    return LearningBatch(
        events=(Event(f"i{candidates[0]}", "purchase"),),
        rows=candidates[:1],
        weight=np.ones(1, np.float32),
        value=np.full(1, np.nan, np.float32),
        query=query[None, :],
        replayed=Replayed(np.empty(0, np.int32), np.empty(0, np.float32), np.empty((0, DIM), np.float32)),
        negatives=candidates[None, 1:],
        now=0.0,
        model=model,
    )
