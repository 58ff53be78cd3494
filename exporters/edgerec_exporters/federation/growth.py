"""How far one round may move an item: a limit on the sums of `item_counts`, against devices that agree to push one.

Post-processing of a sum: it needs no single delta, so it holds in split mode and costs no privacy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgerec.errors import ConfigError
from edgerec.types import Float64

MOST_CHANGE = 2.0
LEAST = 1e-6
"""Counts below this say nothing of how many there are."""


@dataclass(frozen=True, slots=True)
class Growth:
    """`floor`: the share of a round's devices that may always hold an item · `most`, `least`: between what multiples
    of the expected sum an item's sum lies; above the floor, no item's share of all counts grows faster than `most`.
    """

    floor: float = 0.02
    most: float = 1.0
    least: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.floor <= 1 and 0 <= self.least <= self.most < float("inf")):
            raise ConfigError("growth: 0 ≤ floor ≤ 1 and 0 ≤ least ≤ most are needed")

    def within(self, sums: Float64, before: Float64, devices: int) -> Float64:
        """The sums of a round, float64 (n_items,), none further from what was expected than it may be.

        `before` float64 (n_items,): the counts when the round ended, already decayed. Expected is that every item
        keeps its share of them, in a round of at most twice, and at least half, as many counts.
        """
        possible = np.clip(sums, 0, devices)
        expected = before * _scale(possible, before)
        top = np.maximum(self.floor * devices, self.most * expected)
        limited: Float64 = np.clip(possible, np.minimum(self.least * expected, top), top)
        return limited


def _scale(sums: Float64, before: Float64) -> float:
    """How much larger a round is than the counts before it: the median of the items' ratios, weighted by `before`.

    No few items can move it, as they can a ratio of totals, however large a sum that nobody could check.
    """
    known = np.flatnonzero(before > LEAST)
    if not len(known):
        return 0.0
    ratios = sums[known] / before[known]
    order = np.argsort(ratios, kind="stable")
    weight = np.cumsum(before[known][order])
    middle = ratios[order][np.searchsorted(weight, weight[-1] / 2)]
    return float(np.clip(middle, 1 / MOST_CHANGE, MOST_CHANGE))
