"""What a bundle is made of: its manifest, catalogue, arrays, ONNX files, golden vectors, and the zip around them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from edgerec.bundle.archive import MANIFEST, Archive
from edgerec.bundle.arrays import map_array
from edgerec.bundle.catalogue import Catalogue
from edgerec.bundle.golden_check import check_golden_form, parse_golden
from edgerec.bundle.manifest import FileEntry, Manifest, dump, parse
from edgerec.bundle.onnx_check import check_onnx
from edgerec.bundle.onnx_schema import OPERATORS
from edgerec.bundle.reader import read_manifest
from edgerec.bundle.sessions import Encoder
from edgerec.bundle.signatures import encoder_signature
from edgerec_tools.fuzz.target import Run, promise

LENGTH, DIM = 3, 4
MAX_RUN = 1 << 22
INPUTS, OUTPUTS = encoder_signature(("history", "age_days", "kind", "mask"), LENGTH, DIM)
_MANIFEST = {
    "format": 1,
    "name": "fuzz",
    "version": 1,
    "created": "2026-01-01T00:00:00Z",
    "min_runtime": "0.1.0",
    "dim": 2,
    "n_items": 3,
    "event_kinds": {"click": {"weight": 1.0}, "purchase": {"weight": 2.0, "consumes": True}},
    "history": {"length": 2, "kinds": ["click", "purchase"]},
    "scenarios": {"default": {"seen": "hide", "weights": {"taste": 1.0}}},
    "encoder_inputs": ["history", "mask"],
    "files": {},
}


def manifest() -> Manifest:
    """A small manifest for targets that need one."""
    return parse(json.dumps(_MANIFEST).encode())


def make_manifest(_: Path) -> Run:
    def run(data: bytes) -> None:
        found, digest = read_manifest(data)
        promise(digest == hashlib.sha256(data).hexdigest(), "the digest is that of the bytes")
        promise(parse(dump(found).encode()) == found, "a manifest that was written is the same when it is read")
        promise("default" in found.scenarios and found.dim > 0 and found.n_items > 0, "there is something to serve")
        promise(set(found.history_kinds) <= set(found.kinds), "history reads kinds that there are")

    return run


def make_catalogue(home: Path) -> Run:
    source, index = home / "catalogue.jsonl", home / "index.db"

    def run(data: bytes) -> None:
        source.write_bytes(data)
        index.unlink(missing_ok=True)
        n_items = max(data.count(b"\n") + (data[-1:] != b"\n"), 1)
        catalogue = Catalogue.open(source, index, n_items)
        try:
            _check_catalogue(catalogue, data, n_items)
        finally:
            catalogue.close()

    return run


def _check_catalogue(catalogue: Catalogue, data: bytes, n_items: int) -> None:
    items = [catalogue.item(row) for row in range(n_items)]
    promise(len(set(items)) == n_items, "every item has an id of its own")
    promise(catalogue.rows(items).tolist() == list(range(n_items)), "every item is found in its row")
    told = {line["row"]: line for line in map(json.loads, data.decode().split("\n")[:n_items])}
    for row, item in enumerate(items):
        promise(
            0 < len(item) <= 256 and (item, catalogue.title(row)) == (told[row]["item"], told[row]["title"]), "texts"
        )
        kept = {name: _as_kept(value) for name, value in told[row]["attributes"].items() if value != []}
        promise(catalogue.attributes(row) == kept, "attributes are kept")


def _as_kept(value: Any) -> Any:
    """Numbers are float64, lists tuples."""
    if isinstance(value, list):
        return tuple(value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def make_array(home: Path) -> Run:
    def run(data: bytes) -> None:
        (home / "x.npy").write_bytes(data)
        array = map_array(home, "x.npy", "<f4", (None, 4))
        promise(array.dtype == np.float32 and array.ndim == 2 and array.shape[1] == 4, "type and shape as asked for")
        promise(not array.flags.writeable and array.flags.c_contiguous, "read-only, in C order")
        promise(array.tobytes() == np.load(io.BytesIO(data), allow_pickle=False).tobytes(), "as numpy reads it")

    return run


def make_onnx(_: Path) -> Run:
    onnx: Any = None
    with suppress(ImportError):
        import onnx

    def run(data: bytes) -> None:
        check_onnx(data, inputs=INPUTS, outputs=OUTPUTS)
        if onnx is None:
            return
        graph = onnx.load_from_string(data).graph
        promise({value.name for value in graph.input} == set(INPUTS), "onnx sees the same inputs")
        allowed = all(node.op_type in OPERATORS.get(node.domain, ()) for node in graph.node)
        promise(allowed, "onnx sees no operator that is not allowed")
        promise(not any(tensor.external_data for tensor in graph.initializer), "onnx sees no data outside the file")

    return run


def make_model(home: Path) -> Run:
    """Models that the check takes are run: onnxruntime may refuse them, but must come back."""
    path = home / "encoder.onnx"
    rows, ages = np.arange(LENGTH, dtype=np.int32), np.arange(LENGTH, dtype=np.float64)
    vectors = np.linspace(-1, 1, LENGTH * DIM, dtype=np.float32).reshape(LENGTH, DIM)
    import_module("onnxruntime")  # before memory is limited

    def run(data: bytes) -> None:
        if check_onnx(data, inputs=INPUTS, outputs=OUTPUTS) > MAX_RUN:
            return
        path.write_bytes(data)
        encoder = Encoder(path, tuple(INPUTS), LENGTH, DIM)
        for count in (1, LENGTH):
            query = encoder.encode(vectors, rows[:count], ages[:count], rows[:count] % 2)
            promise(query.shape == (DIM,) and bool(np.isfinite(query).all()), "a finite query of the right shape")

    return run


def make_golden(_: Path) -> Run:
    known = manifest()

    def run(data: bytes) -> None:
        golden = parse_golden(data)
        check_golden_form(golden, known)
        for case in golden["encoder"]:
            promise(np.array(case["history"], np.float32).shape == (2, 2), "histories of the encoder's shape")
            promise(bool(np.isfinite(np.array(case["query"], np.float64)).all()), "finite queries")
        for story in golden["stories"]:
            promise(all(event["kind"] in known.event_kinds for event in story["events"]), "events of known kinds")

    return run


def make_zip(home: Path) -> Run:
    path, folder = home / "x.edgerec", home / "out"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with Archive(path) as archive:
            archive.manifest_bytes()
            for name in archive.names:
                expected = _member(data, name)
                archive.unpack(name, FileEntry(hashlib.sha256(expected).hexdigest(), len(expected)), folder)
                promise((folder / name).read_bytes() == expected, "members come out as zipfile reads them")
            promise(MANIFEST in archive.names, "there is a manifest")
        outside = [one for one in home.rglob("*") if one != path and folder not in (one, *one.parents)]
        promise(not outside, "nothing is written outside the folder")

    return run


def _member(data: bytes, name: str) -> bytes:
    """What a member holds, by zipfile's own reading; nothing where it cannot."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(name) as file:
            return file.read(1 << 22)
    except Exception:  # whatever it is, `Archive.unpack` must say it in its own words
        return b""
