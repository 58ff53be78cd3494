"""From raw fields to clean events. Whatever is dropped, merged, sorted or odd is counted in a `Finding`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edgerec.errors import DataError
from edgerec_tools.datasets import columns
from edgerec_tools.datasets.report import MAX_EXAMPLES, Example, Finding

if TYPE_CHECKING:
    import polars as pl

    from edgerec_tools.datasets.readers import RawTable

_UNITS = (("seconds", 1e11, 1.0), ("milliseconds", 1e14, 1e3), ("microseconds", 1e17, 1e6), ("nanoseconds", 1e20, 1e9))
"""Unit, what timestamps of this century stay below in it, units per second."""
_DOTTED = ("%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S")
_DECIMAL_COMMA = r"^[+-]?\d+,\d{1,2}$"
_OPTIONAL_NUMBERS = ("value", "price")
_IDS = ("user", "item", "group", "kind")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """`events` as `assemble` takes them, in the order of the file; `baskets` says what makes one."""

    events: pl.DataFrame
    timestamps: str
    findings: tuple[Finding, ...]
    users_below: int = 0
    items_below: int = 0
    baskets: str = ""


def clean(raw: RawTable, now: float, kind: str | None = None, min_user: int = 1, min_item: int = 1) -> Cleaned:
    """Parses, merges duplicates and applies the thresholds.

    `now`: POSIX seconds, later timestamps count as future. `kind`: the events' kind where no column tells; None:
    by the value column (quantities are purchases, ratings are ratings, else click). `min_user`: least events of a
    user, `min_item`: least baskets of an item; applied in turn until both hold. Raises DataError where nothing is left.
    """
    parsed, timestamps, unparseable = _parse(raw.frame)
    values = columns.normal(raw.header.get("value", ""))
    is_quantity = values in columns.QUANTITIES or (
        kind == "purchase" and bool(values) and values not in columns.RATINGS
    )
    findings = [unparseable]
    if is_quantity:
        parsed, finding = _positive_quantities(parsed)
        findings.append(finding)
    if "kind" not in parsed.columns:
        parsed = _with_kind(parsed, kind or _kind_of(raw.header))
    parsed, merged = _without_duplicates(parsed, is_quantity)
    findings += [merged, _out_of_order(parsed), _in_the_future(parsed, now)]
    parsed, baskets = _baskets(parsed, raw.header)
    kept, users_below, items_below = _thresholds(parsed, min_user, min_item)
    findings.append(Finding("users or items below the threshold", parsed.height - kept.height, "dropped"))
    if kept.height == 0:
        raise _nothing_left([*raw.findings, *findings])
    return Cleaned(kept.drop("line"), timestamps, tuple(findings), users_below, items_below, baskets)


def _nothing_left(findings: list[Finding]) -> DataError:
    """Names what took most of the rows."""
    worst = max((each for each in findings if each.action == "dropped"), key=lambda each: each.rows)
    first = f" (line {worst.examples[0].line}: {worst.examples[0].reason})" if worst.examples else ""
    told = f": {worst.rows:,} {worst.name}{first}" if worst.rows else ""
    return DataError(
        f"no row is left after cleaning{told}", hint="look at the columns, the timestamps and the thresholds"
    )


def _baskets(events: pl.DataFrame, header: Mapping[str, str]) -> tuple[pl.DataFrame, str]:
    """With a `group` where no column names one but users bought several items at one time; and what makes a basket."""
    import polars as pl

    if "group" in events.columns:
        return events, f"by {header.get('group', 'group')}"
    bought = events.height > 0 and (events["kind"] == "purchase").all()
    if not bought or not events.select(pl.struct("user", "at").is_duplicated().any()).item():
        return events, "every event is one"
    return events.with_columns(group=pl.col("at").cast(pl.String)), "what a user bought at one time"


def _parse(frame: pl.DataFrame) -> tuple[pl.DataFrame, str, Finding]:
    import polars as pl

    frame = frame.with_columns(
        pl.col(name).str.strip_chars() for name, dtype in frame.schema.items() if dtype == pl.String
    )
    at, timestamps = _timestamps(frame["timestamp"])
    parsed = frame.with_columns(at.alias("at"))
    reasons = [pl.when(_empty(name)).then(pl.lit(f"{name} is empty")) for name in _IDS if name in frame.columns]
    reasons += [pl.when(_empty("timestamp")).then(pl.lit("timestamp is empty"))]
    reasons += [pl.when(pl.col("at").is_null()).then(_quoted("timestamp", "neither a number nor ISO 8601"))]
    for name in _OPTIONAL_NUMBERS:
        if name in frame.columns:
            number = _plain_number(frame, name).cast(pl.Float64, strict=False)
            number = pl.when(number.is_finite()).then(number)
            parsed = parsed.with_columns(number.alias(f"{name} number"))
            bad = pl.col(f"{name} number").is_null() & ~_empty(name)
            reasons.append(pl.when(bad).then(_quoted(name, "not a finite number")))
        elif name == "value":
            parsed = parsed.with_columns(pl.lit(None, pl.Float64).alias("value number"))
    parsed = parsed.with_columns(pl.coalesce(reasons).alias("reason"))
    wrong = parsed.filter(pl.col("reason").is_not_null())
    examples = _examples(wrong, wrong["reason"].head(MAX_EXAMPLES).to_list())
    good = parsed.filter(pl.col("reason").is_null())
    numbers = [pl.col(name).alias(name.removesuffix(" number")) for name in parsed.columns if name.endswith(" number")]
    good = good.with_columns(numbers).drop("timestamp", "reason", *(n for n in parsed.columns if n.endswith(" number")))
    return good, timestamps, Finding("unparseable", wrong.height, "dropped", examples)


def _empty(name: str) -> pl.Expr:
    import polars as pl

    return pl.col(name).is_null() | (pl.col(name).cast(pl.String) == "")


def _plain_number(frame: pl.DataFrame, name: str) -> pl.Expr:
    """The column, its decimal commas made points where every comma in it is one: 1,234 is left alone."""
    import polars as pl

    column = pl.col(name)
    if frame.schema[name] != pl.String:
        return column
    commas = frame[name].filter(frame[name].str.contains(",", literal=True))
    return column.str.replace(",", ".", literal=True) if commas.str.contains(_DECIMAL_COMMA).all() else column


def _quoted(name: str, complaint: str) -> pl.Expr:
    import polars as pl

    return pl.format(f"{name} '{{}}' is {complaint}", pl.col(name).cast(pl.String).str.slice(0, 40))


def _timestamps(raw: pl.Series) -> tuple[pl.Series, str]:
    """float64 POSIX seconds UTC, null where unreadable, and how they were read: the unit is the whole column's."""
    import polars as pl

    numbers = raw.cast(pl.Float64, strict=False)
    numbers = pl.select(pl.when(numbers.is_finite()).then(numbers)).to_series()
    typical = numbers.abs().median()
    dates, form = _dates(raw.filter(numbers.is_null())) if raw.dtype == pl.String else ({}, "")
    unit, _, per_second = next((u for u in _UNITS if u[1] > float(typical or 0.0)), _UNITS[-1])  # type: ignore[arg-type]
    seconds = numbers / per_second
    if not dates:
        return seconds, unit
    parsed = raw.replace_strict(list(dates), list(dates.values()), default=None, return_dtype=pl.Float64)
    how = form if typical is None else f"{unit} and {form}"
    return pl.select(pl.coalesce(seconds, parsed)).to_series(), how


