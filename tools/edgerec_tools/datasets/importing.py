"""From a user's file to a `Dataset` and the report of what was cleaned."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerec.errors import DataError
from edgerec_tools.datasets.assemble import assemble
from edgerec_tools.datasets.cleaning import clean
from edgerec_tools.datasets.columns import ATTRIBUTE
from edgerec_tools.datasets.dataset import Dataset
from edgerec_tools.datasets.readers import FORMATS, Progress, read_raw
from edgerec_tools.datasets.report import CleaningReport
from edgerec_tools.datasets.storage import summary

if TYPE_CHECKING:
    import polars as pl


def import_file(
    path: str | Path,
    *,
    name: str | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    attributes: Sequence[str] = (),
    kind: str | None = None,
    min_user: int = 1,
    min_item: int = 1,
    clock: Callable[[], float] = time.time,
    progress: Progress | None = None,
) -> tuple[Dataset, CleaningReport]:
    """Reads, cleans and numbers a file of interactions.

    `format`: csv, tsv, parquet or sequence, None: found out · `columns`: role (user, item, timestamp, value, group,
    kind, title, price, country) → header, where the names do not tell · `attributes`: headers of columns that
    describe items; an item gets the median where all are numbers, else the most frequent text · `kind`: of all
    events, where no column tells · `min_user`: least events of a user · `min_item`: least baskets of an item ·
    `clock`: POSIX seconds, what is later counts as future · `progress`: called with the bytes read and their total.
    Raises DataError where the file cannot be read, lacks a needed column, or nothing is left.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise DataError(f"unknown format '{format}'", hint=f"there are {', '.join(FORMATS)}")
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    raw = read_raw(path, format, columns, progress, attributes)
    cleaned = clean(raw, clock(), kind, min_user, min_item)
    described = {each: _described(cleaned.events, each) for each in attributes}
    dataset = assemble(name or stem(path), cleaned.events, attributes=described, timed=raw.timed)
    report = CleaningReport(
        source=path.name,
        format=raw.format,
        columns=dict(raw.header),
        ignored=raw.ignored,
        timestamps=cleaned.timestamps if raw.timed else "none; the order of the items",
        rows_in=raw.rows_in,
        rows_out=dataset.n_events,
        findings=tuple(finding for finding in (*raw.findings, *cleaned.findings) if finding.rows),
        users_below=cleaned.users_below,
        items_below=cleaned.items_below,
        summary=summary(dataset),
        baskets=cleaned.baskets,
    )
    return dataset, report


def _described(events: pl.DataFrame, name: str) -> dict[str, Any]:
    """Item → the attribute's value; without the items that have none."""
    import polars as pl

    told = events.select("item", value=ATTRIBUTE + name).filter(pl.col("value").str.len_chars() > 0)
    numbers = told.with_columns(pl.col("value").cast(pl.Float64, strict=False))
    if numbers["value"].is_finite().fill_null(False).all():
        return dict(numbers.group_by("item").agg(pl.col("value").median()).iter_rows())
    counts = told.group_by("item", "value").len().sort("item", "len", "value", descending=[False, True, False])
    return dict(counts.unique("item", keep="first").select("item", "value").iter_rows())


def stem(path: Path) -> str:
    """The file's name without its endings: `retail.csv.xz` → `retail`."""
    return path.name.split(".")[0] or path.name
