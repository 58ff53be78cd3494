"""From clean event rows to a `Dataset`: numbers users, items and baskets in the one order every part relies on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerec_tools.datasets.dataset import Attribute, Dataset

if TYPE_CHECKING:
    import polars as pl


def assemble(
    name: str,
    events: pl.DataFrame,
    titles: Mapping[str, str] | None = None,
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
    timed: bool = True,
) -> Dataset:
    """Sorts and numbers `events`.

    `events` has the columns `user`, `item`, `kind` (strings), `at` (float POSIX seconds), `value` (float, null
    where there is none) and may have `group`, `country`, `title` (strings) and `price` (float). `titles` and
    `attributes` (name → item id → value) go by item id; without `titles` the item's most frequent `title` is
    taken, or its id. With prices, the attribute `price` is the item's median price.
    """
    import polars as pl

    grouped = "group" in events.columns
    events = _sorted(events, grouped)
    users = events["user"].unique(maintain_order=True)
    items = events["item"].unique().sort()
    kinds = events["kind"].unique(maintain_order=True)
    basket = pl.struct("user", "group").rle_id() if grouped else pl.int_range(pl.len())
    events = events.with_columns(basket=basket)
    firsts = events.unique("basket", keep="first", maintain_order=True)
    ids = items.to_list()
    found = titles if titles is not None else _frequent_titles(events)
    return Dataset(
        name=name,
        users=tuple(users.to_list()),
        items=tuple(ids),
        titles=tuple(found.get(item, item) for item in ids),
        kinds=tuple(kinds.to_list()),
        user=_rows(events["user"], users).astype(np.int32),
        item=_rows(events["item"], items).astype(np.int32),
        at=events["at"].to_numpy().astype(np.float64),
        kind=_rows(events["kind"], kinds).astype(np.int16),
        value=_floats(events["value"]),
        group=events["basket"].to_numpy().astype(np.int64),
        group_ids=tuple(firsts["group"].to_list()) if grouped else (),
        price=_floats(events["price"]) if "price" in events.columns else None,
        country=tuple(firsts["country"].fill_null("").to_list()) if "country" in events.columns else (),
        attributes=_median_prices(events, ids) | _by_item(attributes or {}, ids),
        timed=timed,
    )


def _sorted(events: pl.DataFrame, grouped: bool) -> pl.DataFrame:
    import polars as pl

    if not grouped:
        # Ties keep the source's order. Sorted by item id they would say what comes next: MovieLens has half of its
        # ratings tied, its ids are titles by the alphabet or low for the popular.
        return events.sort("at", "user", maintain_order=True)
    begins = pl.col("at").min().over("user", "group").alias("begins")
    return events.with_columns(begins).sort("begins", "group", "user", "at", "item", maintain_order=True)


def _rows(values: pl.Series, ids: pl.Series) -> Any:
    """The place of each value in `ids`, all of which are distinct."""
    import polars as pl

    places = pl.DataFrame({"id": ids, "row": np.arange(len(ids))})
    joined = pl.DataFrame({"id": values}).join(places, on="id", how="left", maintain_order="left")
    return joined["row"].to_numpy()


def _floats(values: pl.Series) -> Any:
    return values.fill_null(float("nan")).to_numpy().astype(np.float32)


def _frequent_titles(events: pl.DataFrame) -> dict[str, str]:
    """Per item the most frequent title; ties by alphabet."""
    import polars as pl

    if "title" not in events.columns:
        return {}
    counts = events.filter(pl.col("title").str.len_chars() > 0).group_by("item", "title").len()
    best = counts.sort("item", "len", "title", descending=[False, True, False]).unique("item", keep="first")
    return dict(best.select("item", "title").iter_rows())


def _median_prices(events: pl.DataFrame, ids: list[str]) -> dict[str, Attribute]:
    import polars as pl

    if "price" not in events.columns:
        return {}
    medians = dict(events.group_by("item").agg(pl.col("price").median()).iter_rows())
    return {"price": tuple(_number(medians[item]) for item in ids)}


def _by_item(attributes: Mapping[str, Mapping[str, Any]], ids: list[str]) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {}
    for name, values in attributes.items():
        text = all(isinstance(value, str) for value in values.values())
        if text:
            found[name] = tuple(str(values.get(item, "")) for item in ids)
        else:
            found[name] = tuple(_number(values.get(item)) for item in ids)
    return found


def _number(value: float | None) -> float:
    return float("nan") if value is None else round(float(value), 6)
