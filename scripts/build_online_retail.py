"""Builds the vendored Online Retail data set from the raw table.

    python scripts/build_online_retail.py online_retail.csv.xz [--out FILE] [--sha256 HEX]

The raw table is the UCI spreadsheet as UTF-8 CSV with the columns InvoiceNo, StockCode, Description, Quantity,
InvoiceDate (YYYY-MM-DD HH:MM:SS, read as UTC), UnitPrice, CustomerID, Country; plain or xz-compressed. The digest
is that of the CSV itself. Rules: rows without a customer, cancellations (InvoiceNo C...) and quantities <= 0 are
dropped; lines of one invoice, time and customer form a basket; items in fewer than 5 baskets are dropped. Lines of
one item in one basket become one event: quantities add up, the price is their mean weighted by quantity.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import lzma
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from edgerec.errors import DataError
from edgerec_tools.datasets.assemble import assemble
from edgerec_tools.datasets.dataset import Dataset
from edgerec_tools.datasets.storage import summary, write

SHA256 = "c35975c40d0e1e105090fbb11188a409393055f873841bd012915475fc84e69f"
OUT = Path(__file__).parents[1] / "tools/edgerec_tools/datasets/online_retail/online_retail.dataset"
MIN_BASKETS = 5

BasketKey = tuple[float, str, str]  # POSIX seconds, invoice, customer


def read_raw(path: Path, sha256: str) -> bytes:
    """The CSV's bytes, verified."""
    raw = path.read_bytes()
    if raw.startswith(b"\xfd7zXZ"):
        raw = lzma.decompress(raw)
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise DataError(f"{path}: sha256 of the CSV is {found}, expected {sha256}")
    return raw


def purchases(raw: bytes) -> Iterator[tuple[BasketKey, Mapping[str, str]]]:
    """The lines that are purchases of a known customer."""
    for row in csv.DictReader(io.StringIO(raw.decode("utf-8"), newline="")):
        if row["CustomerID"] and not row["InvoiceNo"].startswith("C") and float(row["Quantity"]) > 0:
            when = datetime.fromisoformat(row["InvoiceDate"]).replace(tzinfo=UTC).timestamp()
            yield (when, row["InvoiceNo"], row["CustomerID"].removesuffix(".0")), row


def basket_ids(keys: Iterator[BasketKey]) -> dict[BasketKey, str]:
    """The invoice; its second basket (some invoices carry two times) gets the suffix -2, and so on."""
    seen: Counter[str] = Counter()
    ids = {}
    for key in keys:
        seen[key[1]] += 1
        ids[key] = key[1] if seen[key[1]] == 1 else f"{key[1]}-{seen[key[1]]}"
    return ids


def build(raw: bytes) -> Dataset:
    """The cleaned data set."""
    quantity: defaultdict[tuple[BasketKey, str], float] = defaultdict(float)
    cost: defaultdict[tuple[BasketKey, str], float] = defaultdict(float)
    titles: defaultdict[str, Counter[str]] = defaultdict(Counter)
    country = {}
    for basket, row in purchases(raw):
        line, count = (basket, row["StockCode"]), float(row["Quantity"])
        quantity[line] += count
        cost[line] += count * float(row["UnitPrice"])
        titles[row["StockCode"]][" ".join(row["Description"].split())] += 1
        country[basket] = row["Country"]
    baskets_of = Counter(item for _, item in quantity)
    kept = [line for line in quantity if baskets_of[line[1]] >= MIN_BASKETS]
    ids = basket_ids(iter(sorted(country)))
    events = pl.DataFrame(
        {
            "user": [basket[2] for basket, _ in kept],
            "item": [item for _, item in kept],
            "at": [basket[0] for basket, _ in kept],
            "kind": ["purchase"] * len(kept),
            "value": [quantity[line] for line in kept],
            "price": [round(cost[line] / quantity[line], 3) for line in kept],
            "group": [ids[basket] for basket, _ in kept],
            "country": [country[basket] for basket, _ in kept],
        }
    )
    best = {item: min(counts, key=lambda text: (-counts[text], text)) for item, counts in titles.items()}
    return assemble("retail", events, titles=best)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the vendored Online Retail data set from the raw table.")
    parser.add_argument("raw", type=Path, help="the raw table as CSV, plain or xz-compressed")
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write (default: the vendored one)")
    parser.add_argument("--sha256", default=SHA256, help="expected sha256 of the CSV")
    options = parser.parse_args()
    try:
        dataset = build(read_raw(options.raw, options.sha256))
    except (OSError, DataError) as error:
        print(error, file=sys.stderr)
        return 1
    size = write(dataset, options.out)
    print(f"{options.out}: {size} bytes, {summary(dataset)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
