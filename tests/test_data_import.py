"""Import of other people's files with its report, and the commands of `edgerec data`."""

from __future__ import annotations

import gzip
import lzma
import random
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from datafiles import document, run, same, small, text
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerec.errors import DataError
from edgerec_tools.datasets import Dataset, load, locate, write
from edgerec_tools.datasets.assemble import assemble
from edgerec_tools.datasets.importing import import_file

NOW = 1_700_000_000.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEREC_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


EVENTS = [  # user, item, POSIX seconds, rating
    ("ann", "apple", 1_600_000_000, 5.0),
    ("ann", "pear, ripe", 1_600_000_100, 3.5),
    ("bob", 'the "fig"', 1_600_000_050, 1.0),
    ("zoë", "apple", 1_599_999_000, 4.0),
]
Row = tuple[str, str, int, float]


def iso(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


TIMES: dict[str, Callable[[int], str]] = {
    "seconds": str,
    "seconds as float": lambda at: f"{at}.0",
    "milliseconds": lambda at: str(at * 1000),
    "microseconds": lambda at: str(at * 1_000_000),
    "ISO with offset": iso,
    "ISO with Z": lambda at: iso(at).replace("+00:00", "Z"),
    "ISO, no offset": lambda at: iso(at).replace("+00:00", "").replace("T", " "),
    "ISO, another zone": lambda at: datetime.fromtimestamp(at).astimezone().isoformat(),
}
HEADERS = (
    ("user", "item", "timestamp", "rating"),
    ("User ID", "Item-Id", "TIME", "Stars"),
    ("CustomerID", "StockCode", "InvoiceDate", "score"),
    ("user_id:token", "item_id:token", "timestamp:float", "rating:float"),
    ("reviewerID", "asin", "unixReviewTime", "overall"),
)


def csv_text(rows: list[tuple[str, ...]], delimiter: str) -> str:
    def quoted(field: str) -> str:
        needed = delimiter in field or '"' in field
        return '"' + field.replace('"', '""') + '"' if needed else field

    return "".join(delimiter.join(quoted(field) for field in row) + "\n" for row in rows)


def expected(events: list[Row], kind: str = "rating") -> Dataset:
    frame = pl.DataFrame(events, schema=["user", "item", "at", "value"], orient="row")
    return assemble("expected", frame.with_columns(kind=pl.lit(kind)))


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_text_is_read_whatever_its_separator_and_time(tmp_path: Path, delimiter: str, time: str) -> None:
    rows = [(user, item, TIMES[time](at), str(value)) for user, item, at, value in EVENTS]
    for number, header in enumerate(HEADERS):
        path = text(
            tmp_path / f"{number}.{'tsv' if delimiter == chr(9) else 'csv'}", csv_text([header, *rows], delimiter)
        )
        dataset, report = import_file(path)
        assert same(dataset, expected(EVENTS))
        assert (report.rows_in, report.rows_out) == (4, 4)
        assert report.columns == dict(zip(("user", "item", "timestamp", "value"), header, strict=True))


@pytest.mark.parametrize("opener", [gzip.open, lzma.open])
def test_compressed_text_is_read(tmp_path: Path, opener: Any) -> None:
    path = tmp_path / ("x.csv.gz" if opener is gzip.open else "x.csv.xz")
    with opener(path, "wt", encoding="utf-8-sig") as file:
        file.write("user,item,at\nu,i,5\n")
    seen: list[tuple[int, int]] = []
    dataset, _ = import_file(path, progress=lambda done, total: seen.append((done, total)))
    assert (dataset.name, dataset.n_events, dataset.kinds) == ("x", 1, ("click",))
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


def test_parquet_is_read_with_its_types(tmp_path: Path) -> None:
    events = [(str(100 + n), item, at, value) for n, (_, item, at, value) in enumerate(EVENTS)]
    frame = pl.DataFrame(events, schema=["uid", "sku", "when", "qty"], orient="row")
    moments = pl.from_epoch("when", time_unit="s")
    for number, when in enumerate((pl.col("when"), moments, moments.dt.replace_time_zone("UTC"))):
        path = tmp_path / f"{number}.parquet"
        frame.with_columns(when.alias("ts"), uid=pl.col("uid").cast(pl.Float64)).write_parquet(path)
        assert same(import_file(path)[0], expected(events, "purchase"))


def test_groups_kinds_titles_and_prices_come_in(tmp_path: Path) -> None:
    content = """invoice,customer,product,date,quantity,event,description,unit price,colour
1,u,lamp,2020-01-01,1,purchase,Lamp,2.5,red
1,u,cup,2020-01-01,2,purchase,Cup,1.0,red
2,u,lamp,2020-01-02,1,return,Old lamp,3.5,red
3,v,lamp,2020-01-01,1,purchase,Lamp,3.0,red
"""
    dataset, report = import_file(text(tmp_path / "x.csv", content))
    assert dataset.group_ids == ("1", "3", "2")
    assert [basket.rows.tolist() for basket in dataset.baskets()] == [[0, 1], [1], [1]]
    assert dataset.kinds == ("purchase", "return")
    assert dataset.titles == ("Cup", "Lamp")
    assert dataset.attributes["price"] == (1.0, 3.0)
    assert report.ignored == ("colour",)


def test_item_sequences_are_read_in_their_order(tmp_path: Path) -> None:
    path = text(tmp_path / "Beauty.txt", "1 9 8 9\n2 7\n\n3\n")
    dataset, report = import_file(path)
    assert [(dataset.users[b.user], b.at / 86400, b.rows.tolist()) for b in dataset.baskets()] == [
        ("1", 0, [2]), ("2", 0, [0]), ("1", 1, [1]), ("1", 2, [2])
    ]  # fmt: skip
    assert not dataset.timed
    assert (report.format, report.rows_in, report.rows_out) == ("sequence", 6, 4)
    assert report.finding("wrong number of fields").examples[0].line == 4


def test_tables_without_a_header_are_read_by_place(tmp_path: Path) -> None:
    lines = [f"{user}\t{n}\t{value:g}\t{at}" for n, (user, _, at, value) in enumerate(EVENTS)]
    dataset, _ = import_file(text(tmp_path / "u.data", "\n".join(lines)))
    assert (dataset.n_events, dataset.kinds) == (4, ("rating",))
    dotted = [line.replace("\t", "::") for line in lines]
    assert same(import_file(text(tmp_path / "ratings.dat", "\n".join(dotted)))[0], dataset)
    three = "1,2,2020-05-05\n3,4,2020-05-06\n"
    assert import_file(text(tmp_path / "three.csv", three))[0].n_events == 2


DIRTY = """user,item,timestamp,quantity
u1,a,2020-01-02T00:00:00Z,1
u1,a,2020-01-02T00:00:00Z,2
u1,b,2020-01-01T00:00:00Z,1

u2,a,2020-01-01,1,surplus
u2,,2020-01-01,1
u2,a,yesterday,1
u2,a,2020-01-05,many
u2,a,2020-01-05,-3
u2,b,2099-01-01,1
u2,b,2020-01-03,inf
caf\udce9,b,2020-01-03,1
u3,rare,2020-01-03,1
"""


def test_the_cleaning_report_counts_and_names_everything(tmp_path: Path) -> None:
    path = tmp_path / "dirty.csv"
    path.write_bytes(DIRTY.encode("utf-8", "surrogateescape"))
    dataset, report = import_file(path, clock=lambda: NOW, min_item=2)
    found = {finding.name: (finding.rows, finding.action) for finding in report.findings}
    assert found == {
        "blank lines": (1, "dropped"),
        "wrong number of fields": (1, "dropped"),
        "not UTF-8, read as Latin-1": (1, "kept"),
        "unparseable": (4, "dropped"),
        "quantity not above 0": (1, "dropped"),
        "duplicates, quantities added up": (1, "merged"),
        "timestamps out of order": (1, "sorted"),
        "timestamps in the future": (1, "kept"),
        "users or items below the threshold": (2, "dropped"),
    }
    examples = {example.line: example.reason for finding in report.findings for example in finding.examples}
    assert examples[3] == "same user, item and time as line 2"
    assert examples[6] == "5 fields where the header has 4"
    assert examples[7] == "item is empty"
    assert examples[8] == "timestamp 'yesterday' is neither a number nor ISO 8601"
    assert examples[9] == "value 'many' is not a finite number"
    assert examples[10] == "quantity -3"
    assert (report.rows_in, report.rows_out) == (13, 3)
    assert (report.users_below, report.items_below) == (1, 2)
    assert "café" in dataset.users


def test_of_two_ratings_at_one_time_the_last_is_taken(tmp_path: Path) -> None:
    path = text(tmp_path / "x.csv", "user,item,rating,time\nu,i,1,5\nu,i,4,5\nu,i,2,6\n")
    dataset, report = import_file(path)
    assert dataset.value.tolist() == [4, 2]
    assert report.finding("duplicates, the last one taken").rows == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 4))
