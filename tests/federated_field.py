"""A small shop whose honest users are known, for trying attacks on rounds within seconds."""

from __future__ import annotations

import numpy as np

from edgerec.types import Float32
from edgerec_tools.studies.federated.harness import Events, Field, rounds_of

N_ITEMS, N_USERS, WEEKS = 150, 240, 5
PER_WEEK = 120


def field_of(seed: int = 0) -> Field:
    """Weekly rounds of 120 users, whose baskets popularity and taste both foretell."""
    random = np.random.default_rng(seed)
    weight = 1 / (5 + np.arange(N_ITEMS)) ** 1.2
    weight[-1] = 0  # the cold item: nobody buys it
    tastes = random.normal(size=(N_USERS, N_ITEMS))
    user, item, day = [], [], []
    for week in range(WEEKS):
        for one in random.permutation(N_USERS)[:PER_WEEK]:
            drawn = _basket(random, weight, tastes[one])
            user += [one] * len(drawn)
            item += drawn.tolist()
            day += [7 * week + random.uniform(0, 7)] * len(drawn)
    events = Events(np.array(user), np.array(item), np.array(day))
    baskets, first = np.unique(events.day, return_index=True)
    targets = np.zeros((len(baskets), N_ITEMS), np.bool_)
    targets[np.searchsorted(baskets, events.day), events.item] = True
    owner = events.user[first]
    old = np.concatenate([_basket(random, weight, taste) for taste in tastes])
    age = random.uniform(0, 28, len(old))
    return Field(
        z={name: _scores(random, tastes[owner]) for name in ("taste", "neighbours", "habit")},
        targets=targets,
        seen=np.zeros_like(targets),
        user=owner,
        at=baskets,
        rounds=rounds_of(events, N_ITEMS, 7.0, WEEKS * 7.0),
        item=old,
        age=age,
        later=events,
        frozen=np.log1p(np.bincount(old, minlength=N_ITEMS)).astype(np.float32),
    )


def _basket(random: np.random.Generator, weight: np.ndarray, taste: np.ndarray) -> np.ndarray:
    liked = weight * np.exp(0.7 * taste)
    return random.choice(N_ITEMS, 6, replace=False, p=liked / liked.sum())


def _scores(random: np.random.Generator, tastes: np.ndarray) -> Float32:
    scores = tastes + 2 * random.normal(size=tastes.shape)
    return ((scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)).astype(np.float32)
