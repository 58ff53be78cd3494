"""The same list for everybody: items by training events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgerec_tools.baselines.base import Evidence
from edgerec_tools.baselines.pasts import Pasts
from edgerec_tools.datasets import Dataset

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Popular:
    """Score: how often an item occurs in the training data."""

    name: ClassVar[str] = "popular"
    title: ClassVar[str] = "events per item"
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {}

    def infeasible(self, train: Dataset) -> str | None:
        """Never."""
        return None

    def fit(self, evidence: Evidence) -> Counts:
        """Counts."""
        return Counts(evidence.counts.astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """`counts` float32 (n_items,)."""

    counts: Float32

    def scores(self, pasts: Pasts) -> Float32:
        """Float32 (n, n_items), every row the same."""
        return np.tile(self.counts, (len(pasts), 1))
