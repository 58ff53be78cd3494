"""Makes small learning batches for tests of updaters. All arrays are read-only, as the learner hands them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgerec.types import Event, Float32, LearningBatch, Model, Replayed, State

N_ITEMS, DIM, M = 40, 6, 5


def frozen(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


def make_model(seed: int = 0) -> Model:
    rng = np.random.default_rng(seed)
    return Model(
        vectors=frozen(rng.normal(size=(N_ITEMS, DIM)).astype(np.float32)),
        bias=frozen(rng.normal(size=N_ITEMS).astype(np.float32)),
        popularity=frozen(np.zeros(N_ITEMS, np.float32)),
    )


def make_replayed(rows: Sequence[int] = (), weight: float = 1.0, seed: int = 2) -> Replayed:
    query = np.random.default_rng(seed).normal(size=(len(rows), DIM)).astype(np.float32)
    return Replayed(
        frozen(np.array(rows, np.int32)), frozen(np.full(len(rows), weight, np.float32)), frozen(query * 0.5)
    )


def make_batch(
    rows: Sequence[int],
    *,
    weight: float | Sequence[float] = 1.0,
    value: float | Sequence[float] = np.nan,
    negatives: Sequence[Sequence[int]] | None = None,
    replayed: Replayed | None = None,
    model: Model | None = None,
    seed: int = 1,
) -> LearningBatch:
    rng, n = np.random.default_rng(seed), len(rows)
    drawn = rng.integers(0, N_ITEMS, (n, M)) if negatives is None else np.array(negatives)
    return LearningBatch(
        events=tuple(Event(str(row)) for row in rows),
        rows=frozen(np.array(rows, np.int32)),
        weight=frozen(np.broadcast_to(np.asarray(weight, np.float32), n).copy()),
        value=frozen(np.broadcast_to(np.asarray(value, np.float32), n).copy()),
        query=frozen(rng.normal(size=(n, DIM)).astype(np.float32) * np.float32(0.5)),
        replayed=replayed or make_replayed(),
        negatives=frozen(drawn.astype(np.int32)),
        now=0.0,
        model=model or make_model(),
    )


def one_of(batch: LearningBatch, k: int) -> LearningBatch:
    names = ("events", "rows", "weight", "value", "query", "negatives")
    return dataclasses.replace(batch, **{name: getattr(batch, name)[k : k + 1] for name in names})


def state_with(u: Float32, steps: int = 0) -> State:
    return {"u": frozen(u), "steps": frozen(np.array(steps, np.int64))}


def some_u(seed: int = 3) -> Float32:
    return np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
