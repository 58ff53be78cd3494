"""A small made-up data set of purchases that the tiny bundle of `bundles` fits."""

from __future__ import annotations

import numpy as np

from edgerec_tools.datasets import Dataset

DAY = 86400.0
START = 1_600_000_000.0
CUTOFF = START + 40 * DAY
ITEMS = tuple(sorted([f"i{row}" for row in range(60)] + ["novelty"]))
"""Sorted, so in another order than the bundle's rows; and the bundle does not know `novelty`."""


def toy_dataset(name: str = "toy", *, n_users: int = 12, items: tuple[str, ...] = ITEMS, seed: int = 0) -> Dataset:
    """Baskets of one to four items over 80 days, with favourites that a user buys again."""
    rng = np.random.default_rng(seed)
    baskets = []
    for user in range(n_users):
        favourites = rng.choice(len(items), 5, replace=False)
        for at in np.sort(rng.uniform(START, START + 80 * DAY, rng.integers(3, 9))):
            pool = favourites if rng.random() < 0.5 else np.arange(len(items))
            baskets.append((float(at), user, np.sort(rng.choice(pool, rng.integers(1, 5), replace=False))))
    baskets.sort(key=lambda basket: basket[:2])
    order = list(dict.fromkeys(user for _, user, _ in baskets))
    size = [len(rows) for *_, rows in baskets]
    n_events = sum(size)
    return Dataset(
        name=name,
        users=tuple(f"u{user}" for user in order),
        items=items,
        titles=items,
        kinds=("purchase",),
        user=np.repeat([order.index(user) for _, user, _ in baskets], size).astype(np.int32),
        item=np.concatenate([rows for *_, rows in baskets]).astype(np.int32),
        at=np.repeat([at for at, *_ in baskets], size),
        kind=np.zeros(n_events, np.int16),
        value=np.full(n_events, np.nan, np.float32),
        group=np.repeat(np.arange(len(baskets)), size).astype(np.int64),
        group_ids=tuple(f"b{n}" for n in range(len(baskets))),
    )
