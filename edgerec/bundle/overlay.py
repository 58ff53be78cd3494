"""A bundle with the items of the store's overlay behind its own: all that reads a bundle then serves them too.

Rows from `n_items` of the bundle on are the overlay's, in order of arrival. An item that the bundle has keeps its row
and its place in the model; the overlay may change its title and add or change attributes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from edgerec.bundle.catalogue import Catalogue, Column, Flags, Labels, Numbers, Tags
from edgerec.bundle.content import ContentModel, Placed, Sparse, joined, to_list
from edgerec.bundle.opened import Bundle, Neighbours
from edgerec.bundle.sessions import Encoder, Retriever
from edgerec.errors import DataError
from edgerec.records import changed
from edgerec.types import Float32, Int32, Model, State

VECTOR = "vector"
"""Where a ready vector stands among an item's content."""


class Told(Protocol):
    """What the app told of an item (`store.overlay.OverlayItem`)."""

    @property
    def item(self) -> str: ...
    @property
    def title(self) -> str | None: ...
    @property
    def attributes(self) -> Mapping[str, Any]: ...
    @property
    def content(self) -> Mapping[str, Float32]: ...
    @property
    def popularity(self) -> float | None: ...
    @property
    def bundle(self) -> str: ...


class OverlaidBundle(Bundle):
    """A bundle with new items behind its own. Sessions and files are those of the bundle beneath, which closes them."""

    __slots__ = ("_base", "placed", "stamp")

    def __init__(self, base: Bundle, told: Sequence[Told], stamp: str, placed: Placed | None = None) -> None:
        """`placed`: where `place` put the new ones, if that is known already; `stamp` tells this overlay from others.

        What was told of an item that `base` has counts only if it was told under `base`: a bundle that came later
        knows better.
        """
        rows = base.catalogue.rows([one.item for one in told]).tolist()
        new = [one for one, row in zip(told, rows, strict=True) if row < 0]
        known = {row: one for one, row in zip(told, rows, strict=True) if row >= 0 and one.bundle == base.digest}
        if placed is None or len(placed.bias) != len(new):
            placed = place(base, new)
        self._base, self.stamp, self.placed = base, stamp, placed
        self.path, self.digest, self.negatives = base.path, base.digest, base.negatives
        base_items = base.manifest.n_items
        self.manifest = changed(base.manifest, n_items=base_items + len(new))
        self.model = base.model if not new else _joined(base.model, placed)
        self.neighbours = (
            base.neighbours if not new else _extended(base.neighbours, placed.links, base_items + len(new))
        )
        self.repeat = base.repeat.extended(base_items + len(new)) if base.repeat is not None and new else base.repeat
        self.catalogue = OverlaidCatalogue(base.catalogue, new, known)
        self._lock = threading.Lock()
        self._encoder = self._retriever = self._golden = self._content = None

    @property
    def base(self) -> Bundle:
        return self._base

    @property
    def encoder(self) -> Encoder:
        return self._base.encoder

    @property
    def retriever(self) -> Retriever | None:
        """The scan over the bundle's own items; those of the overlay are scored beside it."""
        return self._base.retriever

    @property
    def golden(self) -> dict[str, Any]:
        return self._base.golden

    @property
    def content(self) -> ContentModel | None:
        return self._base.content

    def close(self) -> None:
        self._base.close()


def _joined(model: Model, placed: Placed) -> Model:
    arrays = (
        np.concatenate([model.vectors, placed.vectors]),
        np.concatenate([model.bias, placed.bias]),
        np.concatenate([model.popularity, placed.popularity]),
    )
    for array in arrays:
        array.flags.writeable = False
    return Model(*arrays)


