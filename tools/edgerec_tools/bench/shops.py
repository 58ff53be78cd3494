"""Recommenders on synthetic bundles, each of a user with a history, for the families that need one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import edgerec

HISTORY = 50
UPDATER = "edgerec_plugins.sgd"
_DAY = 86400.0
_NOW = 1_750_000_000.0


def history_events(n_items: int, seed: int, count: int = HISTORY) -> list[edgerec.Event]:
    """Purchases of random items over the last two months, five to a basket."""
    items = np.random.default_rng(seed).integers(0, n_items, count).tolist()
    return [
        edgerec.Event(f"i{item}", "purchase", at=_NOW - 60 * _DAY + k // 5 * _DAY, group=f"basket {k // 5}")
        for k, item in enumerate(items)
    ]


@contextmanager
def opened(
    bundle: Path | edgerec.Bundle,
    data_dir: Path,
    n_items: int,
    seed: int = 0,
    *,
    plugins: Sequence[object] | None = (UPDATER,),
) -> Iterator[edgerec.Recommender]:
    """A recommender of a user with HISTORY events; time stands still at the end of them."""
    with edgerec.open(bundle, data_dir, plugins=plugins, clock=lambda: _NOW, seed=seed) as rec:
        rec.record_many(history_events(n_items, seed))
        yield rec
