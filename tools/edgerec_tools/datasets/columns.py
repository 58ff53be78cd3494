"""Which column of a table holds what: header aliases, `name:type` headers, and headerless tables of numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edgerec.errors import DataError

ALIASES: Mapping[str, tuple[str, ...]] = {
    "user": ("user", "userid", "uid", "customer", "customerid", "custid", "client", "clientid", "visitor", "visitorid",
             "member", "memberid", "reviewer", "reviewerid"),
    "item": ("item", "itemid", "iid", "product", "productid", "stockcode", "sku", "asin", "movie", "movieid", "article",
             "articleid", "track", "trackid", "song", "songid", "book", "bookid"),
    "timestamp": ("timestamp", "at", "ts", "time", "datetime", "date", "eventtime", "createdat", "unixreviewtime",
                  "reviewtime", "invoicedate", "orderdate"),
    "value": ("value", "rating", "score", "stars", "overall", "quantity", "qty"),
    "group": ("group", "groupid", "basket", "basketid", "invoice", "invoiceno", "order", "orderid", "session",
              "sessionid", "transaction", "transactionid"),
    "kind": ("kind", "event", "eventtype", "eventkind", "action", "behavior", "behaviour", "interaction", "type"),
    "title": ("title", "itemtitle", "itemname", "productname", "description", "movietitle", "name"),
    "price": ("price", "unitprice", "itemprice"),
    "country": ("country",),
}  # fmt: skip
"""Role → header names, best first, lower case, letters and digits only."""
ATTRIBUTE = "attribute "
"""Begins the name of a column that describes items."""
NEEDED = ("user", "item", "timestamp")
QUANTITIES = frozenset({"quantity", "qty"})
RATINGS = frozenset({"rating", "score", "stars", "overall"})
_EARLIEST_TIMESTAMP = 1e8  # 1973; ratings and counts stay below


def normal(header: str) -> str:
    """`Customer ID` → `customerid`; a type after a colon (`user_id:token`) is cut off."""
    return re.sub(r"[^a-z0-9]", "", header.partition(":")[0].lower())


def roles(header: Sequence[str], chosen: Mapping[str, str] | None = None) -> dict[str, int]:
    """Role → column number, from the header and from `chosen` (role → header name), which goes first.

    Raises DataError where `chosen` names a column that is absent or an unknown role.
    """
    names = [normal(name) for name in header]
    found: dict[str, int] = {}
    for role, name in (chosen or {}).items():
        if role not in ALIASES:
            raise DataError(f"unknown column role '{role}'", hint=f"roles are {', '.join(ALIASES)}")
        if name not in header:
            raise DataError(f"there is no column '{name}'", hint=f"found {_listed(header)}")
        found[role] = list(header).index(name)
    for role, aliases in ALIASES.items():
        places = [names.index(alias) for alias in aliases if alias in names]
        free = [place for place in places if place not in found.values()]
        if role not in found and free:
            found[role] = free[0]
    return found


def described(header: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """`ATTRIBUTE` + name → column number, of columns that describe items. Raises DataError where one is absent."""
    for name in names:
        if name not in header:
            raise DataError(f"there is no column '{name}'", hint=f"found {_listed(header)}")
    return {ATTRIBUTE + name: list(header).index(name) for name in names}


def require(header: Sequence[str], found: Mapping[str, int]) -> None:
    """Raises DataError, saying what is there and what is needed, unless every needed role has a column."""
    missing = [role for role in NEEDED if role not in found]
    if missing:
        examples = "; ".join(f"{role}: {', '.join(ALIASES[role][:4])} …" for role in missing)
        raise DataError(
            f"no column for {_listed(missing)}; found {_listed(header)}, needed {_listed(NEEDED)}",
            hint=f"rename the columns ({examples}) or name them with --columns user=NAME,item=NAME,timestamp=NAME",
        )


def has_header(first: Sequence[str]) -> bool:
    """Whether a table's first row is a header: it names a user or an item column, or holds no number and no date."""
    return bool({"user", "item"} & roles(first).keys()) or not any(_is_number(f) or _is_timestamp(f) for f in first)


def positional(first: Sequence[str]) -> list[str]:
    """Header of a table without one, by its first row: user, item, [value,] timestamp. Raises DataError otherwise."""
    names = {3: ["user", "item", "timestamp"], 4: ["user", "item", "rating", "timestamp"]}.get(len(first))
    if names is None or not _is_timestamp(first[-1]):
        raise DataError(
            f"the table has no header and its first row, {_listed(first)}, is not user, item, [rating,] timestamp",
            hint="add a header row with user, item and timestamp",
        )
    return names


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _is_timestamp(field: str) -> bool:
    return float(field) >= _EARLIEST_TIMESTAMP if _is_number(field) else bool(re.match(r"\d{4}-\d\d-\d\d", field))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name[:40]}'" for name in names[:20])
    return shown + (f" … ({len(names)} in all)" if len(names) > 20 else "") if names else "nothing"
