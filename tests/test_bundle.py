"""Bundles: sound ones open, once, for several processes, through any death, and hand out the model."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import (
    bag_encoder,
    bundle_files,
    catalogue_lines,
    contents,
    manifest_of,
    tiny_bundle,
    write_zip,
)

from edgerec.bundle import Flags, Labels, Numbers, Tags, archive, catalogue_index, load_bundle, opened, verify
from edgerec.bundle import catalogue as catalogue_module
from edgerec.bundle.manifest import dump, parse
from edgerec.bundle.opened import ENCODER
from edgerec.errors import BundleError, BundleInvalid

N, DIM = 60, 8
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def files() -> Files:
    return bundle_files(N, DIM)


# -- sound bundles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "tiny.edgerec"])
def test_a_sound_bundle_opens_and_hands_out_the_model(name: str, tmp_path: Path, files: Files) -> None:
    with load_bundle(tiny_bundle(tmp_path / name, N, DIM), tmp_path / "data") as bundle:
        assert (bundle.manifest.name, bundle.manifest.version, len(bundle.digest)) == ("tiny", 1, 64)
        for array, file in [
            (bundle.model.vectors, "items/vectors"),
            (bundle.model.bias, "items/bias"),
            (bundle.model.popularity, "items/popularity"),
            (bundle.negatives, "items/negatives"),
            (bundle.neighbours.indptr, "neighbours/indptr"),
            (bundle.neighbours.ids, "neighbours/ids"),
            (bundle.neighbours.weights, "neighbours/weights"),
        ]:
            np.testing.assert_array_equal(array, np.load(io.BytesIO(files[f"{file}.npy"])))
            assert array.flags.c_contiguous
            assert array.flags.aligned
            assert not array.flags.writeable
        assert bundle.retriever is None
        assert bundle.golden == {"encoder": [], "stories": []}


def test_opening_again_reuses_what_was_unpacked(tmp_path: Path) -> None:
    path, data = tiny_bundle(tmp_path / "tiny.edgerec"), tmp_path / "data"
    with load_bundle(path, data) as bundle:
        home, digest = bundle.path, bundle.digest
    assert home == data / "bundles" / digest
    before = {file: (data / file).stat().st_mtime_ns for file in contents(data)}
    with load_bundle(path, data) as again, load_bundle(home, data) as direct:
        assert again.digest == direct.digest == digest
    assert {file: (data / file).stat().st_mtime_ns for file in contents(data)} == before


def test_a_folder_is_used_in_place_and_checked_again_when_a_file_was_written(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "tiny")
    with load_bundle(path, tmp_path / "data") as bundle:
        assert bundle.path == path
    bias = path / "items/bias.npy"
    bias.write_bytes(bias.read_bytes()[:-4] + b"\0\0\0\0")
    os.utime(bias, (1, 1))
    with pytest.raises(BundleInvalid, match=r"bias\.npy: sha256"):
        load_bundle(path, tmp_path / "data")


def test_a_file_that_was_swapped_is_found_though_its_size_and_time_are_the_same(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "tiny")
    load_bundle(path, tmp_path / "data").close()
    weights = path / "neighbours/weights.npy"
    kept = weights.stat()
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    os.utime(weights, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    with pytest.raises(BundleInvalid, match=r"weights\.npy: sha256"):
        load_bundle(path, tmp_path / "data")


def test_a_model_that_was_swapped_before_its_session_opens_is_not_used(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "tiny")
    load_bundle(path, tmp_path / "data").close()
    with load_bundle(path, tmp_path / "data") as bundle:
        (path / ENCODER).write_bytes(bag_encoder(DIM, decay=9.0))
        with pytest.raises(BundleInvalid, match="files were changed"):
            _ = bundle.encoder


def test_a_damaged_unpacked_bundle_is_unpacked_anew(tmp_path: Path) -> None:
    path, data = tiny_bundle(tmp_path / "tiny.edgerec"), tmp_path / "data"
    with load_bundle(path, data) as bundle:
        home = bundle.path
    (home / "items/bias.npy").write_bytes(b"short")
    with pytest.raises(BundleInvalid, match=r"bias\.npy: 5 bytes"):
        load_bundle(home, data)
    with load_bundle(path, data) as bundle:
        assert bundle.model.bias.shape == (N,)
    assert not [name for name in contents(data) if "tmp" in name]


def test_a_damaged_index_is_built_anew(tmp_path: Path) -> None:
    path, data = tiny_bundle(tmp_path / "tiny.edgerec"), tmp_path / "data"
    load_bundle(path, data).close()
    (index,) = (data / "index").glob("*.db")
    for damage in (b"", b"not a database", index.read_bytes()[:100]):
        index.write_bytes(damage)
        with load_bundle(path, data) as bundle:
            assert bundle.catalogue.row("i7") == 7


def test_a_bundle_without_neighbours_has_none(tmp_path: Path, files: Files) -> None:
    fewer = {name: data for name, data in files.items() if not name.startswith("neighbours")}
    with load_bundle(write_zip(tmp_path / "x", fewer, manifest_of(fewer, N, DIM)), tmp_path / "data") as bundle:
        assert bundle.neighbours.indptr.tolist() == [0] * (N + 1)
        assert bundle.neighbours.ids.size == 0


def test_verify_checks_every_byte_of_an_unpacked_bundle(tmp_path: Path) -> None:
    with load_bundle(tiny_bundle(tmp_path / "tiny.edgerec"), tmp_path / "data") as bundle:
        home = bundle.path
    assert verify(home).name == "tiny"
    weights = home / "neighbours/weights.npy"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    load_bundle(home, tmp_path / "data").close()  # the same size: seen before, not read again
    with pytest.raises(BundleInvalid, match="sha256"):
        verify(home)


def test_opening_needs_neither_onnxruntime_nor_anything_heavy(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "tiny.edgerec")
    load_bundle(path, tmp_path / "data").close()
    code = (
        "import sys; from edgerec.bundle import load_bundle\n"
        f"load_bundle({str(path)!r}, {str(tmp_path / 'data')!r})\n"
        "print(sorted({'onnxruntime', 'sqlite_utils', 'click', 'onnx', 'torch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert run.stdout.strip() == "[]"


def catalogue_of(lines: list[dict[str, Any]], path: Path) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return path


def test_texts_of_every_script_are_taken(tmp_path: Path) -> None:
    words = {
        "Straße 7": "Grüße\nund Küsse\t!",
        "ردیف‌ها": "\u2067שלום\u2069 & \u202bعربى\u202c",
        "👩‍👩‍👧": "家族 · Ⅻ",
        "cafe\u0301": "in another of Unicode's forms, but alone",
        "नमस्ते": "",
    }
    lines = [
        {"item": item, "row": row, "title": title, "attributes": {"l": title, "t": [item]}}
        for row, (item, title) in enumerate(words.items())
    ]
    source = catalogue_of(lines, tmp_path / "catalogue.jsonl")
    catalogue = catalogue_module.Catalogue.open(source, tmp_path / "index.db", len(lines))
    assert catalogue.items(range(len(lines))) == list(words.items())
    assert [catalogue.row(item) for item in words] == [0, 1, 2, 3, 4]
    assert catalogue.attributes(1) == {"l": words["ردیف‌ها"], "t": ("ردیف‌ها",)}
    catalogue.close()


def test_an_index_grows_with_what_is_in_the_catalogue_not_with_what_it_says(tmp_path: Path) -> None:
    """256 attributes of a million items would be two gigabytes; of one line they are nothing."""
    attributes = {f"a{n}": n for n in range(256)}
    line = {"item": "a", "row": 0, "title": "", "attributes": attributes}
    source = catalogue_of([line], tmp_path / "catalogue.jsonl")
    tracemalloc.start()
    try:
        with pytest.raises(BundleInvalid, match="1 lines where the manifest counts 1000000"):
            catalogue_index.build_index(source, tmp_path / "index.db", 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(BundleInvalid, match="14 attributes of 20000000 items, more than 268435456"):
        catalogue_index.build_index(source, tmp_path / "more.db", 20_000_000)


# -- what is written about the format ----------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "edgerec/bundle/manifest.schema.json").read_text())


def test_the_schema_names_exactly_the_fields_of_a_manifest(files: Files) -> None:
    told = json.loads(dump(parse(json.dumps(manifest_of(files, N, DIM)).encode())))
    assert set(SCHEMA["properties"]) == set(told)


@pytest.mark.parametrize("field", sorted(SCHEMA["properties"]))
def test_a_field_is_required_where_the_schema_says_so(field: str, files: Files) -> None:
    data = {**json.loads(dump(parse(json.dumps(manifest_of(files, N, DIM)).encode()))), "a field of tomorrow": 1}
    del data[field]
    if field in SCHEMA["required"]:
        with pytest.raises(BundleInvalid, match=f"'{field}' is missing"):
            parse(json.dumps(data).encode())
    else:
        default = SCHEMA["properties"][field]["default"]
        assert json.loads(dump(parse(json.dumps(data).encode())))[field] == default


def test_the_page_tells_of_every_field_file_and_limit() -> None:
    page = (ROOT / "docs/bundle.md").read_text()
    for word in (
        *SCHEMA["properties"],
        *SCHEMA["properties"]["files"]["required"],
        *opened.NEIGHBOURS,
        "retrieve.onnx",
    ):
        assert f"`{word}" in page, word
    assert f"At most {archive.MAX_FILES} entries" in page
    assert f"at most {archive.MAX_RATIO} times" in page


# -- the encoder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5, 8, 20])
def test_one_history_is_encoded_as_a_padded_batch_would_be(count: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(count)
    with load_bundle(tiny_bundle(tmp_path / "tiny.edgerec"), tmp_path / "data") as bundle:
        encoder, vectors = bundle.encoder, bundle.model.vectors
        rows = rng.integers(0, N, count).astype(np.int32)
        age, kind = np.sort(rng.exponential(10, count))[::-1], rng.integers(0, 2, count)
        for _ in range(2):  # the second call reuses the first one's buffers, padded for another length
            encoder.encode(vectors, rows[:3], age[:3], kind[:3])
            found = encoder.encode(vectors, rows, age, kind)
        history, ages = np.zeros((1, 8, DIM), np.float32), np.zeros((1, 8), np.float32)
        mask = np.zeros((1, 8), np.bool_)
        if n := min(count, 8):
            history[0, -n:], ages[0, -n:], mask[0, -n:] = vectors[rows[-n:]], age[-n:], True
        expected = encoder(history, ages, np.zeros((1, 8), np.int64), mask)[0]
        np.testing.assert_array_equal(found, expected)


def test_the_encoder_serves_threads_at_once(tmp_path: Path) -> None:
    with load_bundle(tiny_bundle(tmp_path / "tiny.edgerec"), tmp_path / "data") as bundle:
        vectors = bundle.model.vectors
        wrong: list[int] = []

        def work(row: int) -> None:
            rows, age, kind = np.array([row], np.int32), np.zeros(1), np.zeros(1, np.int64)
            for _ in range(200):
                if not np.allclose(bundle.encoder.encode(vectors, rows, age, kind), vectors[row], atol=1e-6):
                    wrong.append(row)
                    return

        threads = [threading.Thread(target=work, args=(row,)) for row in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_a_query_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    with load_bundle(tiny_bundle(tmp_path / "tiny.edgerec"), tmp_path / "data") as bundle:
        huge = np.full((1, DIM), 3e38, np.float32)
        with pytest.raises(BundleInvalid, match="not finite"):
            bundle.encoder.encode(huge, np.zeros(4, np.int32), np.full(4, -1e4), np.zeros(4, np.int64))


# -- the catalogue -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("catalogue")
    with load_bundle(tiny_bundle(folder / "tiny.edgerec"), folder / "data") as bundle:
        yield bundle.catalogue


def test_rows_items_and_titles_are_looked_up_both_ways(catalogue: Any) -> None:
    assert catalogue.row("i7") == 7
    assert catalogue.row("nothing") is None
    assert catalogue.row("\ud800") is None
    assert catalogue.rows(["\ud800", "i1", "é"]).tolist() == [-1, 1, -1]
    assert catalogue.rows(["i3", "x", "i3", "i59"]).tolist() == [3, -1, 3, 59]
    assert catalogue.rows([]).dtype == np.int32
    assert catalogue.items(np.array([2, 0])) == [("i2", "Item 2"), ("i0", "Item 0")]
    assert (catalogue.item(9), catalogue.title(9)) == ("i9", "Item 9")
    with pytest.raises(IndexError):
        catalogue.item(N)


def test_many_lookups_pass_the_caches_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "CACHED_ROWS", 4)
    with load_bundle(tiny_bundle(tmp_path / "tiny.edgerec"), tmp_path / "data") as bundle:
        for _ in range(2):
            assert bundle.catalogue.rows([f"i{row}" for row in range(N)]).tolist() == list(range(N))
            assert bundle.catalogue.items(range(N)) == [(f"i{row}", f"Item {row}") for row in range(N)]


def test_an_index_that_breaks_while_it_is_open_is_a_bundle_error(tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle(tmp_path / "tiny.edgerec"), tmp_path / "data")
    bundle.close()
    with pytest.raises(BundleError, match="index cannot be read"):
        bundle.catalogue.row("i1")


def test_attributes_are_typed_columns_over_the_catalogue(catalogue: Any) -> None:
    assert catalogue.attribute_names == ("colour", "new", "price", "tags")
    lines = catalogue_lines(N)
    kinds = {"colour": Labels, "new": Flags, "price": Numbers, "tags": Tags}
    for name, kind in kinds.items():
        column = catalogue.attribute(name)
        assert isinstance(column, kind)
        assert catalogue.attribute(name) is column
        for line in lines:
            absent: Any = () if name == "tags" else None
            wanted = line["attributes"].get(name, absent)
            assert column.value(line["row"]) == (tuple(wanted) if name == "tags" else wanted)
    assert catalogue.attribute("size") is None
    assert catalogue.attribute_kind("price") == "number"
    assert catalogue.attributes(1) == {"colour": "green", "new": False, "price": 1.5, "tags": ("t1", "u1")}
    assert catalogue.attributes(5) == {}


def test_columns_filter_and_absent_values_match_nothing(catalogue: Any) -> None:
    known = [line["attributes"] for line in catalogue_lines(N)]

    def rows(test: Callable[[dict[str, Any]], bool]) -> list[int]:
        return [row for row, attributes in enumerate(known) if attributes and test(attributes)]

    assert catalogue.attribute("price").between(high=5).nonzero()[0].tolist() == rows(lambda a: a["price"] <= 5)
    assert catalogue.attribute("price").between(3, 5).nonzero()[0].tolist() == rows(lambda a: 3 <= a["price"] <= 5)
    assert catalogue.attribute("colour").among(["red"]).nonzero()[0].tolist() == rows(lambda a: a["colour"] == "red")
    assert not catalogue.attribute("colour").among(["mauve"]).any()
    assert catalogue.attribute("new").equal(True).nonzero()[0].tolist() == rows(lambda a: a["new"])
    assert catalogue.attribute("tags").having(["t1", "u0"]).nonzero()[0].tolist() == rows(
        lambda a: bool({"t1", "u0"} & set(a["tags"]))
    )


# -- several processes, and death --------------------------------------------------------------------------------


def _open_many(path: str, data: str, barrier: Any, results: Any) -> None:
    barrier.wait()
    for _ in range(5):
        with load_bundle(path, data) as bundle:
            results.put(bundle.catalogue.row("i7"))


def test_processes_may_open_one_bundle_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path = tiny_bundle(tmp_path / "tiny.edgerec")
    barrier, results = context.Barrier(3), context.Queue()
    workers = [
        context.Process(target=_open_many, args=(str(path), str(tmp_path / "data"), barrier, results)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in range(15)]
    for worker in workers:
        worker.join()
    assert found == [7] * 15
    assert [worker.exitcode for worker in workers] == [0] * 3
    assert not list((tmp_path / "data").rglob(".tmp-*"))


KILLED = """
import os, signal, sys
from pathlib import Path
from edgerec.bundle import load_bundle
import edgerec.files, edgerec.bundle.reader, edgerec.bundle.catalogue
left = int(sys.argv[3])
def tick(event, args):
    global left
    if event in ("open", "os.rename", "os.mkdir"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(tick)
load_bundle(sys.argv[1], sys.argv[2])
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_death_at_any_step_leaves_a_cache_that_works(tmp_path: Path) -> None:
    """Killed before its n-th file is opened, made or renamed, for many n; the next open succeeds and sweeps."""
    path, killed = tiny_bundle(tmp_path / "tiny.edgerec"), 0
    for step in range(0, 70, 7):
        data = tmp_path / f"data{step}"
        run = subprocess.run([sys.executable, "-c", KILLED, str(path), str(data), str(step)], check=False)
        killed += run.returncode == -signal.SIGKILL
        with load_bundle(path, data) as bundle:
            assert bundle.catalogue.row("i7") == 7
            assert bundle.model.bias.shape == (N,)
        homes = list((data / "bundles").iterdir()) if (data / "bundles").exists() else []
        assert [home.name for home in homes if not home.name.endswith(".lock")] == [bundle.digest]
        assert not list(data.glob("index/.tmp-*"))
    assert killed >= 5
