"""One unsound bundle per defence: each is refused with the file and the reason, and leaves nothing behind."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import (
    CASE,
    EVENT,
    STORY,
    bag_encoder,
    bundle_files,
    contents,
    golden,
    manifest_of,
    npy,
    tiny_bundle,
    write_folder,
    write_zip,
)

from edgerec.bundle import load_bundle
from edgerec.errors import BundleInvalid, BundleNotFound, BundleUnsupported

N, DIM = 60, 8
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def files() -> Files:
    return bundle_files(N, DIM)


# -- the catalogue -----------------------------------------------------------------------------------------------


def line(row: int = 0, item: Any = "a", title: Any = "A", attributes: Any = None, **more: Any) -> str:
    return json.dumps({"item": item, "row": row, "title": title, "attributes": attributes or {}, **more})


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (line(0), line(0, "b"), "line 2: row 0"),
        (line(0), line(2, "b"), "line 2: row 2"),
        (line(0), line(1), "rows 0 and 1 share the item id 'a'"),
        (line(0, title="A" * 90), "", "1 lines where the manifest counts 2"),
        (line(0), line(1, ""), "line 2: 'item'"),
        (line(0), line(1, "x" * 257), "line 2: 'item'"),
        (line(0), line(1, 7), "line 2: 'item'"),
        (line(0), line(1, "a\nb"), "line 2: 'item' holds control"),
        (line(0), line(1, "b", "t" * 1025), "line 2: 'title'"),
        (line(0), line(1, "b", "\ud800"), "line 2: 'title'"),
        (line(0), line(1.0, "b"), "line 2: 'row'"),  # type: ignore[arg-type]
        (line(0), line(True, "b"), "line 2: 'row'"),
        (line(0), line(1, "b", extra=1), "line 2: must be an object with"),
        (line(0), "[1]".ljust(60), "line 2: must be an object"),
        (line(0), "{".ljust(60), "line 2: not valid JSON"),
        (line(0), line(1, "b") + " 1", "line 2: not valid JSON"),
        (line(0), '{"item":"b","item":"c","row":1,"title":"","attributes":{}}', "line 2: .*duplicate keys"),
        (line(0), '{"item":"b","row":1,"title":"","attributes":{"x":NaN}}', "line 2: .*NaN"),
        (line(0), '{"item":"b","row":1,"title":"","attributes":{"x":1e999}}', "line 2: .*not finite"),
        (line(0), line(1, "b", attributes={"x": 10**400}), "line 2: "),
        (line(0), "[" * 60000, "line 2: "),
        (line(0), line(1, "b", attributes={"x": "y" * 70000}), "line 2: longer than"),
        (line(0), line(1, "b", attributes={"x": "y" * 1025}), "line 2: attribute 'x'"),
        (line(0), line(1, "b", attributes={"x": None}), "line 2: attribute 'x'"),
        (line(0), line(1, "b", attributes={"x": {"y": 1}}), "line 2: attribute 'x'"),
        (line(0), line(1, "b", attributes={"x": [1]}), "line 2: attribute 'x'"),
        (line(0), line(1, "b", attributes={"x": ["y"] * 257}), "line 2: attribute 'x'"),
        (line(0), line(1, "b", attributes={"": 1}), "line 2: an attribute's name"),
        (line(0), line(1, "b", attributes={f"x{k}": k for k in range(257)}), "line 2: more than 256"),
        (line(0, attributes={"x": 1}), line(1, "b", attributes={"x": "1"}), "line 2: attribute 'x': str where others"),
        (line(0, attributes={"x": 1}), line(1, "b", attributes={"x": True}), "line 2: attribute 'x': bool"),
        (line(0, attributes={"x": "a"}), line(1, "b", attributes={"x": 1}), "line 2: attribute 'x': int"),
        (line(0, attributes={"x": True}), line(1, "b", attributes={"x": 1}), "line 2: attribute 'x': int"),
        (line(0, attributes={"x": ["a"]}), line(1, "b", attributes={"x": "a"}), "line 2: attribute 'x': str"),
    ],
)
def test_a_bad_catalogue_is_refused_naming_the_line(first: str, second: str, reason: str, tmp_path: Path) -> None:
    files = bundle_files(2, DIM, per_item=1)
    files["catalogue.jsonl"] = f"{first}\n{second}\n".encode() if second else f"{first}\n".encode()
    path = write_zip(tmp_path / "x.edgerec", files, manifest_of(files, 2, DIM))
    with pytest.raises(BundleInvalid, match=rf"catalogue\.jsonl.*{reason}"):
        load_bundle(path, tmp_path / "data")
    assert contents(tmp_path / "data") == set()


# -- one unsound bundle per defence ------------------------------------------------------------------------------

Change = Callable[[Files], Any]


def replaced(name: str, data: bytes | Callable[[bytes], bytes]) -> Change:
    def change(files: Files) -> None:
        files[name] = data(files[name]) if callable(data) else data

    return change


def dropped(*names: str) -> Change:
    def change(files: Files) -> None:
        for name in names:
            del files[name]

    return change


def header(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new.ljust(len(old)) if len(new) < len(old) else new, 1)


nan = np.full(N, np.nan, np.float32)
UNSOUND: dict[str, tuple[Change, str]] = {
    "vectors of another type": (replaced("items/vectors.npy", npy(np.zeros((N, DIM // 2)))), "type <f8"),
    "big-endian vectors": (replaced("items/vectors.npy", npy(np.zeros((N, DIM), ">f4"))), "type >f4"),
    "fortran order": (replaced("items/vectors.npy", npy(np.zeros((N, DIM), "<f4", "F"))), "C order"),
    "vectors of another shape": (replaced("items/vectors.npy", npy(np.zeros((DIM, N), "<f4"))), "shape"),
    "bias too long": (replaced("items/bias.npy", npy(np.zeros(N + 1, "<f4"))), "shape"),
    "a scalar bias": (replaced("items/bias.npy", npy(np.zeros((), "<f4"))), "cannot be the 60 numbers"),
    "scalar negatives": (replaced("items/negatives.npy", npy(np.zeros((), "<i4"))), "shape"),
    "pickled objects": (replaced("items/bias.npy", npy(np.array([{}] * N, object))), "type"),
    "not npy": (replaced("items/negatives.npy", b"PK\x03\x04 and so on"), "not an .npy"),
    "an empty npy": (replaced("items/negatives.npy", b""), "not an .npy"),
    "npy version 2": (replaced("items/bias.npy", header(b"NUMPY\x01", b"NUMPY\x02")), "version 1.0"),
    "data missing": (replaced("items/bias.npy", lambda data: data[:-4]), "bytes where header and data"),
    "data too long": (replaced("items/bias.npy", lambda data: data + b"\0" * 4), "bytes where header and data"),
    "header cut": (replaced("items/negatives.npy", lambda data: data[:40]), "header"),
    "header too long": (
        replaced("items/negatives.npy", lambda data: data[:8] + struct.pack("<H", 65526) + b" " * 65526),
        "header of 65526",
    ),
    "header that is code": (
        replaced("items/bias.npy", header(b"'<f4'", b"f()")),
        "unreadable",
    ),
    "NaN in the vectors": (replaced("items/vectors.npy", npy(np.full((N, DIM), np.nan, "<f4"))), "not finite"),
    "NaN in the bias": (replaced("items/bias.npy", npy(nan)), "not finite"),
    "infinite popularity": (replaced("items/popularity.npy", npy(np.full(N, np.inf, "<f4"))), "not finite"),
    "negatives out of range": (replaced("items/negatives.npy", npy(np.array([N], "<i4"))), "lie outside"),
    "negatives below 0": (replaced("items/negatives.npy", npy(np.array([-1], "<i4"))), "lie outside"),
    "no negatives": (replaced("items/negatives.npy", npy(np.array([], "<i4"))), "must hold 1 to"),
    "indptr not from 0": (replaced("neighbours/indptr.npy", npy(np.full(N + 1, 5 * N, "<i4"))), "start at 0"),
    "indptr falling": (
        replaced("neighbours/indptr.npy", npy(np.r_[np.zeros(N - 1), 400, 5 * N].astype("<i4"))),
        "never fall",
    ),
    "indptr beyond ids": (
        replaced("neighbours/indptr.npy", npy(np.r_[np.zeros(N), 5 * N + 1].astype("<i4"))),
        "shape",
    ),
    "indptr negative": (replaced("neighbours/indptr.npy", npy(np.full(N + 1, -1, "<i4"))), "shape|start at 0"),
    "neighbours out of range": (replaced("neighbours/ids.npy", npy(np.full(5 * N, N, "<i4"))), "lie outside"),
    "NaN among the neighbours": (
        replaced("neighbours/weights.npy", npy(np.full(5 * N, np.nan, "<f4"))),
        "not finite",
    ),
    "half the neighbours": (dropped("neighbours/ids.npy"), "lists no neighbours/ids"),
    "no encoder": (dropped("encoder.onnx"), "lists no encoder.onnx"),
    "no golden": (dropped("golden.json"), "lists no golden.json"),
    "golden not an object": (replaced("golden.json", b"[]"), "golden.json: must be"),
    "golden with NaN": (replaced("golden.json", b'{"encoder": [NaN], "stories": []}'), "NaN"),
    "golden with duplicate keys": (replaced("golden.json", b'{"encoder":[],"encoder":[],"stories":[]}'), "duplicate"),
    "golden not UTF-8": (replaced("golden.json", b"\xff"), "UTF-8"),
    "an encoder of another width": (replaced("encoder.onnx", bag_encoder(DIM + 1)), "'history' has"),
    "an encoder of another length": (replaced("encoder.onnx", bag_encoder(DIM, 9)), "'history' has"),
    "an encoder that is not ONNX": (replaced("encoder.onnx", b"GIF89a"), "encoder.onnx"),
    "a retriever unannounced": (replaced("retrieve.onnx", b"x"), "does not fit the files"),
    "code": (replaced("model.py", b"import os"), "not a file name"),
    "a pickle": (replaced("items/x.pkl", b"x"), "not a file name"),
    "a name upwards": (replaced("../x.json", b"{}"), "not a file name"),
    "an absolute name": (replaced("/tmp/x.json", b"{}"), "not a file name"),
    "a drive": (replaced("c:x.json", b"{}"), "not a file name"),
    "a backslash": (replaced("items\\x.json", b"{}"), "not a file name"),
    "a hidden file": (replaced(".x.json", b"{}"), "not a file name"),
    "names that differ in case": (replaced("Encoder.ONNX".replace("ONNX", "onnx"), b"x"), "one name where case"),
    "a file that is a folder too": (replaced("encoder.onnx/x.json", b"{}"), "both a file and a folder"),
    "a retriever announced and absent": (
        lambda _: {"retrieval": {"kind": "int8", "candidates": 10}},
        "does not fit the files",
    ),
    "too many files": (lambda files: files.update({f"n{k}.txt": b"" for k in range(64)}), "more than 64"),
    "an unknown encoder input": (lambda _: {"encoder_inputs": ["history", "mask", "name"]}, "encoder_inputs"),
    "an encoder without a mask": (lambda _: {"encoder_inputs": ["history"]}, "encoder_inputs"),
    "a runtime that is no version": (lambda _: {"min_runtime": "new"}, "min_runtime"),
    "no default scenario": (lambda _: {"scenarios": {}}, "default"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_an_unsound_bundle_is_refused_and_nothing_is_left(name: str, files: Files, tmp_path: Path) -> None:
    change, reason = UNSOUND[name]
    bad = dict(files)
    fields = change(bad)
    manifest = manifest_of(bad, N, DIM, **(fields if isinstance(fields, dict) else {}))
    path = write_zip(tmp_path / "bad.edgerec", bad, manifest)
    with pytest.raises(BundleInvalid, match=reason):
        load_bundle(path, tmp_path / "data")
    assert contents(tmp_path / "data") == set()
    assert contents(tmp_path) == {"bad.edgerec"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"format": 2}, "format 2 is newer"), ({"min_runtime": "99.0"}, "asks for edgerec 99.0")],
)
def test_a_bundle_for_a_newer_runtime_is_unsupported(fields: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "tiny.edgerec", **fields)
    with pytest.raises(BundleUnsupported, match=reason) as caught:
        load_bundle(path, tmp_path / "data")
    assert "update edgerec" in str(caught.value)


def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound):
        load_bundle(tmp_path / "none.edgerec", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleNotFound, match=r"manifest\.json"):
        load_bundle(tmp_path / "empty", tmp_path)


@pytest.mark.parametrize("form", ["zip", "folder"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda files: files.update({"items/bias.npy": files["items/popularity.npy"]}), r"bias\.npy: sha256"),
        (lambda files: files.update({"items/bias.npy": b"x"}), r"bias\.npy: 1 bytes"),
        (lambda files: files.pop("items/bias.npy"), r"bias\.npy.*missing"),
        (lambda files: files.update({"notes.txt": b"x"}), "not listed in the manifest"),
    ],
)
def test_files_that_differ_from_the_manifest_are_refused(
    form: str, change: Callable[[Files], Any], reason: str, files: Files, tmp_path: Path
) -> None:
    manifest, other = manifest_of(files, N, DIM), dict(files)
    change(other)
    path = (write_zip if form == "zip" else write_folder)(tmp_path / "bad", other, manifest)
    with pytest.raises((BundleInvalid, BundleNotFound), match=reason):
        load_bundle(path, tmp_path / "data")
    assert contents(tmp_path / "data") == set() if (tmp_path / "data").exists() else True


def test_links_in_a_folder_are_refused(files: Files, tmp_path: Path) -> None:
    path = write_folder(tmp_path / "bad", files, manifest_of(files, N, DIM))
    bias = path / "items/bias.npy"
    bias.rename(tmp_path / "elsewhere.npy")
    bias.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(BundleInvalid, match="link"):
        load_bundle(path, tmp_path / "data")
    bias.unlink()
    (tmp_path / "elsewhere.npy").rename(bias)
    (path / "more").symlink_to(tmp_path)
    with pytest.raises(BundleInvalid, match="link"):
        load_bundle(path, tmp_path / "data")


def with_golden(files: Files, data: bytes, path: Path) -> Path:
    changed = {**files, "golden.json": data}
    return write_zip(path, changed, manifest_of(changed, N, DIM))


def test_a_well_formed_golden_file_is_taken(files: Files, tmp_path: Path) -> None:
    with load_bundle(with_golden(files, golden(), tmp_path / "x"), tmp_path / "data") as bundle:
        assert bundle.golden == {"encoder": [CASE], "stories": [STORY]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (golden({"history": [[0.0] * DIM] * 7}), "case 0: 'history'"),
        (golden({"history": [[0.0] * DIM] * 7 + [[0.0]]}), "case 0: 'history'"),
        (golden({"query": ["x"] * DIM}), "case 0: 'query'"),
        (golden({"query": None}), "case 0: 'query'"),
        (golden({"query": [10**400] * DIM}), "does not fit 64 bits"),
        (golden({"kind": [2] * 8}), "case 0: 'kind'"),
        (golden({"mask": [0.5] * 8}), "case 0: 'mask'"),
        (golden(events={}), "story 0: 'events'"),
        (golden(events=[1]), "story 0 event 0: must be an object"),
        (golden(events=[{**EVENT, "kind": "sniff"}]), "event 0: 'kind'"),
        (golden(events=[{**EVENT, "item": 1}]), "event 0: 'item'"),
        (golden(events=[{**EVENT, "at": True}]), "event 0: 'at'"),
        (golden(events=[{**EVENT, "at": -1}]), "event 0: 'at'"),
        (golden(events=[{**EVENT, "group": 1}]), "event 0: 'group'"),
        (golden(events=[{**EVENT, "value": "x"}]), "event 0: 'value'"),
        (golden(user_vector=[0.0]), "story 0: 'user_vector'"),
        (golden(rankings={}), "story 0: 'rankings'"),
        (golden(rankings={"other": {}}), "story 0: 'rankings'"),
        (golden(rankings={"default": {"items": [1], "scores": [1]}}), "'default': 'items'"),
        (golden(rankings={"default": {"items": ["i1"], "scores": []}}), "'default': 'scores'"),
        (b'{"encoder": [1], "stories": []}', "case 0: must be an object"),
        (json.dumps({"encoder": [CASE] * 257, "stories": []}).encode(), "more than 256"),
    ],
)
def test_a_malformed_golden_file_is_refused_naming_the_place(
    data: bytes, reason: str, files: Files, tmp_path: Path
) -> None:
    with pytest.raises(BundleInvalid, match=reason):
        load_bundle(with_golden(files, data, tmp_path / "x"), tmp_path / "data")
