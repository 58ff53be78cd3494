"""ItemKNN (Sarwar et al. 2001): items like those the user had, by the cosine of who had them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgerec_tools.baselines.base import Evidence, ItemToItem, equally, too_many
from edgerec_tools.datasets import Dataset


@dataclass(frozen=True, slots=True)
class ItemKNN:
    """w_ij = n_ij / (√(n_i n_j) + shrinkage), of the `neighbours` largest per target; scores are sums over the past.

    n_ij users had both. The shrinkage (Bell and Koren 2007) keeps pairs that few users had from shining by chance.
    """

    neighbours: float = 400
    shrinkage: float = 10.0
    name: ClassVar[str] = "itemknn"
    title: ClassVar[str] = "ItemKNN, shrunk cosine"
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "neighbours": (50, 100, 200, 400, 800),
        "shrinkage": (0.0, 3.0, 10.0, 30.0, 100.0),
    }

    def infeasible(self, train: Dataset) -> str | None:
        """Above 20,000 items."""
        return too_many(train, 20_000)

    def fit(self, evidence: Evidence) -> ItemToItem:
        """Similarities, cut to the largest of each target."""
        gram = evidence.gram
        root = np.sqrt(np.diag(gram))
        weights = gram / np.maximum(np.outer(root, root) + np.float32(self.shrinkage), np.float32(1e-9))
        np.fill_diagonal(weights, 0)
        place = len(weights) - min(int(self.neighbours), len(weights))
        for column in weights:  # symmetric, so a row is a target's column too
            column[column < np.partition(column, place)[place]] = 0
        return ItemToItem(np.ascontiguousarray(weights.T), equally)