def test_rows_in_are_rows_out_and_rows_named(seed: int, min_user: int, min_item: int) -> None:
    draw = random.Random(seed)
    bad = ["", "", "u,i", "u,,5", "u,i,never", "u,i,1e400"]
    lines = [f"u{draw.randrange(4)},i{draw.randrange(4)},{draw.randrange(9)}" for _ in range(40)]
    lines = [draw.choice(bad) if draw.random() < 0.2 else line for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        path = text(Path(folder) / "x.csv", "\n".join(["user,item,time", *lines]) + "\n")
        try:
            dataset, report = import_file(path, min_user=min_user, min_item=min_item)
        except DataError as error:
            if "no row is left" not in str(error):
                raise
            return
    lost = sum(finding.rows for finding in report.findings if finding.action in ("dropped", "merged"))
    assert report.rows_in == 40 == report.rows_out + lost
    assert np.bincount(dataset.user).min() >= min_user
    assert np.bincount(dataset.item).min() >= min_item


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "who,what,when\nu,i,5\n", r"no column for 'user', 'item', 'timestamp'; found 'who', 'what', 'when'"),
        ("x.csv", "user,item,rating\nu,i,5\n", r"no column for 'timestamp'; found .*'rating', needed 'user', 'item'"),
        ("x.csv", "1,2,3\n4,5,6\n", "has no header"),
        ("x.csv", "", "the file is empty"),
        ("x.csv", "user,item,time\nu,i,never\n", "no row is left"),
        ("x.csv", 'user,item,time\nu,"i,5\n' + "u,i,5\n" * 30000, "line .*quotation mark"),
        ("x.parquet", "user,item,time\n", "as Parquet"),
        ("x.csv.gz", "user,item,time\n", "cannot read"),
        ("x.csv.xz", "user,item,time\n", "cannot read"),
    ],
)
def test_a_file_that_cannot_be_imported_is_a_data_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_file(text(tmp_path / name, content))


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = text(tmp_path / "x.csv", "who,what,when,item\nu,i,5,junk\n")
    written = document("import", path, "--columns", "user=who,item=what,timestamp=when", "--kind", "purchase")
    dataset = load("x")
    assert written["path"] == str(locate("x"))
    assert (dataset.users, dataset.items, dataset.kinds) == (("u",), ("i",), ("purchase",))
    with pytest.raises(DataError, match="no column 'absent'"):
        import_file(path, columns={"user": "absent"})
    with pytest.raises(DataError, match="unknown column role 'buyer'"):
        import_file(path, columns={"buyer": "who"})