def check_told(base: Bundle, one: Told) -> None:
    """Raises DataError where a new item's content or vector does not fit the bundle."""
    ready = one.content.get(VECTOR)
    if ready is not None and not _is_vector(ready, base.manifest.dim):
        raise DataError(f"item {one.item!r}: a vector of this bundle is {base.manifest.dim} finite numbers")
    lengths = _lengths(base)
    for name, value in one.content.items():
        if name == VECTOR:
            continue
        if name not in lengths:
            hint = (
                f"it was made with {', '.join(lengths)}" if lengths else "train with --content, or give ready vectors"
            )
            raise DataError(f"item {one.item!r}: this bundle knows no content named {name!r}", hint=hint)
        if not _is_vector(value, lengths[name]):
            raise DataError(f"item {one.item!r}: {name!r} must be {lengths[name]} finite numbers")


def _lengths(base: Bundle) -> dict[str, int]:
    return {modality.name: len(modality.mean) for modality in base.content.modalities} if base.content else {}


def _is_vector(value: Float32, length: int) -> bool:
    return value.shape == (length,) and bool(np.isfinite(value).all())


def place(base: Bundle, new: Sequence[Told]) -> Placed:
    """Places items that the bundle does not have: by a ready vector, by their content, or nowhere, with a zero vector.

    Content that does not fit is passed over: it was told under another bundle, and must not keep this one from
    opening.
    """
    dim, lengths = base.manifest.dim, _lengths(base)
    content = {}
    for name, length in lengths.items():
        values = [one.content.get(name) for one in new]
        kept = [value if value is not None and _is_vector(value, length) else None for value in values]
        if any(value is not None for value in kept):
            content[name] = np.stack([np.full(length, np.nan, np.float32) if v is None else v for v in kept])
    if content and base.content is not None:
        found = base.content.place(content, to_list(*_parts(base.neighbours)), base.manifest.n_items)
    else:
        mean = np.full(len(new), base.model.popularity.mean(), np.float32)
        found = Placed(np.zeros((len(new), dim), np.float32), np.zeros(len(new), np.float32), mean, joined([]))
    for at, one in enumerate(new):
        ready = one.content.get(VECTOR)
        if ready is not None and _is_vector(ready, dim):
            found.vectors[at] = ready
        if one.popularity is not None:
            found.popularity[at] = one.popularity
    return found


def packed(bundle: Bundle) -> State:
    """Where an overlay's items stand, as a state."""
    if not isinstance(bundle, OverlaidBundle):
        raise TypeError("there is no overlay on this bundle")
    placed = bundle.placed
    return {
        "vectors": placed.vectors,
        "bias": placed.bias,
        "popularity": placed.popularity,
        "source": placed.links.source.astype(np.int64),
        "target": placed.links.target.astype(np.int64),
        "weight": placed.links.weight,
    }


def unpacked(state: State) -> Placed:
    """What `packed` made."""
    links = Sparse(state["source"], state["target"], state["weight"])
    return Placed(state["vectors"], state["bias"], state["popularity"], links)


def _parts(neighbours: Neighbours) -> tuple[Int32, Int32, Float32]:
    return neighbours.indptr, neighbours.ids, neighbours.weights


def _extended(neighbours: Neighbours, links: Sparse, n_items: int) -> Neighbours:
    """The bundle's weights with the new ones at the end of their rows."""
    order = np.argsort(links.source, kind="stable")
    source = links.source[order]
    indptr = np.pad(neighbours.indptr, (0, n_items + 1 - len(neighbours.indptr)), mode="edge")
    places = indptr[source + 1]
    return Neighbours(
        (indptr + np.searchsorted(source, np.arange(n_items + 1))).astype(np.int32),
        np.insert(neighbours.ids, places, links.target[order].astype(np.int32)),
        np.insert(neighbours.weights, places, links.weight[order]),
    )


