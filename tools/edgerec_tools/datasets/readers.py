"""From a file to a frame of raw fields per role, with line numbers: delimited text, Parquet, item sequences.

Rows that have the wrong shape are reported here; what their fields mean is `cleaning`'s affair.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgerec.errors import DataError
from edgerec_tools.datasets import columns
from edgerec_tools.datasets.report import MAX_EXAMPLES, Example, Finding

if TYPE_CHECKING:
    import polars as pl

FORMATS = ("csv", "tsv", "parquet", "sequence")
Progress = Callable[[int, int], None]
_OPENERS: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_BY_SUFFIX = {".csv": "csv", ".tsv": "tsv", ".inter": "tsv", ".item": "tsv", ".parquet": "parquet", ".pq": "parquet"}
_CHUNK = 200_000
_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class RawTable:
    """`frame`: `line` and one column per role, strings unless the file is typed; `header` role → its name."""

    frame: pl.DataFrame
    format: str
    header: Mapping[str, str]
    ignored: tuple[str, ...]
    rows_in: int
    findings: tuple[Finding, ...]
    timed: bool = True


def read_raw(
    path: Path,
    format: str | None = None,
    chosen: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    attributes: Sequence[str] = (),
) -> RawTable:
    """Reads `path` in `format` (one of `FORMATS`; None: found out). Raises DataError where it cannot be.

    `attributes`: headers of columns that describe items; the frame has them as `columns.ATTRIBUTE` + header.
    """
    try:
        kind = format or detect_format(path)
        if kind == "parquet":
            return _read_parquet(path, chosen, attributes)
        with _open_text(path, progress) as lines:
            if kind == "sequence":
                return _read_sequences(lines)
            return _read_delimited(lines, kind, chosen, attributes)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def detect_format(path: Path) -> str:
    """By the file's name, else by its first line: a table has a separator other than blanks."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _OPENERS]
    if suffixes and suffixes[-1] in _BY_SUFFIX:
        return _BY_SUFFIX[suffixes[-1]]
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return "parquet"
    with _open_text(path) as lines:
        first = next(iter(lines), "")
    if "\t" in first:
        return "tsv"
    return "csv" if re.search(r"[,;|]|::", first) else "sequence"


class _Counted(io.RawIOBase):
    """A file that tells how far it was read, compressed bytes counted."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.file, self.progress, self.total = path.open("rb"), progress, path.stat().st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)
        self.progress(self.file.tell(), self.total)
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


@contextmanager
def _open_text(path: Path, progress: Progress | None = None) -> Iterator[IO[str]]:
    """Text without a byte-order mark; bytes that are not UTF-8 become lone surrogates, see `_latin`."""
    with ExitStack() as stack:
        raw: Any = path.open("rb") if progress is None else io.BufferedReader(_Counted(path, progress), 1 << 18)
        stack.enter_context(raw)
        opener = _OPENERS.get(path.suffix.lower())
        raw = raw if opener is None else stack.enter_context(opener(raw))
        yield stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline=""))


def _read_delimited(
    lines: Iterable[str], kind: str, chosen: Mapping[str, str] | None, attributes: Sequence[str]
) -> RawTable:
    shape = _Shape()
    rows = _rows(iter(lines), kind, shape)
    first = next(rows, None)
    if first is None:
        raise DataError("the file is empty")
    headed = chosen is not None or columns.has_header(first[1])
    header = first[1] if headed else columns.positional(first[1])
    found = columns.roles(header, chosen)
    columns.require(header, found)
    found |= columns.described(header, attributes)
    body = rows if headed else chain([first], rows)
    frame = _collect(body, len(header), found, shape)
    names = {role: header[place] for role, place in found.items()}
    ignored = tuple(name for place, name in enumerate(header) if place not in found.values())
    return RawTable(frame, kind, names, ignored, shape.rows_in, shape.findings())


class _Shape:
    """Counts of rows and of those with a wrong shape."""

    def __init__(self) -> None:
        self.rows_in = self.blank = self.latin = self.wrong = 0
        self.examples: dict[str, list[Example]] = {"blank": [], "latin": [], "wrong": []}

    def note(self, name: str, line: int, reason: str) -> None:
        setattr(self, name, getattr(self, name) + 1)
        if len(self.examples[name]) < MAX_EXAMPLES:
            self.examples[name].append(Example(line, reason))

    def findings(self) -> tuple[Finding, ...]:
        return (
            Finding("blank lines", self.blank, "dropped", tuple(self.examples["blank"])),
            Finding("wrong number of fields", self.wrong, "dropped", tuple(self.examples["wrong"])),
            Finding("not UTF-8, read as Latin-1", self.latin, "kept", tuple(self.examples["latin"])),
        )


def _rows(lines: Iterator[str], kind: str, shape: _Shape) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields per row. Tab-separated files are taken to quote nothing but whole fields."""
    if kind == "tsv":
        yield from (
            (n, [_unquoted(field) for field in line.rstrip("\r\n").split("\t")]) for n, line in _numbered(lines)
        )
        return
    first = next(lines, None)
    if first is None:
        return
    if "::" in first:
        yield from ((n, line.rstrip("\r\n").split("::")) for n, line in _numbered(chain([first], lines)))
        return
    delimiter = max(",;|\t", key=first.count)
    reader = csv.reader(chain([first], lines), delimiter=delimiter)
    try:
        for fields in reader:
            yield reader.line_num, fields or [""]
    except csv.Error as error:
        raise DataError(f"line {reader.line_num}: {error}", hint="is a quotation mark left open?") from error


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    return enumerate(lines, start=1)


