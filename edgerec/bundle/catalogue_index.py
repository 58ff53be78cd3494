"""Builds the catalogue's SQLite index from catalogue.jsonl, line by line, checking as it goes."""

from __future__ import annotations

import json
import math
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.catalogue import SCHEMA
from edgerec.bundle.sizes import MAX_LINE
from edgerec.bundle.strict_json import refuse_constant, unique
from edgerec.bundle.texts import check_name, check_shown, shown
from edgerec.errors import BundleError, BundleInvalid

FILE = "catalogue.jsonl"
MAX_ITEM = 256
MAX_TITLE = 1024
MAX_ATTRIBUTES = 256
MAX_NAME = 64
MAX_TEXT = 1024
MAX_TAGS = 256
MAX_CELLS = 1 << 28
"""Items times attributes: the index holds a number for each."""

_Entry = tuple[int, str, str]
_FIELDS = {"item", "row", "title", "attributes"}
_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE meta (schema INTEGER NOT NULL, n_items INTEGER NOT NULL);
CREATE TABLE items (row INTEGER PRIMARY KEY, item TEXT NOT NULL, title TEXT NOT NULL);
CREATE TABLE attributes (name TEXT PRIMARY KEY, kind TEXT NOT NULL, data BLOB NOT NULL, indptr BLOB);
CREATE TEMP TABLE looks (item TEXT NOT NULL, row INTEGER NOT NULL);
CREATE TABLE labels (name TEXT, code INTEGER, label TEXT NOT NULL, PRIMARY KEY (name, code)) WITHOUT ROWID;
"""


def build_index(source: Path, target: Path, n_items: int) -> None:
    """Writes the index of `source` to the new file `target`. Raises BundleInvalid with the line at fault."""
    columns = _Columns(n_items)
    try:
        with closing(sqlite3.connect(target, isolation_level=None)) as connection:
            connection.executescript(_TABLES)
            connection.execute("BEGIN")
            entries = _entries(source, columns, n_items)
            connection.executemany("INSERT INTO items VALUES (?, ?, ?)", _noting_looks(entries, connection))
            _check_unique(connection)
            columns.write(connection)
            connection.execute("INSERT INTO meta VALUES (?, ?)", (SCHEMA, n_items))
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise BundleError(f"{FILE}: cannot be indexed: {error}", hint="is there space on the disk?") from error


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
        raise BundleInvalid(f"{FILE}: rows {first} and {last} share the item id {shown(item)}") from None
    connection.execute("INSERT INTO looks SELECT item, row FROM items WHERE item IN (SELECT item FROM looks)")
    twice = connection.execute("SELECT min(row), max(row) FROM looks GROUP BY item HAVING count(*) > 1").fetchone()
    if twice:
        raise BundleInvalid(
            f"{FILE}: rows {twice[0]} and {twice[1]} have item ids that only Unicode's forms tell apart"
        )


def _noting_looks(entries: Iterable[_Entry], connection: sqlite3.Connection) -> Iterator[_Entry]:
    """Passes entries on; keeps the canonical form of ids that are written in another one of Unicode's forms."""
    for entry in entries:
        if not entry[1].isascii():
            # imported here because most catalogues have plain ids
            from unicodedata import normalize

            if (canonical := normalize("NFC", entry[1])) != entry[1]:
                connection.execute("INSERT INTO looks VALUES (?, ?)", (canonical, entry[0]))
        yield entry


def _entries(source: Path, columns: _Columns, n_items: int) -> Iterator[_Entry]:
    seen = bytearray(n_items)
    count = 0
    with source.open("rb") as file:
        while line := file.readline(MAX_LINE + 1):
            count += 1
            try:
                row, item, title, attributes = _parse(line)
                if not 0 <= row < n_items or seen[row]:
                    raise BundleInvalid(f"row {shown(row)} is taken or outside 0 … {n_items - 1}")
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
    check_name(item, MAX_ITEM, "'item'")
    check_shown(title, 0, MAX_TITLE, "'title'")
    return row, item, title, attributes


# strict_json's rules with a decoder that is kept from line to line: three times as fast
_DECODER = json.JSONDecoder(object_pairs_hook=unique, parse_constant=refuse_constant)


