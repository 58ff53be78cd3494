"""What the tests of evaluation share: a small data set of single events, and models of known scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from toy_data import DAY, START

from edgerec_tools.baselines import Pasts
from edgerec_tools.datasets import Dataset
from edgerec_tools.datasets.assemble import assemble


def events(n_users: int = 120, n_items: int = 60, length: int = 8, seed: int = 0) -> Dataset:
    """Single events, an hour apart; every user's items are different ones."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "user": f"u{user:03}",
            "item": f"i{item:02}",
            "at": START + rng.uniform(0, 60 * DAY),
            "kind": "purchase",
            "value": 1.0,
        }
        for user in range(n_users)
        for item in rng.choice(n_items, length, replace=False)
    ]
    return assemble("made", pl.DataFrame(rows))


class Fixed:
    """A model that scores every past alike."""

    def __init__(self, scores: Sequence[float], columns: list[int] | None = None, name: str = "fixed") -> None:
        self.name = name
        self.columns = np.array(range(len(scores)) if columns is None else columns, np.int64)
        self._scores = np.array(scores, np.float32)

    def scores(self, pasts: Pasts) -> np.ndarray:
        return np.tile(self._scores, (len(pasts), 1))


class FromTable(Fixed):
    """A model with a score per past, told in order."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__([0.0] * table.shape[1])
        self._table, self._at = table, 0

    def scores(self, pasts: Pasts) -> np.ndarray:
        self._at += len(pasts)
        return self._table[self._at - len(pasts) : self._at].copy()