def _unquoted(field: str) -> str:
    if len(field) >= 2 and field[0] == field[-1] == '"':
        return field[1:-1].replace('""', '"')
    return field


def _collect(
    rows: Iterable[tuple[int, list[str]]], width: int, found: Mapping[str, int], shape: _Shape
) -> pl.DataFrame:
    import polars as pl

    schema = {role: pl.String for role in found}
    pick = itemgetter(*found.values())
    chunks = [pl.DataFrame(schema=schema)]
    numbers: list[int] = []
    kept: list[Sequence[str]] = []
    for line, fields in rows:
        shape.rows_in += 1
        if not any(fields):
            shape.note("blank", line, "nothing on this line")
        elif len(fields) != width:
            shape.note("wrong", line, f"{len(fields)} fields where the header has {width}")
        else:
            kept.append(_latin(pick(fields), line, shape))
            numbers.append(line)
        if len(kept) == _CHUNK:
            chunks.append(pl.DataFrame(kept, schema=schema, orient="row"))
            kept = []
    chunks.append(pl.DataFrame(kept, schema=schema, orient="row"))
    return pl.concat(chunks).with_columns(pl.Series("line", numbers, pl.Int64))


def _latin(fields: Sequence[str], line: int, shape: _Shape) -> Sequence[str]:
    """Fields whose bytes were not UTF-8, read as Latin-1 instead."""
    text = "".join(fields)
    if text.isascii():
        return fields
    try:
        text.encode()
    except UnicodeEncodeError:
        fields = [_redecoded(field) for field in fields]
        shape.note("latin", line, " | ".join(fields)[:80])
    return fields


def _redecoded(field: str) -> str:
    try:
        field.encode()
    except UnicodeEncodeError:
        return field.encode("utf-8", "surrogateescape").decode("latin-1")
    return field


def _read_sequences(lines: Iterable[str]) -> RawTable:
    """`user item item …`: the k-th item of a user gets the time of k days, because an order is all there is."""
    import polars as pl

    users: list[str] = []
    items: list[str] = []
    numbers: list[int] = []
    at: list[float] = []
    lengths: dict[str, int] = {}
    shape = _Shape()
    for line, text in _numbered(lines):
        user, *sequence = _latin(text.split(), line, shape) or [""]
        if not sequence:
            shape.rows_in += 1
            shape.note("wrong" if user else "blank", line, "a user without items" if user else "nothing on this line")
        start = lengths.get(user, 0)
        lengths[user] = start + len(sequence)
        users += [user] * len(sequence)
        items += sequence
        numbers += [line] * len(sequence)
        at += [_DAY * place for place in range(start, start + len(sequence))]
    frame = pl.DataFrame({"line": numbers, "user": users, "item": items, "timestamp": at})
    header = {"user": "first field", "item": "further fields", "timestamp": "place in the line"}
    return RawTable(frame, "sequence", header, (), shape.rows_in + len(items), shape.findings(), timed=False)


def _read_parquet(path: Path, chosen: Mapping[str, str] | None, attributes: Sequence[str]) -> RawTable:
    import polars as pl

    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"cannot read {path} as Parquet: {error}") from error
    found = columns.roles(table.columns, chosen)
    columns.require(table.columns, found)
    found |= columns.described(table.columns, attributes)
    taken = {role: _typed(table.to_series(place), role) for role, place in found.items()}
    frame = pl.DataFrame({"line": pl.int_range(1, table.height + 1, eager=True), **taken})
    names = {role: table.columns[place] for role, place in found.items()}
    ignored = tuple(name for place, name in enumerate(table.columns) if place not in found.values())
    return RawTable(frame, "parquet", names, ignored, table.height, _Shape().findings())


def _typed(values: pl.Series, role: str) -> pl.Series:
    """Times and numbers keep their type; ids become strings, whole floats without `.0`."""
    import polars as pl

    if role == "timestamp" and values.dtype in (pl.Datetime, pl.Date):
        return values.dt.epoch("us").cast(pl.Float64) / 1e6
    if role in ("timestamp", "value", "price") and values.dtype.is_numeric():
        return values.cast(pl.Float64)
    if values.dtype.is_float() and (values.drop_nulls() % 1 == 0).all():
        values = values.cast(pl.Int64)
    return values.cast(pl.String)
