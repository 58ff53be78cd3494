"""Caps: at most so many items on a page per value of an attribute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.catalogue import Catalogue, Column, Numbers, Tags
from edgerec.serving.conditions import column_of
from edgerec.types import Bools, Int64


def capped(rows: Int64, catalogue: Catalogue, caps: Mapping[str, int], n: int) -> tuple[Int64, str | None]:
    """Places in a list of rows, best first, of the first n that keep within the caps; and why there are fewer, where
    that is the caps' doing.

    An item counts for each of its values; one without the attribute is not capped. A longer list begins with what a
    shorter one gives. Raises UnknownAttribute.
    """
    most = min(n, len(rows))
    if not caps:
        return np.arange(most), None
    free = np.ones(len(rows), np.bool_)
    limits = [_Limit(column_of(catalogue, name), rows, cap) for name, cap in caps.items()]
    kept: list[int] = []
    at = 0
    while len(kept) < most and at < len(rows):
        at += int(free[at:].argmax())
        if not free[at]:
            break
        kept.append(at)
        for limit in limits:
            limit.count(at, free)
        at += 1
    said = ", ".join(f"{cap} per {name}" for name, cap in caps.items())
    reason = None if len(kept) == most else f"only {len(kept)} of {len(rows)} items keep within the caps ({said})"
    return np.array(kept, np.int64), reason


def why_capped(rows: Int64, catalogue: Catalogue, caps: Mapping[str, int], row: int) -> str | None:
    """Which cap keeps an item off a page of any length made of `rows`, best first; None where none does."""
    before = rows[: int((rows == row).argmax())] if (rows == row).any() else rows
    places, _ = capped(before, catalogue, caps, len(before))
    for name, most in caps.items():
        column = column_of(catalogue, name)
        values = [_values(column, kept) for kept in before[places].tolist()]
        for value in sorted(_values(column, row), key=str):
            if sum(value in held for held in values) >= most:
                return f"capped: {most} with {name} {value!r} stand before it"
    return None


def _values(column: Column, row: int) -> set[Any]:
    """An item's values: none, one, or its tags."""
    value: Any = column.value(row)
    return set(value) if isinstance(value, tuple) else set() if value is None else {value}


class _Limit:
    """The values that the rows have of one attribute, and how often each was taken.

    `owner` int64 (m,), ascending: places among the rows · `codes` (m,): one value each of its owner's.
    """

    def __init__(self, column: Column, rows: Int64, most: int) -> None:
        self.owner, self.codes = _of_rows(column, rows)
        self.most = most
        self.taken: dict[Any, int] = {}

    def count(self, place: int, free: Bools) -> None:
        """Counts the item in that place; what has a value that is now full is free no more."""
        start, end = np.searchsorted(self.owner, (place, place + 1))
        for code in set(self.codes[start:end].tolist()):
            self.taken[code] = self.taken.get(code, 0) + 1
            if self.taken[code] == self.most:
                free[self.owner[self.codes == code]] = False


def _of_rows(column: Column, rows: Int64) -> tuple[Int64, NDArray[Any]]:
    if isinstance(column, Tags):
        starts, ends = column.indptr[rows], column.indptr[rows + 1]
        lengths = ends - starts
        places = np.arange(int(lengths.sum())) + (starts - lengths.cumsum() + lengths).repeat(lengths)
        return np.arange(len(rows)).repeat(lengths), column.codes[places]
    values: NDArray[Any] = column.values[rows] if isinstance(column, Numbers) else column.codes[rows]
    owner = (~np.isnan(values) if isinstance(column, Numbers) else values >= 0).nonzero()[0]
    return owner, values[owner]
