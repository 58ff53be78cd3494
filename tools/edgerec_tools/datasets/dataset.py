"""The one in-memory form of interaction data: columns sorted by basket, users and items as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Attribute = tuple[float, ...] | tuple[str, ...]


class Basket(NamedTuple):
    """What one user did together: `at` POSIX seconds of its first event, `user` row, `rows` int32 item rows."""

    at: float
    user: int
    rows: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Interactions of many users, columnar and read-only.

    Events are ordered by basket; baskets by the time of their first event, then group id, then user id; events
    within a basket by time, then item row. Where the source names no groups every event is a basket of its own, and
    a user's events of one time keep the order of the source.
    Subsets (`before`, `since`, `of_users`, `select`) keep the numbering of users and items.

    `users` ids in order of first appearance · `items` ids, sorted · `titles` (n_items,) · `kinds` names that
    `kind` indexes · `user` int32, `item` int32, `at` float64 POSIX seconds UTC, `kind` int16, `value` float32
    (quantity or rating, NaN where there is none), `group` int64 number of the basket, counting from 0, all
    (n_events,) · `group_ids` (n_baskets,), unique per user, empty where the source names no groups · `price`
    float32 (n_events,) price per unit, or None · `country` (n_baskets,) or empty · `attributes` per item,
    (n_items,) numbers or strings · `timed` False: the source gives an order only, and the k-th event of a user
    stands at k days after 1970-01-01.
    """

    name: str
    users: tuple[str, ...]
    items: tuple[str, ...]
    titles: tuple[str, ...]
    kinds: tuple[str, ...]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    at: NDArray[np.float64]
    kind: NDArray[np.int16]
    value: NDArray[np.float32]
    group: NDArray[np.int64]
    group_ids: tuple[str, ...] = ()
    price: NDArray[np.float32] | None = None
    country: tuple[str, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    timed: bool = True
    basket_start: NDArray[np.int64] = field(init=False)
    """int64 (n_baskets + 1,): the events of basket b are `basket_start[b]:basket_start[b + 1]`."""

    def __post_init__(self) -> None:
        begins = np.flatnonzero(np.diff(self.group, prepend=-1))
        object.__setattr__(self, "basket_start", np.append(begins, len(self.group)).astype(np.int64))
        self._check()
        for each in fields(self):
            array = getattr(self, each.name)
            if isinstance(array, np.ndarray):
                array = array.view()
                array.flags.writeable = False
                object.__setattr__(self, each.name, array)

    def _check(self) -> None:
        columns: list[NDArray[Any]] = [self.user, self.item, self.at, self.kind, self.value, self.group]
        columns += [] if self.price is None else [self.price]
        per_item: list[Any] = [self.titles, *self.attributes.values()]
        per_basket = [names for names in (self.group_ids, self.country) if names]
        sound = (
            all(len(column) == self.n_events for column in columns)
            and all(len(values) == self.n_items for values in per_item)
            and all(len(names) == self.n_baskets for names in per_basket)
            and np.array_equal(self.group[self.basket_start[:-1]], np.arange(self.n_baskets))
            and _within(self.user, self.n_users)
            and _within(self.item, self.n_items)
            and _within(self.kind, len(self.kinds))
        )
        if not sound:
            raise ValueError("the columns of the data set contradict each other")

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def n_events(self) -> int:
        return len(self.item)

    @property
    def n_baskets(self) -> int:
        return len(self.basket_start) - 1

    @property
    def basket_user(self) -> NDArray[np.int32]:
        """int32 (n_baskets,): user row."""
        return self.user[self.basket_start[:-1]]

    @property
    def basket_at(self) -> NDArray[np.float64]:
        """float64 (n_baskets,): POSIX seconds of the first event."""
        return self.at[self.basket_start[:-1]]

    def baskets(self) -> Iterator[Basket]:
        """All baskets in order."""
        bounds = self.basket_start.tolist()
        users, times = self.basket_user.tolist(), self.basket_at.tolist()
        for at, user, first, last in zip(times, users, bounds, bounds[1:], strict=False):
            yield Basket(at, user, self.item[first:last])

    def baskets_by_user(self) -> list[NDArray[np.int64]]:
        """Per user row, the numbers of the user's baskets in order."""
        users = self.basket_user
        order = np.argsort(users, kind="stable")
        return np.split(order, np.cumsum(np.bincount(users, minlength=self.n_users))[:-1])

    def before(self, at: float) -> Dataset:
        """The baskets that begin before `at` (POSIX seconds)."""
        return self._subset(self.basket_at < at)

    def since(self, at: float) -> Dataset:
        """The baskets that begin at `at` (POSIX seconds) or later."""
        return self._subset(self.basket_at >= at)

    def of_users(self, rows: NDArray[np.integer[Any]]) -> Dataset:
        """The baskets of some users, given as user rows."""
        return self._subset(np.isin(self.basket_user, rows))

    def _subset(self, keep: NDArray[np.bool_]) -> Dataset:
        return self.select(np.repeat(keep, np.diff(self.basket_start)))

    def select(self, events: NDArray[np.bool_]) -> Dataset:
        """Some of the events, bool (n_events,); a basket with none left is gone, the others keep their order."""
        keep = np.bincount(self.group[events], minlength=self.n_baskets) > 0
        return replace(
            self,
            user=self.user[events],
            item=self.item[events],
            at=self.at[events],
            kind=self.kind[events],
            value=self.value[events],
            group=(np.cumsum(keep) - 1)[self.group[events]],
            group_ids=_pick(self.group_ids, keep),
            price=None if self.price is None else self.price[events],
            country=_pick(self.country, keep),
        )


def _within(rows: NDArray[Any], size: int) -> bool:
    return not len(rows) or (int(rows.min()) >= 0 and int(rows.max()) < size)


def _pick(names: tuple[str, ...], keep: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(names[i] for i in np.flatnonzero(keep).tolist()) if names else ()
