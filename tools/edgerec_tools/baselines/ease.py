"""EASE (Steck 2019), and the same where what came last counts more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from edgerec_tools.baselines.base import Evidence, ItemToItem, equally, fading, too_many
from edgerec_tools.datasets import Dataset

MAX_ITEMS = 15_000
"""The inverse takes a minute or two and some 3 GB at 12,000 items, and grows with the cube."""


@dataclass(frozen=True, slots=True)
class Ease:
    """The linear autoencoder with the constraint diag(W) = 0; `l2` is its penalty λ."""

    l2: float = 300.0
    name: ClassVar[str] = "ease"
    title: ClassVar[str] = "EASE"
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {"l2": (30.0, 100.0, 300.0, 1000.0, 3000.0)}

    def infeasible(self, train: Dataset) -> str | None:
        """Above MAX_ITEMS items."""
        return too_many(train, MAX_ITEMS)

    def fit(self, evidence: Evidence) -> ItemToItem:
        """The weights in closed form."""
        return ItemToItem(evidence.ease(self.l2), equally)


@dataclass(frozen=True, slots=True)
class EaseRecency:
    """EASE's weights; an item counts 0.5^(events since / `half_life`)."""

    l2: float = 1000.0
    half_life: float = 4.0
    name: ClassVar[str] = "ease-recency"
    title: ClassVar[str] = "EASE with recency"
    grid: ClassVar[Mapping[str, tuple[float, ...]]] = {
        "l2": Ease.grid["l2"],
        "half_life": (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
    }

    def infeasible(self, train: Dataset) -> str | None:
        """Above MAX_ITEMS items."""
        return too_many(train, MAX_ITEMS)

    def fit(self, evidence: Evidence) -> ItemToItem:
        """The weights in closed form."""
        return ItemToItem(evidence.ease(self.l2), fading(self.half_life))
