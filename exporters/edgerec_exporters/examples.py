"""Training and validation examples: what a user had before a basket, and the basket.

Ages count back from the newest event of the history, as on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgerec_exporters.interactions import Interactions

DAY = 86400.0
Rows = NDArray[np.int64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """Histories of equal length, padded at the front, all (n, L): catalogue rows, ages, kinds, mask."""

    rows: Rows
    age_days: Float32
    kind: Rows
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Baskets:
    """Events by user, then basket, then item, each (basket, item) once.

    Columns (n_events,): `item`, `kind` int64, `at` float64, `consumes` bool. Per basket (n_baskets,): its events are
    `start:stop`, its user's earlier events `first:start`, `user` rows, `group` its number in the data, `when` POSIX
    seconds of its first event.
    """

    item: Rows
    kind: Rows
    at: NDArray[np.float64]
    consumes: NDArray[np.bool_]
    first: Rows
    start: Rows
    stop: Rows
    user: Rows
    group: Rows
    when: NDArray[np.float64]
    n_items: int

    @classmethod
    def of(cls, data: Interactions) -> Baskets:
        """The baskets of a data set; a disliked item is no purchase, so kinds of negative weight are left out."""
        kinds = list(data.event_kinds.values())[: len(data.kinds)]
        liked = np.array([kind.weight > 0 for kind in kinds])[data.kind]
        order = np.flatnonzero(liked)
        order = order[np.lexsort((data.item[order], data.group[order], data.user[order]))]
        same = (np.diff(data.group[order]) == 0) & (np.diff(data.item[order]) == 0) & (np.diff(data.user[order]) == 0)
        order = order[np.r_[True, ~same]] if len(order) else order
        user, group = data.user[order].astype(np.int64), data.group[order]
        new = np.flatnonzero((np.diff(user, prepend=-1) != 0) | (np.diff(group, prepend=-1) != 0))
        first_of_user = np.searchsorted(user, user[new])
        when = np.minimum.reduceat(data.at[order], new) if len(new) else np.empty(0)
        return cls(
            item=data.item[order].astype(np.int64),
            kind=data.kind[order],
            at=data.at[order],
            consumes=np.array([kind.consumes for kind in kinds])[data.kind[order]],
            first=first_of_user,
            start=new,
            stop=np.append(new[1:], len(order)).astype(np.int64),
            user=user[new],
            group=group[new],
            when=when,
            n_items=data.n_items,
        )

    def with_past(self, since: float = -np.inf, until: float = np.inf) -> Rows:
        """Numbers of the baskets of that period, since <= when < until, whose user had something before, by time."""
        chosen = np.flatnonzero((self.start > self.first) & (self.when >= since) & (self.when < until))
        return chosen[np.argsort(self.when[chosen], kind="stable")]

    def padded(self, baskets: Rows, length: int) -> Padded:
        """The last `length` events before each basket."""
        return self.window(self.first[baskets], self.start[baskets], length)

    def window(self, first: Rows, end: Rows, length: int) -> Padded:
        """The last `length` events of each slice first:end of the columns."""
        place = end[:, None] - length + np.arange(length)
        mask = place >= first[:, None]
        place = np.where(mask, place, 0)
        newest = self.at[np.maximum(end - 1, 0)]
        age = np.where(mask, (newest[:, None] - self.at[place]) / DAY, 0.0)
        rows = np.where(mask, self.item[place], 0)
        return Padded(rows, np.maximum(age, 0).astype(np.float32), np.where(mask, self.kind[place], 0), mask)

    def past(self, baskets: Rows) -> tuple[Rows, Rows, NDArray[np.float64]]:
        """All events before each basket, oldest first: (place in `baskets`, event, age in days), flat."""
        lengths = self.start[baskets] - self.first[baskets]
        place = np.repeat(np.arange(len(baskets)), lengths)
        offset = np.arange(len(place)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        event = self.first[baskets][place] + offset
        newest = self.at[np.maximum(self.start[baskets] - 1, 0)]
        return place, event, np.maximum((newest[place] - self.at[event]) / DAY, 0.0)

    def targets(self, baskets: Rows) -> tuple[Rows, Rows]:
        """The items of each basket: (place in `baskets`, catalogue row), flat."""
        lengths = self.stop[baskets] - self.start[baskets]
        place = np.repeat(np.arange(len(baskets)), lengths)
        offset = np.arange(len(place)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return place, self.item[self.start[baskets][place] + offset]

    def target_mask(self, baskets: Rows) -> NDArray[np.bool_]:
        """The same as bool (n, n_items)."""
        mask = np.zeros((len(baskets), self.n_items), np.bool_)
        mask[self.targets(baskets)] = True
        return mask

    def seen_mask(self, baskets: Rows) -> NDArray[np.bool_]:
        """What the user had consumed before each basket, bool (n, n_items)."""
        mask = np.zeros((len(baskets), self.n_items), np.bool_)
        place, event, _ = self.past(baskets)
        used = self.consumes[event]
        mask[place[used], self.item[event[used]]] = True
        return mask

    def recency(self, baskets: Rows, half_life_days: float) -> Float32:
        """0.5^(age / half-life) of each item's newest event, float32 (n, n_items), 0 where there is none."""
        out = np.zeros((len(baskets), self.n_items), np.float32)
        place, event, age = self.past(baskets)
        out[place, self.item[event]] = np.exp2(-age / half_life_days)  # the newest comes last and stays
        return out

    def habits(self, baskets: Rows, half_life_days: float) -> Float32:
        """Σ 0.5^(age / half-life) over the events that consumed an item, float32 (n, n_items)."""
        out = np.zeros((len(baskets), self.n_items), np.float32)
        place, event, age = self.past(baskets)
        used = self.consumes[event]
        np.add.at(out, (place[used], self.item[event[used]]), np.exp2(-age[used] / half_life_days))
        return out

    def popularity(self, until: float, half_life_days: float) -> Float32:
        """log(1 + Σ 0.5^(age before `until` / half-life)) over all events of an item, float32 (n_items,)."""
        weight = np.exp2(-(until - self.at) / DAY / half_life_days)
        return np.log1p(np.bincount(self.item, weight, self.n_items)).astype(np.float32)