def _decode(line: bytes) -> Any:
    try:
        text = line.decode()
        data, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise BundleInvalid(f"not valid JSON in UTF-8: {error}") from None
    if not text[end:].strip(" \t\r\n"):
        return data
    raise BundleInvalid("not valid JSON: more than one value")


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
            except (ValueError, OverflowError, BundleInvalid) as error:
                raise BundleInvalid(f"attribute {shown(name)}: {error}") from None

    def _open(self, name: str, value: object) -> _Builder:
        check_name(name, MAX_NAME, "an attribute's name")
        maker = _BUILDERS.get(type(value))
        if maker is None:
            raise BundleInvalid(f"attribute {shown(name)} must be a number, text, true/false or a list of texts")
        if len(self._builders) >= MAX_ATTRIBUTES:
            raise BundleInvalid(f"more than {MAX_ATTRIBUTES} attributes")
        if (len(self._builders) + 1) * self._n_items > MAX_CELLS:
            raise BundleInvalid(f"{len(self._builders) + 1} attributes of {self._n_items} items, more than {MAX_CELLS}")
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
    """Collects one attribute. Only what is there is kept, so that memory grows with the file, not with its claims."""

    kind = ""
    code_of = ""  # array.array's type of what is collected
    absent: float = -1
    dtype: type = np.int32

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self.codes: dict[str, int] = {}
        self.rows = array("i")
        self.values: array[Any] = array(self.code_of)

    def add(self, row: int, value: object) -> None:
        self.rows.append(row)
        self.values.append(self.encoded(value))

    def encoded(self, value: object) -> float:
        raise NotImplementedError

    def arrays(self) -> tuple[bytes, bytes | None]:
        dense: NDArray[Any] = np.full(self.n_items, self.absent, self.dtype)
        dense[np.frombuffer(self.rows, np.int32)] = np.frombuffer(self.values, self.values.typecode)
        return dense.tobytes(), None

    def code(self, text: Any) -> int:
        found = self.codes.get(text) if isinstance(text, str) else None
        if found is None:
            if not isinstance(text, str):
                raise ValueError(f"{type(text).__name__} where others have text")
            check_shown(text, 0, MAX_TEXT, "a text")
            found = self.codes[text] = len(self.codes)
        return found


class _NumberBuilder(_Builder):
    kind, code_of, absent, dtype = "number", "d", np.nan, np.float64

    def encoded(self, value: object) -> float:
        if type(value) is not int and type(value) is not float:
            raise ValueError(f"{type(value).__name__} where others have numbers")
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("not finite")
        return number


class _TextBuilder(_Builder):
    kind, code_of = "text", "i"

    def encoded(self, value: object) -> int:
        return self.code(value)


class _FlagBuilder(_Builder):
    kind, code_of, dtype = "flag", "b", np.int8

    def encoded(self, value: object) -> int:
        if not isinstance(value, bool):
            raise ValueError(f"{type(value).__name__} where others have true or false")
        return int(value)


class _TagsBuilder(_Builder):
    """`values` holds the codes of all the lists, one after the other, `lengths` how many each has."""

    kind, code_of = "tags", "i"

    def __init__(self, n_items: int) -> None:
        super().__init__(n_items)
        self.lengths = array("i")

    def add(self, row: int, value: object) -> None:
        if not isinstance(value, list):
            raise ValueError(f"{type(value).__name__} where others have lists")
        if len(value) > MAX_TAGS:
            raise ValueError(f"more than {MAX_TAGS} tags")
        self.rows.append(row)
        self.lengths.append(len(value))
        self.values.extend([self.code(text) for text in value])

    def arrays(self) -> tuple[bytes, bytes | None]:
        rows, lengths, values = (np.frombuffer(each, np.int32) for each in (self.rows, self.lengths, self.values))
        counts = np.zeros(self.n_items + 1, np.int64)
        counts[rows + 1] = lengths
        order = np.repeat(rows, lengths).argsort(kind="stable")
        return values[order].tobytes(), np.cumsum(counts).tobytes()


_BUILDERS: dict[type, Callable[[int], _Builder]] = {
    int: _NumberBuilder,
    float: _NumberBuilder,
    str: _TextBuilder,
    bool: _FlagBuilder,
    list: _TagsBuilder,
}
