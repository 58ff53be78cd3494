"""The catalogue: item ids, titles and attributes, in an SQLite index built once from catalogue.jsonl.

A catalogue of a hundred thousand items costs nothing at open: rows are looked up and attributes loaded when
first asked for.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.errors import BundleError
from edgerec.files import scratch, sync
from edgerec.records import record
from edgerec.types import Float64, Int32, Int64

CACHED_ROWS = 1 << 16
SCHEMA = 1
"""Of the index."""
_CHUNK = 500
_FEW = 8

Mask = NDArray[np.bool_]


@record
class Numbers:
    """A numeric attribute. `values` float64 (n_items,), NaN where absent."""

    values: Float64

    def between(self, low: float = -np.inf, high: float = np.inf) -> Mask:
        """bool (n_items,): low <= value <= high; False where absent."""
        return (self.values >= low) & (self.values <= high)

    def value(self, row: int) -> float | None:
        found = float(self.values[row])
        return None if np.isnan(found) else found


@record
class Labels:
    """A text attribute. `codes` int32 (n_items,): index into `labels`, -1 where absent."""

    codes: Int32
    labels: tuple[str, ...]

    def among(self, wanted: Iterable[str]) -> Mask:
        """bool (n_items,): the text is one of `wanted`."""
        return _any_of(self.codes, _codes(self.labels, wanted), len(self.labels))

    def value(self, row: int) -> str | None:
        code = int(self.codes[row])
        return None if code < 0 else self.labels[code]


@record
class Flags:
    """A yes-or-no attribute. `codes` int8 (n_items,): 1, 0, or -1 where absent."""

    codes: NDArray[np.int8]

    def equal(self, wanted: bool) -> Mask:
        """bool (n_items,): the flag is `wanted`; False where absent."""
        mask: Mask = self.codes == np.int8(wanted)
        return mask

    def value(self, row: int) -> bool | None:
        code = int(self.codes[row])
        return None if code < 0 else bool(code)


@record
class Tags:
    """A list-of-text attribute. Item `row` has `labels[c]` for c in `codes[indptr[row]:indptr[row + 1]]`.

    `indptr` int64 (n_items + 1,) · `codes` int32 (nnz,).
    """

    indptr: Int64
    codes: Int32
    labels: tuple[str, ...]

    def having(self, wanted: Iterable[str]) -> Mask:
        """bool (n_items,): the item has at least one of the tags `wanted`."""
        hits = np.zeros(len(self.codes) + 1, np.int32)
        np.cumsum(_any_of(self.codes, _codes(self.labels, wanted), len(self.labels)), out=hits[1:])
        sums = hits[self.indptr]
        return sums[1:] > sums[:-1]

    def value(self, row: int) -> tuple[str, ...]:
        return tuple(self.labels[code] for code in self.codes[self.indptr[row] : self.indptr[row + 1]])


Column = Numbers | Labels | Flags | Tags


def _codes(labels: tuple[str, ...], wanted: Iterable[str]) -> list[int]:
    chosen = set(wanted)
    if len(chosen) > _FEW:
        return [code for code, label in enumerate(labels) if label in chosen]
    codes = []
    for label in chosen:
        with suppress(ValueError):  # the search of a tuple is thrice as fast as a loop over it
            codes.append(labels.index(label))
    return codes


def _any_of(codes: Int32, chosen: Sequence[int], n_labels: int) -> Mask:
    """bool (m,): the code is one of `chosen`; np.isin takes ten times as long."""
    if len(chosen) > _FEW:
        table = np.zeros(n_labels + 1, np.bool_)  # the last place is for absent ones, whose code is -1
        table[chosen] = True
        return table[codes]
    mask = np.zeros(len(codes), np.bool_)
    for code in chosen:
        mask |= codes == code
    return mask


class Catalogue:
    """Read-only, safe to share between threads. Rows are 0 … n_items - 1, the order of the bundle's arrays."""

    def __init__(self, connection: sqlite3.Connection, n_items: int) -> None:
        self._db = connection
        self._lock = threading.Lock()
        self._entries: dict[int, tuple[str, str]] = {}
        self._rows: dict[str, int] = {}
        self._columns: dict[str, Column] = {}
        self._names: dict[str, str] | None = None
        self.n_items = n_items

    @classmethod
    def open(cls, source: Path, index: Path, n_items: int) -> Catalogue:
        """Opens the index of `source`, building it first where it is absent or damaged.

        Raises BundleInvalid, naming the line, when the catalogue is not what the format asks for.
        """
        connection = _connect(index, n_items)
        if connection is None:
            from edgerec.bundle.catalogue_index import build_index

            with scratch(index.parent) as folder:
                fresh = folder / "index.db"
                build_index(source, fresh, n_items)
                sync(fresh)
                os.replace(fresh, index)
            connection = _connect(index, n_items)
        if connection is None:
            raise BundleError(f"{index.name}: SQLite cannot read the index it just wrote")
        return cls(connection, n_items)

    def close(self) -> None:
        """Lets go of the index; lookups fail afterwards."""
        with self._lock:
            self._db.close()

    def row(self, item: str) -> int | None:
        """The item's row, None for an unknown item."""
        found = self._rows.get(item)
        if found is None:
            for hit in self._query("SELECT row, item, title FROM items WHERE item = ?", (_key(item),)):
                found = self._remember(hit)
        return found

    def rows(self, items: Sequence[str]) -> Int32:
        """int32 (len(items),): the row of each item, -1 for unknown ones."""
        known = self._rows
        missing = list({item for item in items if item not in known})
        found: dict[str, int] = {}
        for start in range(0, len(missing), _CHUNK):
            part = [_key(item) for item in missing[start : start + _CHUNK]]
            marks = ",".join("?" * len(part))
            for hit in self._query(f"SELECT row, item, title FROM items WHERE item IN ({marks})", part):
                found[hit[1]] = self._remember(hit)
        return np.array([found[item] if item in found else known.get(item, -1) for item in items], np.int32)

    def item(self, row: int) -> str:
        """The id of the item in `row`. Raises IndexError outside the catalogue."""
        return self._entry(row)[0]

    def title(self, row: int) -> str:
        """The title of the item in `row`. Raises IndexError outside the catalogue."""
        return self._entry(row)[1]

    def items(self, rows: Iterable[int]) -> list[tuple[str, str]]:
        """(id, title) of each row, in order. Raises IndexError outside the catalogue."""
        wanted = rows.tolist() if isinstance(rows, np.ndarray) else [int(row) for row in rows]
        entries = self._entries
        try:
            return [entries[row] for row in wanted]
        except KeyError:
            return [self._entry(row) for row in wanted]

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names of all attributes, sorted."""
        return tuple(self._kinds())

    def attribute_kind(self, name: str) -> str | None:
        """'number', 'text', 'flag' or 'tags'; None for an unknown attribute."""
        return self._kinds().get(name)

    def attribute(self, name: str) -> Column | None:
        """The attribute over all items, cached; None for an unknown attribute."""
        column = self._columns.get(name)
        if column is None and name in self._kinds():
            column = self._columns[name] = self._load(name)
        return column

    def attributes(self, row: int) -> dict[str, float | str | bool | tuple[str, ...]]:
        """What the catalogue says of one item; absent attributes are left out."""
        found = {name: column.value(row) for name in self._kinds() if (column := self.attribute(name)) is not None}
        return {name: value for name, value in found.items() if value is not None and value != ()}

    def _kinds(self) -> dict[str, str]:
        if self._names is None:
            self._names = dict(self._query("SELECT name, kind FROM attributes ORDER BY name"))
        return self._names

    def _load(self, name: str) -> Column:
        ((kind, data, indptr),) = self._query("SELECT kind, data, indptr FROM attributes WHERE name = ?", (name,))
        labels = tuple(
            label for (label,) in self._query("SELECT label FROM labels WHERE name = ? ORDER BY code", (name,))
        )
        if kind == "number":
            return Numbers(np.frombuffer(data, np.float64))
        if kind == "text":
            return Labels(np.frombuffer(data, np.int32), labels)
        if kind == "flag":
            return Flags(np.frombuffer(data, np.int8))
        return Tags(np.frombuffer(indptr, np.int64), np.frombuffer(data, np.int32), labels)

    def _entry(self, row: int) -> tuple[str, str]:
        entry = self._entries.get(row)
        if entry is None:
            hits = self._query("SELECT row, item, title FROM items WHERE row = ?", (int(row),))
            if not hits:
                raise IndexError(f"row {row} lies outside a catalogue of {self.n_items}")
            self._remember(hits[0])
            entry = hits[0][1], hits[0][2]
        return entry

    def _query(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise BundleError(
                f"the catalogue's index cannot be read: {error}", hint="delete the folder 'index'"
            ) from None

    def _remember(self, hit: tuple[int, str, str]) -> int:
        if len(self._entries) >= CACHED_ROWS:
            # replaced, not emptied: a reader in another thread may be in the middle of the old ones
            self._entries, self._rows = {}, {}
        row, item, title = hit
        self._entries[row] = (item, title)
        self._rows[item] = row
        return row


def _key(item: str) -> str:
    """Text that SQLite can take. Half a surrogate pair, which it cannot, becomes an id that no catalogue holds."""
    if item.isascii():
        return item
    try:
        item.encode()
    except UnicodeEncodeError:
        return "\0"
    return item


def _connect(index: Path, n_items: int) -> sqlite3.Connection | None:
    """The index, opened read-only; None where it is absent, damaged, of another schema or size."""
    if not index.is_file():
        return None
    try:
        connection = sqlite3.connect(
            f"{index.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False, isolation_level=None
        )
    except sqlite3.OperationalError:  # removed just now
        return None
    try:
        if connection.execute("SELECT schema, n_items FROM meta").fetchone() == (SCHEMA, n_items):
            return connection
    except sqlite3.DatabaseError:
        pass
    connection.close()
    return None
