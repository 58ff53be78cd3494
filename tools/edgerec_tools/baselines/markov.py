"""What follows what: transitions from the last few items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgerec_tools.baselines.base import Evidence, ItemToItem, too_many
from edgerec_tools.baselines.pasts import Pasts
from edgerec_tools.datasets import Dataset


@dataclass(frozen=True, slots=True)
class Markov:
    """score(j) = Σ_k fade^k · n_ij / √n_i. over the last `last` items i, the newest k = 0.

    n_ij sums reach^(d − 1) over the times j came d = 1 … `window` events after i; n_i. is its row sum. A window
    beyond 1 helps: neighbouring events are often in no particular order.
    """

    last: float = 5
    fade: float = 0.6
    window: float = 5
    reach: float = 0.8
    name: ClassVar[str] = "markov"
    title: ClassVar[str] = "Markov over the last items"
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "window": (1, 2, 3, 5, 10, 20),
        "fade": (0.4, 0.6, 0.8, 0.9),
        "last": (1, 3, 5, 10, 20),
        "reach": (0.5, 0.8, 0.9, 1.0),
    }

    def infeasible(self, train: Dataset) -> str | None:
        """Above 20,000 items."""
        return too_many(train, 20_000)

    def fit(self, evidence: Evidence) -> ItemToItem:
        """Counts transitions within each user's events."""
        train = evidence.train
        order = np.argsort(train.user, kind="stable")
        user, item = train.user[order], train.item[order]
        counts = np.zeros((train.n_items, train.n_items), np.float32)
        for distance in range(1, int(self.window) + 1):
            same = user[distance:] == user[:-distance]
            pairs = item[:-distance][same], item[distance:][same]
            np.add.at(counts, pairs, np.float32(self.reach ** (distance - 1)))
        counts /= np.sqrt(np.maximum(counts.sum(axis=1, keepdims=True), np.float32(1e-9)))
        return ItemToItem(counts, self._strength)

    def _strength(self, pasts: Pasts) -> NDArray[np.float64]:
        back = pasts.back()
        return np.where(back < self.last, self.fade**back, 0.0)