class OverlaidCatalogue(Catalogue):
    """A catalogue with further items, and with changes to those it has."""

    def __init__(self, base: Catalogue, new: Sequence[Told], known: Mapping[int, Told]) -> None:
        self._base = base
        self._new = [(one.item, one.title or one.item) for one in new]
        self._new_rows = {one.item: base.n_items + place for place, one in enumerate(new)}
        self._titles = {row: one.title for row, one in known.items() if one.title is not None}
        told = {**known, **{base.n_items + place: one for place, one in enumerate(new)}}
        self._told = {row: self._fitting(one.attributes) for row, one in told.items()}
        self._columns: dict[str, Column] = {}
        self._names: dict[str, str] | None = None
        self.n_items = base.n_items + len(new)

    def _fitting(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Those that are of the kind that they are of in the bundle."""
        kinds = {name: self._base.attribute_kind(name) for name in attributes}
        return {name: value for name, value in attributes.items() if kinds[name] in (None, kind_of(value))}

    def close(self) -> None:
        self._base.close()

    def row(self, item: str) -> int | None:
        found = self._new_rows.get(item)
        return self._base.row(item) if found is None else found

    def rows(self, items: Sequence[str]) -> Int32:
        found = self._base.rows(items)
        for place, item in enumerate(items):
            if found[place] < 0:
                found[place] = self._new_rows.get(item, -1)
        return found

    def items(self, rows: Any) -> list[tuple[str, str]]:
        return [self._entry(int(row)) for row in rows]

    def _entry(self, row: int) -> tuple[str, str]:
        if row >= self._base.n_items:
            return self._new[row - self._base.n_items]
        item = self._base.item(row)
        return item, self._titles[row] if row in self._titles else self._base.title(row)

    def _kinds(self) -> dict[str, str]:
        if self._names is None:
            kinds = {name: kind_of(value) for told in self._told.values() for name, value in told.items()}
            known = {name: self._base.attribute_kind(name) or "" for name in self._base.attribute_names}
            self._names = dict(sorted({**kinds, **known}.items()))
        return self._names

    def _load(self, name: str) -> Column:
        told = {row: known[name] for row, known in self._told.items() if name in known}
        return extended(self._base.attribute(name), self._kinds()[name], self.n_items, told)


def kind_of(value: object) -> str:
    """The kind of an attribute's value, as `Catalogue.attribute_kind` names it."""
    if isinstance(value, bool):
        return "flag"
    return "number" if isinstance(value, (int, float)) else "text" if isinstance(value, str) else "tags"


def extended(column: Column | None, kind: str, n_items: int, told: Mapping[int, Any]) -> Column:
    """A column over `n_items` rows, the first ones those of `column`, with the values `told` by row."""
    rows = list(told)
    if kind == "number":
        numbers = np.full(n_items, np.nan)
        if isinstance(column, Numbers):
            numbers[: len(column.values)] = column.values
        numbers[rows] = [float(value) for value in told.values()]
        return Numbers(numbers)
    if kind == "flag":
        flags = np.full(n_items, -1, np.int8)
        if isinstance(column, Flags):
            flags[: len(column.codes)] = column.codes
        flags[rows] = list(told.values())
        return Flags(flags)
    labels = {label: code for code, label in enumerate(getattr(column, "labels", ()))}
    if kind == "text":
        codes = np.full(n_items, -1, np.int32)
        if isinstance(column, Labels):
            codes[: len(column.codes)] = column.codes
        codes[rows] = [labels.setdefault(value, len(labels)) for value in told.values()]
        return Labels(codes, tuple(labels))
    return _tags(column if isinstance(column, Tags) else None, n_items, told, labels)


def _tags(column: Tags | None, n_items: int, told: Mapping[int, Any], labels: dict[str, int]) -> Tags:
    parts: list[Any] = [()] * n_items
    if column is not None:
        known = np.split(column.codes, column.indptr[1:-1])
        parts[: len(known)] = known
    for row, values in told.items():
        parts[row] = [labels.setdefault(value, len(labels)) for value in values]
    indptr = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    flat = np.concatenate([np.asarray(part, np.int32) for part in parts])
    return Tags(indptr, flat, tuple(labels))
