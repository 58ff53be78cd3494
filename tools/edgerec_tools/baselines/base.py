"""What all baselines share: the interface, and what they learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from edgerec_tools.baselines.linear import co_occurrence, ease, sums
from edgerec_tools.baselines.pasts import Pasts
from edgerec_tools.datasets import Dataset

Float32 = NDArray[np.float32]
Strength = Callable[[Pasts], NDArray[np.floating[Any]]]
"""How much each event of the pasts counts, (n_events,)."""


class Learned(Protocol):
    """A fitted baseline."""

    def scores(self, pasts: Pasts) -> Float32:
        """Larger is better, float32 (n, n_items): for each past what may come next."""
        ...


class Baseline(Protocol):
    """A frozen dataclass whose fields are its constants. `grid`: constant → the values that tuning tries, in order."""

    name: ClassVar[str]
    title: ClassVar[str]
    grid: ClassVar[Mapping[str, tuple[float, ...]]]

    def infeasible(self, train: Dataset) -> str | None:
        """Why it cannot be fitted to such data here; None where it can."""
        ...

    def fit(self, evidence: Evidence) -> Learned:
        """Learns from `evidence.train` alone."""
        ...


class Evidence:
    """The training data, and what several baselines compute from it, once."""

    def __init__(self, train: Dataset, seed: int = 0) -> None:
        self.train, self.seed = train, seed
        self._gram: Float32 | None = None
        self._ease: tuple[float, Float32] | None = None

    @property
    def counts(self) -> NDArray[np.int64]:
        """Events per item, int64 (n_items,)."""
        return np.bincount(self.train.item, minlength=self.train.n_items)

    @property
    def gram(self) -> Float32:
        """How many users had both items, float32 (n_items, n_items). Not to be written to."""
        if self._gram is None:
            self._gram = co_occurrence(self.train)
        return self._gram

    def ease(self, l2: float) -> Float32:
        """EASE's weights; those of the last penalty are kept. Not to be written to."""
        if self._ease is None or self._ease[0] != l2:
            self._ease = None  # one matrix at a time: they are large
            self._ease = l2, ease(self.gram, l2)
        return self._ease[1]


@dataclass(frozen=True, slots=True, eq=False)
class ItemToItem:
    """Σ strength · weights over the distinct items of the past; `weights` float32 (n_items, n_items)."""

    weights: Float32
    strength: Strength

    def scores(self, pasts: Pasts) -> Float32:
        """Float32 (n, n_items)."""
        return sums(pasts, self.strength(pasts), self.weights)


def equally(pasts: Pasts) -> NDArray[np.float64]:
    """Every event counts the same."""
    return np.ones(len(pasts.item))


def fading(half_life: float) -> Strength:
    """0.5^(events since / half-life). By events, not days: half of MovieLens' neighbouring events share a second."""
    return lambda pasts: np.exp2(-pasts.back() / half_life)


def too_many(train: Dataset, most: int) -> str | None:
    """The reason where a matrix of items by items would be too large."""
    return f"{train.n_items:,} items are more than {most:,}" if train.n_items > most else None
