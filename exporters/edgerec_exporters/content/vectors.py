"""Content vectors: named float arrays per item, whatever made them; one .npz file holds them with the items' ids."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.content import MAX_LENGTH, MAX_MODALITIES, NAME
from edgerec.errors import DataError

Float32 = NDArray[np.float32]

ITEMS = "items"


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """`arrays`: per modality float32 (n_items, d), a row of nothing but NaN where an item has none of it."""

    items: tuple[str, ...]
    arrays: Mapping[str, Float32]

    def __post_init__(self) -> None:
        if len(set(self.items)) != len(self.items):
            raise DataError("an item occurs twice among the content vectors")
        if not 0 < len(self.arrays) <= MAX_MODALITIES:
            raise DataError(f"content needs 1 to {MAX_MODALITIES} modalities, not {len(self.arrays)}")
        for name, values in self.arrays.items():
            _check(name, values, len(self.items))

    def __len__(self) -> int:
        return len(self.items)

    def of(self, items: Sequence[str]) -> Content:
        """The content of these items, in their order; those that are unknown here have none."""
        place = {item: row for row, item in enumerate(self.items)}
        rows = np.array([place.get(item, -1) for item in items], np.int64)
        arrays = {name: np.where(rows[:, None] < 0, np.float32(np.nan), a[rows]) for name, a in self.arrays.items()}
        return Content(tuple(items), arrays)

    def given(self) -> NDArray[np.bool_]:
        """Which items have content of any modality, bool (n_items,)."""
        any_: NDArray[np.bool_] = np.logical_or.reduce([~np.isnan(values[:, 0]) for values in self.arrays.values()])
        return any_

    def joined(self, other: Content) -> Content:
        """The modalities of both, for the items of this one. Raises DataError where a name occurs in both."""
        twice = sorted(set(self.arrays) & set(other.arrays))
        if twice:
            raise DataError(f"the content {', '.join(twice)!r} is given twice")
        return Content(self.items, {**self.arrays, **other.of(self.items).arrays})

    def save(self, path: str | os.PathLike[str]) -> int:
        """Writes one .npz file at once or not at all; returns its size in bytes. Raises DataError."""
        target = Path(path)
        arrays: dict[str, Any] = {ITEMS: np.array(self.items, np.str_), **self.arrays}
        try:
            with tempfile.TemporaryDirectory(prefix=".edgerec-content-", dir=target.parent) as scratch:
                whole = Path(scratch) / "content.npz"
                with whole.open("wb") as file:
                    np.savez(file, **arrays)
                os.replace(whole, target)
        except OSError as error:
            raise DataError(f"cannot write {target}: {error.strerror}") from error
        return target.stat().st_size


def load_content(path: str | os.PathLike[str]) -> Content:
    """What `save` wrote, or any .npz with `items` (ids) and float arrays of as many rows; no pickle is read.

    Raises DataError, naming what is wrong.
    """
    if not Path(path).is_file():
        raise DataError(f"there are no content vectors {path}", hint="edgerec content text --data … --out FILE")
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no .npz of plain arrays: {error}") from error
    if ITEMS not in arrays or arrays[ITEMS].dtype.kind != "U" or arrays[ITEMS].ndim != 1:
        raise DataError(f"{path} has no array {ITEMS!r} of item ids as text")
    items = tuple(arrays.pop(ITEMS).tolist())
    if any(array.dtype.kind != "f" for array in arrays.values()):
        raise DataError(f"{path}: content must be arrays of floats")
    return Content(items, {name: array.astype(np.float32) for name, array in arrays.items()})


def load_contents(paths: Sequence[str | os.PathLike[str]]) -> Content:
    """Several files' modalities, for the items of them all. Raises DataError."""
    parts = [load_content(path) for path in paths]
    items = tuple(dict.fromkeys(item for part in parts for item in part.items))
    found = parts[0].of(items)
    for part in parts[1:]:
        found = found.joined(part)
    return found


def _check(name: str, values: Float32, n_items: int) -> None:
    if not NAME.fullmatch(name) or name == ITEMS:
        raise DataError(f"{name!r} cannot name content", hint="lower-case letters, digits and _, at most 32")
    if values.ndim != 2 or len(values) != n_items or not 0 < values.shape[1] <= MAX_LENGTH:
        raise DataError(
            f"content {name!r} has shape {values.shape}", hint=f"({n_items}, d) is wanted, d from 1 to {MAX_LENGTH}"
        )
    lacks = np.isnan(values)
    if not np.isfinite(values[~lacks.all(1)]).all():
        raise DataError(
            f"content {name!r} holds values that are not finite", hint="an item without it has a row of nothing but NaN"
        )
