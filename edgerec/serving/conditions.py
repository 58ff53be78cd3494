"""Conditions on the catalogue's attributes as masks: what an expression, a mapping, a boost and a cap are made of."""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from edgerec.bundle.catalogue import Column, Flags, Numbers, Tags
from edgerec.bundle.texts import shown
from edgerec.errors import RequestError, UnknownAttribute
from edgerec.types import Bools

Made = TypeVar("Made")

_MOST = sys.float_info.max
_TOLD = 20
"""Attributes that a complaint about an unknown one tells of."""

SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Attributes(Protocol):
    """What a filter asks of a catalogue."""

    n_items: int

    @property
    def attribute_names(self) -> tuple[str, ...]: ...
    def attribute(self, name: str) -> Column | None: ...


Test = Callable[[Attributes], Bools]
"""The items that meet a condition, bool (n_items,)."""


class PerCatalogue(Generic[Made]):
    """What is made from a catalogue, kept until it is asked of another; an updated catalogue is another one."""

    __slots__ = ("_kept", "_make")

    def __init__(self, make: Callable[[Attributes], Made]) -> None:
        self._make = make
        self._kept: tuple[weakref.ref[Attributes], Made] | None = None

    def __call__(self, catalogue: Attributes) -> Made:
        kept = self._kept  # threads may replace it at any time
        if kept is not None and kept[0]() is catalogue:
            return kept[1]
        made = self._make(catalogue)
        self._kept = (weakref.ref(catalogue), made)
        return made


class Filter:
    """A condition on items, read once and asked of any catalogue. `text` says it to people."""

    __slots__ = ("_mask", "text")

    def __init__(self, text: str, test: Test) -> None:
        self.text = text
        self._mask = PerCatalogue(test)

    def mask(self, catalogue: Attributes) -> Bools:
        """The items that meet it, bool (n_items,), not to be written to.

        Raises UnknownAttribute, or RequestError where a value does not suit its attribute.
        """
        return self._mask(catalogue)


def column_of(catalogue: Attributes, name: str) -> Column:
    """The attribute over all items. Raises UnknownAttribute."""
    column = catalogue.attribute(name)
    if column is None:
        known = ", ".join(catalogue.attribute_names[:_TOLD]) or "no attributes"
        raise UnknownAttribute(f"no item has an attribute {shown(name)}", hint=f"the catalogue has: {known}")
    return column


def present(column: Column) -> Bools:
    """The items that have the attribute, bool (n_items,)."""
    if isinstance(column, Numbers):
        return ~np.isnan(column.values)
    return np.diff(column.indptr) > 0 if isinstance(column, Tags) else column.codes >= 0


def equal(column: Column, name: str, wanted: Sequence[object]) -> Bools:
    """The items whose value is one of `wanted`, or of whose tags one is, bool (n_items,); False where absent.

    Raises RequestError where a wanted value is not of the attribute's kind.
    """
    for value in wanted:
        _check_kind(column, name, value)
    values: Any = wanted
    if isinstance(column, Numbers):
        mask: Bools = column.values == values[0] if len(values) == 1 else np.isin(column.values, values)
        return mask
    if isinstance(column, Flags):
        return column.equal(True) & (True in wanted) | column.equal(False) & (False in wanted)
    return column.having(values) if isinstance(column, Tags) else column.among(values)


def ordered(column: Column, name: str, sign: str, bound: object) -> Bools:
    """The items whose value is `sign` (<, <=, >, >=) the bound, bool (n_items,); texts in order of their code points.

    Raises RequestError for flags and tags, and where the bound is not of the attribute's kind.
    """
    compare = SIGNS[sign]
    if isinstance(column, (Flags, Tags)):
        raise RequestError(f"{name!r} has no order, so that {sign} says nothing", hint="use == or in")
    _check_kind(column, name, bound)
    if isinstance(column, Numbers):
        mask: Bools = compare(column.values, bound)
        return mask
    # one look at every text that occurs; the place behind them is for items without one, whose code is -1
    meets = np.array([*(compare(label, bound) for label in column.labels), False], np.bool_)
    return meets[column.codes]


def _check_kind(column: Column, name: str, value: object) -> None:
    if isinstance(column, Numbers):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _MOST >= value >= -_MOST:
            raise RequestError(f"{name!r} needs a number, not {shown(value)}")
    elif isinstance(column, Flags):
        if not isinstance(value, bool):
            raise RequestError(f"{name!r} is a yes-or-no attribute, not {shown(value)}", hint="give true or false")
    elif not isinstance(value, str):
        raise RequestError(f"{name!r} is a text attribute, {shown(value)} is not text")
