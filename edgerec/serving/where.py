"""Conditions on attributes, as a request or a scenario gives them: pairs, or an expression."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np

from edgerec.bundle.catalogue import Numbers
from edgerec.bundle.texts import shown
from edgerec.errors import RequestError
from edgerec.serving.conditions import Attributes, Filter, column_of, equal, ordered
from edgerec.types import Bools

Where = Mapping[str, Any] | str | Filter
"""Conditions on attributes: `{"price_max": 5}`, `"price <= 5 and new"`, or what `filter_of` made of either."""


def filters_of(where: Where) -> list[Filter]:
    """The conditions one by one, so that each can be named."""
    if isinstance(where, Filter):
        return [where]
    if isinstance(where, str):
        from edgerec.serving.expressions import compile_filter  # pairs have no use for the parser

        return [compile_filter(where)]
    if not isinstance(where, Mapping):
        raise RequestError(f"where = {shown(where)}", hint='give {"price_max": 5} or "price <= 5"')
    return [_entry(key, value) for key, value in where.items()]


def _entry(key: str, value: Any) -> Filter:
    if not isinstance(key, str):
        raise RequestError(f"where names an attribute {shown(key)}", hint="names are text")
    return Filter(key, lambda catalogue: condition(catalogue, key, value))


def filter_of(*wheres: Where) -> Filter:
    """All the conditions as one filter, to be kept. Raises RequestError for an expression that cannot be read."""
    filters = [one for where in wheres for one in filters_of(where)]
    if not filters:
        raise RequestError("no condition is given", hint='give {"price_max": 5} or "price <= 5"')
    if len(filters) == 1:
        return filters[0]
    text = " and ".join(one.text for one in filters)
    return Filter(text, lambda catalogue: reduce(np.bitwise_and, [one.mask(catalogue) for one in filters]))


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
