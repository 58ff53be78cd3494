"""Which items may be served: seen and disliked items, `exclude`, `only`, and filters on attributes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgerec.bundle.catalogue import Catalogue
from edgerec.errors import RequestError
from edgerec.history import History
from edgerec.records import field, record
from edgerec.types import Bools, Float32

if TYPE_CHECKING:
    from edgerec.serving.conditions import Filter, PerCatalogue
    from edgerec.serving.scenarios import Boost, Fresh
    from edgerec.serving.where import Where


@record
class ScenarioRules:
    """What a scenario asks for. `based_on`: the bundle's scenario whose blend serves · `caps`: the most items on a page
    per value of an attribute · `boosted` float32 (n_items,): the boosts' sum.
    """

    name: str
    based_on: str
    seen: str
    where: Filter | None = None
    boosts: tuple[Boost, ...] = ()
    boosted: PerCatalogue[Float32] | None = None
    caps: Mapping[str, int] = field(default_factory=dict)
    fresh: Fresh | None = None
    rerankers: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


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
    if where is not None:
        from edgerec.serving.where import filters_of  # most pages have no conditions

        masks += [(f"where {one.text}", ~one.mask(catalogue)) for one in filters_of(where)]
    return masks if within is None else [*masks, (f"where {within.text}", ~within.mask(catalogue))]


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
