"""Which items may be served: seen and disliked items, `exclude`, `only`, and filters on attributes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import reduce
from typing import Any

import numpy as np

from edgerec.bundle.catalogue import Catalogue, Numbers
from edgerec.errors import RequestError
from edgerec.history import History
from edgerec.records import record
from edgerec.serving.conditions import Attributes, Filter, column_of, equal, ordered
from edgerec.types import Bools

Where = Mapping[str, Any] | str | Filter
"""Conditions on attributes: `{"price_max": 5}`, `"price <= 5 and new"`, or what `filter_of` made of either."""


@record
class Eligibility:
    """`blocked` bool (n_items,), or None where everything may be served; `reasons` name the rules that block."""

    blocked: Bools | None
    reasons: tuple[str, ...]


def eligibility(
    catalogue: Catalogue,
    history: History,
    *,
    seen: str,
    exclude: Collection[str] = (),
    only: Collection[str] | None = None,
    where: Where | None = None,
    within: Filter | None = None,
) -> Eligibility:
    """Every rule's mask, joined. `where`: the request's conditions; `within`: the scenario's own.

    Raises RequestError or UnknownAttribute.
    """
    masks = [(why, mask) for why, mask in _masks(catalogue, history, seen, exclude, only, where, within) if mask.any()]
    if not masks:
        return Eligibility(None, ())
    blocked = masks[0][1]
    for _, mask in masks[1:]:
        blocked = blocked | mask
    return Eligibility(blocked, tuple(reason for reason, _ in masks))


def why_blocked(
    catalogue: Catalogue,
    history: History,
    row: int,
    *,
    seen: str,
    exclude: Collection[str] = (),
    only: Collection[str] | None = None,
    where: Where | None = None,
    within: Filter | None = None,
) -> str | None:
    """The first rule that keeps one item out, None if none does."""
    masks = _masks(catalogue, history, seen, exclude, only, where, within)
    return next((reason for reason, mask in masks if mask[row]), None)


def _masks(
    catalogue: Catalogue,
    history: History,
    seen: str,
    exclude: Collection[str],
    only: Collection[str] | None,
    where: Where | None,
    within: Filter | None,
) -> list[tuple[str, Bools]]:
    """What each rule keeps out, with its name."""
    masks = [("seen", history.seen)] if seen == "hide" else []
    if history.disliked.any():
        masks.append(("disliked", history.disliked))
    if len(excluded := item_ids("exclude", exclude)):
        masks.append(("exclude", _members(catalogue, excluded)))
    if only is not None:
        masks.append(("only", ~_members(catalogue, item_ids("only", only))))
    filters = [] if where is None else _filters(where)
    filters += [within] if within else []
    return masks + [(f"where {one.text}", ~one.mask(catalogue)) for one in filters]


def _filters(where: Where) -> list[Filter]:
    """The conditions one by one, so that each can be named."""
    if isinstance(where, Filter):
        return [where]
    if isinstance(where, str):
        from edgerec.serving.expressions import compile_filter  # most apps have no use for the parser

        return [compile_filter(where)]
    if not isinstance(where, Mapping):
        raise RequestError(f"where = {where!r}", hint='give {"price_max": 5} or "price <= 5"')
    return [_entry(key, value) for key, value in where.items()]


def _entry(key: str, value: Any) -> Filter:
    if not isinstance(key, str):
        raise RequestError(f"where names an attribute {key!r}", hint="names are text")
    return Filter(key, lambda catalogue: condition(catalogue, key, value))


def filter_of(*wheres: Where) -> Filter:
    """All the conditions as one filter, to be kept. Raises RequestError for an expression that cannot be read."""
    filters = [one for where in wheres for one in _filters(where)]
    if not filters:
        raise RequestError("no condition is given", hint='give {"price_max": 5} or "price <= 5"')
    if len(filters) == 1:
        return filters[0]
    text = " and ".join(one.text for one in filters)
    return Filter(text, lambda catalogue: reduce(np.bitwise_and, [one.mask(catalogue) for one in filters]))


def item_ids(name: str, items: Collection[str]) -> list[str]:
    """The items of a request's `exclude` or `only`. Raises RequestError where they are no collection of texts."""
    if isinstance(items, str):
        raise RequestError(f"{name} takes a collection of item ids, not one string", hint="write {'…'}")
    try:
        ids = list(items)
    except TypeError:
        raise RequestError(f"{name} takes a collection of item ids, not {type(items).__name__}") from None
    if wrong := [kind.__name__ for kind in {*map(type, ids)} if not issubclass(kind, str)]:
        raise RequestError(f"{name} takes item ids, which are texts, not {wrong[0]}")
    return ids


def _members(catalogue: Catalogue, items: list[str]) -> Bools:
    mask = np.zeros(catalogue.n_items, np.bool_)
    rows = catalogue.rows(items)
    mask[rows[rows >= 0]] = True
    return mask


def condition(catalogue: Attributes, key: str, value: Any) -> Bools:
    """The items that meet one entry of `where`, bool (n_items,).

    `name: value` equality, or membership where value is a list or set · `name_min`, `name_max`: bounds on a
    number, both inclusive. An item without the attribute meets no condition.
    """
    name, bound = key, ""
    if key not in catalogue.attribute_names and key[-4:] in ("_min", "_max"):
        name, bound = key[:-4], key[-3:]
    column = column_of(catalogue, name)
    if not bound:
        wanted = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
        return equal(column, name, wanted)
    if not isinstance(column, Numbers):
        raise RequestError(f"{key!r} is a bound, but {name!r} is not a number", hint=f"filter by {name!r} itself")
    return ordered(column, name, ">=" if bound == "min" else "<=", value)
