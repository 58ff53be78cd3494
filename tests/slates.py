"""Makes slates and profiles for tests of rerankers and sources; arrays are read-only, as the runtime hands them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from batches import frozen
from numpy.typing import ArrayLike

from edgerec.types import Model, Profile, Request, Slate, State

REQUEST = Request("default", "hide", 0.0)
DAY = 86400.0


def model_of(vectors: ArrayLike) -> Model:
    given = np.array(vectors, np.float32)
    zeros = np.zeros(len(given), np.float32)
    return Model(frozen(given), frozen(zeros), frozen(zeros))


def random_model(n_items: int = 40, dim: int = 6, seed: int = 0) -> Model:
    return model_of(np.random.default_rng(seed).normal(size=(n_items, dim)))


def slate_of(scores: ArrayLike, n: int, *, rows: Sequence[int] | None = None, seed: int = 0) -> Slate:
    """Candidates in the order of the catalogue unless `rows` says otherwise."""
    given = np.arange(len(np.asarray(scores))) if rows is None else np.array(rows)
    return Slate(frozen(np.array(given, np.int32)), frozen(np.array(scores, np.float64)), n, seed)


def profile_of(
    rows: Sequence[int] = (),
    *,
    dim: int = 6,
    days: Sequence[float] | None = None,
    groups: Sequence[int] | None = None,
    states: Mapping[str, State] | None = None,
) -> Profile:
    """Clicks on those rows, oldest first, a day apart and each on its own unless said otherwise."""
    count = len(rows)
    at = np.arange(count) if days is None else np.array(days)
    return Profile(
        frozen(np.array(rows, np.int32)),
        frozen(at.astype(np.float64) * DAY),
        frozen(np.zeros(count, np.int64)),
        frozen(np.arange(count) if groups is None else np.array(groups, np.int64)),
        frozen(np.zeros(count, np.bool_)),
        frozen(np.zeros(dim, np.float32)),
        frozen(np.zeros(dim, np.float32)),
        states or {},
    )
