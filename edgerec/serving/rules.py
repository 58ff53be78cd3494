"""Which items may be served: seen and disliked items, `exclude`, `only`, and filters on attributes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from edgerec.bundle.catalogue import Catalogue, Flags, Numbers, Tags
from edgerec.errors import RequestError, UnknownAttribute
from edgerec.history import History
from edgerec.records import record
from edgerec.types import Bools


@record
class Eligibility:
    """`blocked` bool (n_items,), or None where everything may be served; `reasons` name the rules in force."""

    blocked: Bools | None
    reasons: tuple[str, ...]


def eligibility(
    catalogue: Catalogue,
    history: History,
    *,
    seen: str,
    exclude: Collection[str] = (),
    only: Collection[str] | None = None,
    where: Mapping[str, Any] | None = None,
) -> Eligibility:
    """Every rule's mask, joined."""
    masks: list[tuple[str, Bools]] = [(reason, mask) for reason, mask in _history_masks(history, seen)]
    if exclude:
        masks.append(("exclude", _members(catalogue, exclude)))
    if only is not None:
        masks.append(("only", ~_members(catalogue, only)))
    for key, value in (where or {}).items():
        masks.append((f"where {key}", ~condition(catalogue, key, value)))
    if not masks:
        return Eligibility(None, ())
    blocked = masks[0][1]
    for _, mask in masks[1:]:
        blocked = blocked | mask
    return Eligibility(blocked, tuple(reason for reason, _ in masks))


def why_blocked(
    catalogue: Catalogue, history: History, row: int, *, seen: str, where: Mapping[str, Any] | None = None
) -> str | None:
    """The first rule that keeps one item out, None if none does."""
    masks = _history_masks(history, seen)
    masks += [(f"where {key}", ~condition(catalogue, key, value)) for key, value in (where or {}).items()]
    return next((reason for reason, mask in masks if mask[row]), None)


def _history_masks(history: History, seen: str) -> list[tuple[str, Bools]]:
    masks = [("seen", history.seen)] if seen == "hide" else []
    if history.disliked.any():
        masks.append(("disliked", history.disliked))
    return masks


def _members(catalogue: Catalogue, items: Collection[str]) -> Bools:
    if isinstance(items, str):
        raise RequestError("exclude and only take a collection of item ids, not one string", hint="write {'…'}")
    mask = np.zeros(catalogue.n_items, np.bool_)
    rows = catalogue.rows(list(items))
    mask[rows[rows >= 0]] = True
    return mask


def condition(catalogue: Catalogue, key: str, value: Any) -> Bools:
    """The items that meet one entry of `where`, bool (n_items,).

    `name: value` equality, or membership where value is a list or set · `name_min`, `name_max`: bounds on a
    number, both inclusive. An item without the attribute meets no condition.
    """
    names = catalogue.attribute_names
    name, bound = key, ""
    if key not in names and key[-4:] in ("_min", "_max"):
        name, bound = key[:-4], key[-3:]
    column = catalogue.attribute(name)
    if column is None:
        raise UnknownAttribute(f"no item has an attribute {name!r}", hint=f"the catalogue has: {', '.join(names)}")
    if isinstance(column, Numbers):
        return _number_condition(column, key, bound, value)
    if bound:
        raise RequestError(f"{key!r} is a bound, but {name!r} is not a number", hint=f"filter by {name!r} itself")
    wanted = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
    if isinstance(column, Flags):
        if not all(isinstance(one, bool) for one in wanted):
            raise RequestError(f"{key!r} is a yes-or-no attribute", hint="give True or False")
        return column.equal(True) & (True in wanted) | column.equal(False) & (False in wanted)
    if not all(isinstance(one, str) for one in wanted):
        raise RequestError(f"{key!r} is a text attribute, {value!r} is not text")
    return column.having(wanted) if isinstance(column, Tags) else column.among(wanted)


def _number_condition(column: Numbers, key: str, bound: str, value: Any) -> Bools:
    wanted = list(value) if isinstance(value, (list, tuple, set, frozenset)) and not bound else [value]
    if not all(isinstance(one, (int, float)) and not isinstance(one, bool) and one == one for one in wanted):
        raise RequestError(f"{key!r} needs a number, not {value!r}")
    if bound == "min":
        return column.between(low=float(value))
    if bound == "max":
        return column.between(high=float(value))
    mask: Bools = np.isin(column.values, np.array(wanted, np.float64))
    return mask