def _dates(raw: pl.Series) -> tuple[dict[str, float], str]:
    """POSIX seconds by text, for every text that is a date, and their form; without an offset a date is UTC."""
    found, forms = {}, set()
    for text in raw.drop_nulls().unique().to_list():
        date, form = _date(text)
        if date is not None:
            found[text] = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
            forms.add(form)
    return found, " and ".join(sorted(forms))


def _date(text: str) -> tuple[datetime | None, str]:
    try:
        return datetime.fromisoformat(text), "ISO 8601"
    except ValueError:
        pass
    for form in _DOTTED:  # with points the day always comes first; with slashes nobody knows
        try:
            return datetime.strptime(text, form), "day.month.year"
        except ValueError:
            continue
    return None, ""


def _positive_quantities(events: pl.DataFrame) -> tuple[pl.DataFrame, Finding]:
    """Without returns and cancellations, which a table of quantities states as 0 or less."""
    import polars as pl

    wrong = events.filter(pl.col("value") <= 0)
    reasons = [f"quantity {value:g}" for value in wrong["value"].head(MAX_EXAMPLES).to_list()]
    kept = events.filter((pl.col("value") > 0) | pl.col("value").is_null())
    return kept, Finding("quantity not above 0", wrong.height, "dropped", _examples(wrong, reasons))


