"""New and changed items on the device, without a new bundle: `Recommender.update_catalogue`."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgerec.bundle import Bundle
from edgerec.bundle.catalogue_index import check_entry
from edgerec.bundle.overlay import VECTOR, OverlaidBundle, check_told, kind_of
from edgerec.device import OVERLAY, Device, Snapshot, Stale
from edgerec.errors import BundleInvalid, DataError, StoreBusy
from edgerec.records import record
from edgerec.store import MetaTable, OverlayItem, OverlayTable
from edgerec.types import CatalogueUpdate, Float32

MAX_OVERLAY = 10_000
"""Items of an overlay; more are a reason for a new bundle."""
FIELDS = ("item", "title", "attributes", "content", "vector", "popularity")
_TRIES = 5


def update(device: Device, items: Iterable[Mapping[str, Any]], remove: Collection[str] = ()) -> CatalogueUpdate:
    """All of it or nothing, in one transaction. Raises DataError naming the item and what is wrong with it."""
    given = [_told(number, one) for number, one in enumerate(items, 1)]
    if len({one.item for one in given}) != len(given):
        raise DataError("an item is told of twice", hint="once per update")
    for _ in range(_TRIES):
        plan = _plan(device, device.snapshot().engine.bundle.base, given, remove)
        try:
            with device.exclusive() as newest:
                running = newest.engine.bundle
                # placing took time and no lock: what was placed on must still be what is there
                if running.digest == plan.bundle.digest and running.stamp == plan.before:
                    _save(device, newest, plan)
                    return plan.done
        except Stale:
            continue
    raise StoreBusy("other processes kept writing to the store", hint="try again")


@record
class _Plan:
    """`before`: the stamp of the overlay that this was planned on · `gone`: items that leave it."""

    bundle: OverlaidBundle
    before: str | None
    told: list[OverlayItem]
    gone: list[str]
    done: CatalogueUpdate


def _plan(device: Device, base: Bundle, given: list[OverlayItem], remove: Collection[str]) -> _Plan:
    with device.database.read() as connection:
        before = MetaTable.get(connection, OVERLAY)
        stored = OverlayTable.all(connection)
    here = _in_force(base, stored)
    given = [_settled(base, one) for one in given]
    told = {**here, **{one.item: one for one in given}}
    for item in set(remove):
        if item not in told:
            raise DataError(f"the overlay has no item {item!r}", hint="items of the bundle itself stay")
        del told[item]
    if len(told) > MAX_OVERLAY:
        raise DataError(f"{len(told)} items beside the bundle's, at most {MAX_OVERLAY}", hint="publish a new bundle")
    _check_kinds(base, list(told.values()))
    # in the order in which the store will have them: an item keeps its place when it is told of again
    order = {one.item: place for place, one in enumerate(stored)}
    ordered = sorted(told.values(), key=lambda one: order.get(one.item, len(order)))
    bundle = OverlaidBundle(base, ordered, str(int(before or 0) + 1))
    known = sum(one.item in here or base.catalogue.row(one.item) is not None for one in given)
    done = CatalogueUpdate(len(given) - known, known, len(set(remove)), len(told))
    kept = [one for one in given if one.item in told]
    return _Plan(bundle, before, kept, [one.item for one in stored if one.item not in told], done)


def _save(device: Device, newest: Snapshot, plan: _Plan) -> None:
    with device.write(newest) as connection:
        OverlayTable.remove(connection, plan.gone)
        OverlayTable.save(connection, plan.told, round(device.clock() * 1e6))
        MetaTable.set(connection, OVERLAY, str(plan.bundle.stamp))
        device.save_overlay(connection, plan.bundle)
    device.reload(newest.engine)


def _in_force(base: Bundle, told: list[OverlayItem]) -> dict[str, OverlayItem]:
    """Those that the running bundle does not know better."""
    rows = base.catalogue.rows([one.item for one in told]).tolist()
    return {one.item: one for one, row in zip(told, rows, strict=True) if row < 0 or one.bundle == base.digest}


def _settled(base: Bundle, one: OverlayItem) -> OverlayItem:
    """The item as it is stored under this bundle. Raises DataError where it cannot be."""
    known = base.catalogue.row(one.item) is not None
    if known and (one.content or one.popularity is not None):
        raise DataError(
            f"item {one.item!r} is in the bundle, which says where it stands", hint="change its title and attributes"
        )
    if not known and one.title is None:
        raise DataError(f"item {one.item!r} is new and needs a title")
    check_told(base, one)
    return OverlayItem(one.item, one.title, one.attributes, one.content, one.popularity, base.digest)


def _check_kinds(base: Bundle, told: list[OverlayItem]) -> None:
    """An attribute keeps its type throughout the catalogue."""
    kinds = {name: base.catalogue.attribute_kind(name) or "" for name in base.catalogue.attribute_names}
    for one in told:
        for name, value in one.attributes.items():
            kind = kinds.setdefault(name, kind_of(value))
            if kind_of(value) != kind:
                raise DataError(f"item {one.item!r}: the attribute {name!r} is a {kind} in this catalogue")


def _told(number: int, given: Mapping[str, Any]) -> OverlayItem:
    """An item as the app gives it, checked as far as it can be without a bundle."""
    if not isinstance(given, Mapping):
        raise DataError(f"item number {number} is a {type(given).__name__}, not a mapping")
    if unknown := [name for name in given if name not in FIELDS]:
        raise DataError(
            f"item number {number}: no field is called {unknown[0]!r}", hint=f"there are {', '.join(FIELDS)}"
        )
    item, title, attributes = given.get("item"), given.get("title"), given.get("attributes") or {}
    try:
        check_entry(item, "" if title is None else title, attributes)
    except BundleInvalid as error:
        raise DataError(f"item number {number}: {error}") from None
    content = given.get("content") or {}
    if not isinstance(content, Mapping) or VECTOR in content:
        raise DataError(f"item number {number}: 'content' must map names of modalities to lists of numbers")
    arrays = {str(name): _numbers(number, str(name), value) for name, value in content.items()}
    if given.get("vector") is not None:
        arrays[VECTOR] = _numbers(number, VECTOR, given["vector"])
    popularity = given.get("popularity")
    if popularity is not None and (
        isinstance(popularity, bool) or not isinstance(popularity, (int, float)) or not math.isfinite(popularity)
    ):
        raise DataError(f"item number {number}: 'popularity' = {popularity!r} is not a finite number")
    return OverlayItem(
        str(item), title, dict(attributes), arrays, None if popularity is None else float(popularity), ""
    )


def _numbers(number: int, name: str, value: Any) -> Float32:
    try:
        with np.errstate(over="ignore"):  # what is too large for float32 is infinite then
            array = np.ascontiguousarray(value, np.float32)
    except (TypeError, ValueError):
        array = np.empty((0, 0), np.float32)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise DataError(f"item number {number}: {name!r} must be a list of finite numbers")
    return array


def read_items(path: Path, content: Path | None = None) -> list[dict[str, Any]]:
    """Items from a file of JSON lines, with content vectors from an .npz of `items` (ids) and one float array per
    modality, a row of NaN where an item has none; ids there that are not in `path` are passed over.

    Raises DataError naming the line, or what is wrong with the .npz.
    """
    items = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            items.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path.name} line {number} is not JSON: {error}") from None
        if not isinstance(items[-1], dict):
            raise DataError(f"{path.name} line {number} is no JSON object")
    for one in items if content is not None else []:
        one.setdefault("content", {})
    if content is not None:
        _add_content(items, content)
    return items


def _add_content(items: list[dict[str, Any]], path: Path) -> None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        places = {str(item): place for place, item in enumerate(arrays.pop("items").tolist())}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no .npz with 'items' and content vectors: {error}") from None
    for name, values in arrays.items():
        if values.ndim != 2 or len(values) != len(places) or values.dtype.kind != "f":
            raise DataError(f"{path}: {name!r} must be floats of shape ({len(places)}, d)")
        for one in items:
            place = places.get(str(one.get("item")))
            if place is not None and not np.isnan(values[place]).all():
                one["content"] = {**one["content"], name: values[place]}
