"""What users did before the events that are asked for: a ragged batch of histories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgerec_tools.datasets import Dataset

Rows = NDArray[np.int64]
DAY = 86400.0


@dataclass(frozen=True, slots=True, eq=False)
class Pasts:
    """Histories one after the other, each oldest event first.

    `item` int32, `at` float64 POSIX seconds, `kind` int16, `group` int64 the number of the basket, all (n_events,) ·
    `start` int64 (n + 1,): past k is `start[k]:start[k + 1]`.
    """

    item: NDArray[np.int32]
    at: NDArray[np.float64]
    kind: NDArray[np.int16]
    group: Rows
    start: Rows
    n_items: int

    @classmethod
    def cut(cls, data: Dataset, order: Rows, first: Rows, end: Rows) -> Pasts:
        """The slices `first[k]:end[k]` of `order`, places of events in `data`, as `Split.pasts` gives them."""
        lengths = end - first
        start = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        events = order[np.repeat(first - start[:-1], lengths) + np.arange(start[-1])]
        return cls(
            item=data.item[events],
            at=data.at[events],
            kind=data.kind[events],
            group=data.group[events],
            start=start,
            n_items=data.n_items,
        )

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def lengths(self) -> Rows:
        """Events in each past, int64 (n,)."""
        return np.diff(self.start)

    @property
    def owner(self) -> Rows:
        """Which past each event belongs to, int64 (n_events,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def back(self) -> Rows:
        """How many events of the same past came after each, int64 (n_events,); 0 for the newest."""
        return np.repeat(self.start[1:], self.lengths) - 1 - np.arange(len(self.item))

    def age_days(self) -> NDArray[np.float64]:
        """Days before the newest event of the same past, float64 (n_events,), as a device counts them."""
        if not len(self.at):
            return np.zeros(0)
        newest = self.at[np.maximum(self.start[1:] - 1, 0)]
        return (np.repeat(newest, self.lengths) - self.at) / DAY

    def newest(self) -> NDArray[np.bool_]:
        """Which events are the newest of their item in their past, bool (n_events,)."""
        keys = self.owner * self.n_items + self.item
        _, last = np.unique(keys[::-1], return_index=True)
        out = np.zeros(len(keys), np.bool_)
        out[len(keys) - 1 - last] = True
        return out

    def seen(self) -> NDArray[np.bool_]:
        """What each user had, bool (n, n_items)."""
        mask = np.zeros((len(self), self.n_items), np.bool_)
        mask[self.owner, self.item] = True
        return mask