def _kind_of(header: Mapping[str, str]) -> str:
    value = columns.normal(header.get("value", ""))
    if value in columns.QUANTITIES:
        return "purchase"
    return "rating" if value in columns.RATINGS else "click"


def _with_kind(events: pl.DataFrame, kind: str) -> pl.DataFrame:
    import polars as pl

    return events.with_columns(pl.lit(kind).alias("kind"))


def _without_duplicates(events: pl.DataFrame, add_up: bool) -> tuple[pl.DataFrame, Finding]:
    """One row per user, item, time, kind and group: quantities add up, of other values the last one stays."""
    import polars as pl

    key = [name for name in ("user", "item", "at", "kind", "group") if name in events.columns]
    repeated = events.filter(~pl.struct(key).is_first_distinct())
    first_lines = events.select(*key, pl.col("line").min().over(key).alias("first")).unique(key, keep="first")
    firsts = repeated.head(MAX_EXAMPLES).join(first_lines, on=key, how="left", maintain_order="left")["first"].to_list()
    if add_up:
        total = pl.col("value").sum().over(key)
        events = events.with_columns(
            pl.when(pl.len().over(key) > 1).then(total).otherwise(pl.col("value")).alias("value")
        )
    kept = events.unique(key, keep="last", maintain_order=True)
    name = "duplicates, quantities added up" if add_up else "duplicates, the last one taken"
    examples = _examples(repeated, [f"same user, item and time as line {line}" for line in firsts])
    return kept, Finding(name, repeated.height, "merged", examples)


def _out_of_order(events: pl.DataFrame) -> Finding:
    import polars as pl

    late = events.filter(pl.col("at") < pl.col("at").shift(1).over("user"))
    return Finding(
        "timestamps out of order", late.height, "sorted", _examples(late, "earlier than the user's row before")
    )


def _in_the_future(events: pl.DataFrame, now: float) -> Finding:
    import polars as pl

    ahead = events.filter(pl.col("at") > now)
    reasons = [f"{_iso(value)} is ahead of the clock" for value in ahead["at"].head(MAX_EXAMPLES)]
    return Finding("timestamps in the future", ahead.height, "kept", _examples(ahead, reasons))


def _iso(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # beyond the year 9999
        return f"{at:.0f} seconds since 1970"


def _thresholds(events: pl.DataFrame, min_user: int, min_item: int) -> tuple[pl.DataFrame, int, int]:
    """Returns the rows kept, and how many users and items went."""
    import polars as pl

    baskets = pl.struct("user", "group").n_unique() if "group" in events.columns else pl.len()
    kept, height = events, -1
    while kept.height != height:
        height = kept.height
        kept = kept.filter(baskets.over("item") >= min_item) if min_item > 1 else kept
        kept = kept.filter(pl.len().over("user") >= min_user) if min_user > 1 else kept
    gone = [events[name].n_unique() - kept[name].n_unique() for name in ("user", "item")]
    return kept, gone[0], gone[1]


def _examples(rows: pl.DataFrame, reasons: Any) -> tuple[Example, ...]:
    """The first rows as examples: one reason for all, or one each."""
    lines = rows["line"].head(MAX_EXAMPLES).to_list()
    each = [reasons] * len(lines) if isinstance(reasons, str) else reasons
    return tuple(Example(line, reason) for line, reason in zip(lines, each, strict=True))
