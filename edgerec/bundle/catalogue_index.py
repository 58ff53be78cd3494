"""Builds the catalogue's SQLite index from catalogue.jsonl, line by line, checking as it goes."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgerec.bundle.catalogue import SCHEMA
from edgerec.errors import BundleError, BundleInvalid

FILE = "catalogue.jsonl"
MAX_LINE = 1 << 16
MAX_ITEM = 256
MAX_TITLE = 1024
MAX_ATTRIBUTES = 256
MAX_NAME = 64
MAX_TEXT = 1024
MAX_TAGS = 256
_FIELDS = {"item", "row", "title", "attributes"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE meta (schema INTEGER NOT NULL, n_items INTEGER NOT NULL);
CREATE TABLE items (row INTEGER PRIMARY KEY, item TEXT NOT NULL, title TEXT NOT NULL);
CREATE TABLE attributes (name TEXT PRIMARY KEY, kind TEXT NOT NULL, data BLOB NOT NULL, indptr BLOB);
CREATE TABLE labels (name TEXT, code INTEGER, label TEXT NOT NULL, PRIMARY KEY (name, code)) WITHOUT ROWID;
"""


def build_index(source: Path, target: Path, n_items: int) -> None:
    """Writes the index of `source` to the new file `target`. Raises BundleInvalid with the line at fault."""
    connection = sqlite3.connect(target, isolation_level=None)
    columns = _Columns(n_items)
    try:
        connection.executescript(_TABLES)
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO items VALUES (?, ?, ?)", _entries(source, columns, n_items))
        _check_unique(connection)
        columns.write(connection)
        connection.execute("INSERT INTO meta VALUES (?, ?)", (SCHEMA, n_items))
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise BundleError(f"{FILE}: cannot be indexed: {error}", hint="is there space on the disk?") from error
    finally:
        connection.close()