# the commands


def test_import_prints_its_report_and_keeps_the_data_set(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "dirty.csv"
    path.write_bytes(DIRTY.encode("utf-8", "surrogateescape"))
    shown = run("import", path, "--min-item", "2")
    assert shown.exit_code == 0
    assert "dropped: unparseable" in shown.stdout
    assert "item is empty" in shown.stdout
    for out, where in ((tmp_path / "dir", tmp_path / "dir" / "dirty.dataset"), (tmp_path / "a.dataset",) * 2):
        told = document("import", path, "--out", out)
        assert told["path"] == str(where)
        assert told["report"]["rows_out"] == load(where).n_events == told["report"]["summary"]["events"]
    assert [path.name for path in home.iterdir()] == ["dirty.dataset"]


def test_import_does_not_shadow_our_own_names(tmp_path: Path, home: Path) -> None:
    result = run("import", text(tmp_path / "retail.csv", "user,item,time\nu,i,5\n"))
    assert isinstance(result.exception, DataError)
    assert "--name" in str(result.exception)
    assert not home.exists()


def test_list_names_what_is_here_and_how_to_get_the_rest(home: Path) -> None:
    write(small(), home / "mine.dataset")
    (home / "broken.dataset").write_bytes(b"junk")
    entries = {entry["name"]: entry for entry in document("list")["datasets"]}
    assert (entries["retail"]["available"], entries["retail"]["baskets"]) == (True, 18557)
    assert (entries["mine"]["available"], entries["mine"]["events"]) == (True, 5)
    assert not entries["broken"]["available"]
    assert not entries["ml-1m"]["available"]
    assert "ml-1m is not here yet: edgerec data fetch ml-1m" in run("list").stdout


SHOP = """kunde;artikel;datum;menge;preis
u;a;05.03.2026 10:00;2;1,50
u;b;05.03.2026 10:00;1;12,5
u;a;6.3.2026;1;1,50
v;b;05.03.2026 10:00:00;-1;12,5
w;b;13.3.2026;1;12,5
"""
SHOP_COLUMNS = {"user": "kunde", "item": "artikel", "timestamp": "datum", "value": "menge", "price": "preis"}


def test_what_a_user_bought_at_one_time_is_one_basket(tmp_path: Path) -> None:
    dataset, report = import_file(text(tmp_path / "x.csv", SHOP), columns=SHOP_COLUMNS, kind="purchase")
    assert [(dataset.users[b.user], b.rows.tolist()) for b in dataset.baskets()] == [
        ("u", [0, 1]), ("u", [0]), ("w", [1])
    ]  # fmt: skip
    assert report.baskets == "what a user bought at one time"
    ratings, told = import_file(text(tmp_path / "y.csv", "user,item,rating,at\nu,i,1,5\nu,j,4,5\n"))
    assert (ratings.n_baskets, told.baskets) == (2, "every event is one")


def test_points_and_commas_of_other_countries_are_read(tmp_path: Path) -> None:
    dataset, report = import_file(text(tmp_path / "x.csv", SHOP), columns=SHOP_COLUMNS, kind="purchase")
    assert dataset.attributes["price"] == (1.5, 12.5)
    assert dataset.at[0] == 1772704800  # 2026-03-05T10:00:00Z
    assert report.timestamps == "day.month.year"
    assert report.finding("quantity not above 0").rows == 1
    thousands = text(tmp_path / "y.csv", 'user;item;at;price\nu;i;5;"1,234"\nu;j;5;1.5\n')
    dataset, report = import_file(thousands)
    assert report.finding("unparseable").examples[0].reason == "price '1,234' is not a finite number"


def test_when_nothing_is_left_the_error_says_why(tmp_path: Path) -> None:
    path = text(tmp_path / "x.csv", "user,item,time\nu,i,3/4/2026\nu,j,3/5/2026\n")
    with pytest.raises(DataError, match=r"2 unparseable \(line 2: timestamp '3/4/2026' is neither"):
        import_file(path)


def test_a_folder_with_one_data_set_is_that_data_set(tmp_path: Path) -> None:
    path = text(tmp_path / "orders.csv", "user,item,time\nu,i,5\n")
    document("import", path, "--out", tmp_path / "shop")
    assert load(tmp_path / "shop").name == "orders"
    document("import", path, "--out", tmp_path / "shop", "--name", "again")
    with pytest.raises(DataError, match=r"holds 2 data sets.*again\.dataset"):
        load(tmp_path / "shop")
    with pytest.raises(DataError, match=r"holds no data set"):
        load(tmp_path)


def test_columns_that_describe_items_come_in(tmp_path: Path) -> None:
    content = "user,item,time,colour,size\nu,a,1,red,1\nv,a,2,red,3\nw,a,3,blue,\nu,b,4,,7.5\n"
    dataset, report = import_file(text(tmp_path / "x.csv", content), attributes=["colour", "size"])
    assert dataset.attributes == {"colour": ("red", ""), "size": (2.0, 7.5)}
    assert report.ignored == ()
    frame = pl.read_csv(tmp_path / "x.csv")
    frame.write_parquet(tmp_path / "x.parquet")
    assert import_file(tmp_path / "x.parquet", attributes=["size"])[0].attributes == {"size": (2.0, 7.5)}
    told = document("import", tmp_path / "x.csv", "--attributes", "colour, size", "--out", tmp_path / "out")
    assert load(told["path"]).attributes == dataset.attributes
    with pytest.raises(DataError, match="no column 'weight'"):
        import_file(tmp_path / "x.csv", attributes=["weight"])