def check_entry(item: object, title: object, attributes: object) -> dict[str, str]:
    """Holds one item to the rules of the catalogue; the kind of each attribute. Raises BundleInvalid."""
    try:
        line = json.dumps({"item": item, "row": 0, "title": title, "attributes": attributes}, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleInvalid(f"cannot be written as JSON: {error}") from None
    columns = _Columns(1)
    columns.add(0, _parse(line.encode("utf-8", "surrogatepass"))[3])
    return columns.kinds()


def _check_unique(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("CREATE UNIQUE INDEX by_item ON items (item)")
    except sqlite3.IntegrityError:
        item, first, last = connection.execute(
            "SELECT item, min(row), max(row) FROM items GROUP BY item HAVING count(*) > 1 ORDER BY 2 LIMIT 1"
        ).fetchone()
        raise BundleInvalid(f"{FILE}: rows {first} and {last} share the item id {item!r}") from None


def _entries(source: Path, columns: _Columns, n_items: int) -> Iterator[tuple[int, str, str]]:
    seen = bytearray(n_items)
    count = 0
    with source.open("rb") as file:
        while line := file.readline(MAX_LINE + 1):
            count += 1
            try:
                row, item, title, attributes = _parse(line)
                if not 0 <= row < n_items or seen[row]:
                    raise BundleInvalid(f"row {row} is taken or outside 0 … {n_items - 1}")
                seen[row] = 1
                columns.add(row, attributes)
            except BundleInvalid as error:
                raise BundleInvalid(f"{FILE} line {count}: {error}") from None
            yield row, item, title
    if count != n_items:
        raise BundleInvalid(f"{FILE}: {count} lines where the manifest counts {n_items} items")


def _parse(line: bytes) -> tuple[int, str, str, dict[str, Any]]:
    if len(line) > MAX_LINE:
        raise BundleInvalid(f"longer than {MAX_LINE} bytes")
    data = _decode(line)
    if not isinstance(data, dict) or data.keys() != _FIELDS:
        raise BundleInvalid(f"must be an object with {', '.join(sorted(_FIELDS))}")
    row, item, title, attributes = data["row"], data["item"], data["title"], data["attributes"]
    if type(row) is not int or not isinstance(attributes, dict):
        raise BundleInvalid("'row' must be a whole number and 'attributes' an object")
    _check_text(item, 1, MAX_ITEM, "'item'")
    _check_text(title, 0, MAX_TITLE, "'title'")
    if not item.isprintable() and _CONTROL.search(item):
        raise BundleInvalid("'item' holds control characters")
    return row, item, title, attributes


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("duplicate keys")
    return out


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# strict_json's rules with a decoder that is kept from line to line: three times as fast
_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_refuse)


def _decode(line: bytes) -> Any:
    try:
        text = line.decode()
        data, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise BundleInvalid(f"not valid JSON in UTF-8: {error}") from None
    if not text[end:].strip():
        return data
    raise BundleInvalid("not valid JSON: more than one value")


def _check_text(value: object, low: int, high: int, what: str) -> None:
    if not isinstance(value, str) or not low <= len(value) <= high:
        raise BundleInvalid(f"{what} must be text of {low} to {high} characters")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BundleInvalid(f"{what} holds half of a surrogate pair") from None


class _Columns:
    """Collects attributes into arrays, one per name."""

    def __init__(self, n_items: int) -> None:
        self._n_items = n_items
        self._builders: dict[str, _Builder] = {}

    def add(self, row: int, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            builder = self._builders.get(name) or self._open(name, value)
            try:
                builder.add(row, value)
            except (ValueError, OverflowError) as error:
                raise BundleInvalid(f"attribute {name!r}: {error}") from None

    def _open(self, name: str, value: object) -> _Builder:
        _check_text(name, 1, MAX_NAME, "an attribute's name")
        maker = _BUILDERS.get(type(value))
        if maker is None:
            raise BundleInvalid(f"attribute {name!r} must be a number, text, true/false or a list of texts")
        if len(self._builders) >= MAX_ATTRIBUTES:
            raise BundleInvalid(f"more than {MAX_ATTRIBUTES} attributes")
        return self._builders.setdefault(name, maker(self._n_items))

    def kinds(self) -> dict[str, str]:
        """The kind of every attribute."""
        return {name: builder.kind for name, builder in self._builders.items()}

    def write(self, connection: sqlite3.Connection) -> None:
        for name, builder in self._builders.items():
            data, indptr = builder.arrays()
            connection.execute("INSERT INTO attributes VALUES (?, ?, ?, ?)", (name, builder.kind, data, indptr))
            connection.executemany(
                "INSERT INTO labels VALUES (?, ?, ?)", ((name, code, label) for label, code in builder.codes.items())
            )


class _Builder:
    kind = ""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self.codes: dict[str, int] = {}

    def add(self, row: int, value: object) -> None:
        raise NotImplementedError

    def arrays(self) -> tuple[bytes, bytes | None]:
        raise NotImplementedError

    def code(self, text: Any) -> int:
        found = self.codes.get(text) if isinstance(text, str) else None
        if found is None:
            if not isinstance(text, str):
                raise ValueError(f"{type(text).__name__} where others have text")
            if len(text) > MAX_TEXT:
                raise ValueError(f"text of more than {MAX_TEXT} characters")
            text.encode()  # a UnicodeEncodeError, a ValueError, for half a surrogate pair
            found = self.codes[text] = len(self.codes)
        return found


class _NumberBuilder(_Builder):
    kind = "number"

    def __init__(self, n_items: int) -> None:
        super().__init__(n_items)
        self.values = np.full(n_items, np.nan, np.float64)

    def add(self, row: int, value: object) -> None:
        if type(value) is not int and type(value) is not float:
            raise ValueError(f"{type(value).__name__} where others have numbers")
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("not finite")
        self.values[row] = number

    def arrays(self) -> tuple[bytes, bytes | None]:
        return self.values.tobytes(), None


class _TextBuilder(_Builder):
    kind = "text"

    def __init__(self, n_items: int) -> None:
        super().__init__(n_items)
        self.values = np.full(n_items, -1, np.int32)

    def add(self, row: int, value: object) -> None:
        self.values[row] = self.code(value)

    def arrays(self) -> tuple[bytes, bytes | None]:
        return self.values.tobytes(), None


class _FlagBuilder(_Builder):
    kind = "flag"

    def __init__(self, n_items: int) -> None:
        super().__init__(n_items)
        self.values = np.full(n_items, -1, np.int8)

    def add(self, row: int, value: object) -> None:
        if not isinstance(value, bool):
            raise ValueError(f"{type(value).__name__} where others have true or false")
        self.values[row] = value

    def arrays(self) -> tuple[bytes, bytes | None]:
        return self.values.tobytes(), None


class _TagsBuilder(_Builder):
    kind = "tags"

    def __init__(self, n_items: int) -> None:
        super().__init__(n_items)
        self.lists: dict[int, list[int]] = {}

    def add(self, row: int, value: object) -> None:
        if not isinstance(value, list):
            raise ValueError(f"{type(value).__name__} where others have lists")
        if len(value) > MAX_TAGS:
            raise ValueError(f"more than {MAX_TAGS} tags")
        self.lists[row] = [self.code(text) for text in value]

    def arrays(self) -> tuple[bytes, bytes | None]:
        counts = np.zeros(self.n_items + 1, np.int64)
        for row, codes in self.lists.items():
            counts[row + 1] = len(codes)
        flat = [code for row in sorted(self.lists) for code in self.lists[row]]
        return np.array(flat, np.int32).tobytes(), np.cumsum(counts).tobytes()


_BUILDERS: dict[type, Callable[[int], _Builder]] = {
    int: _NumberBuilder,
    float: _NumberBuilder,
    str: _TextBuilder,
    bool: _FlagBuilder,
    list: _TagsBuilder,
}
