"""Makes small real bundles for tests: a bag encoder in ONNX, random arrays, a catalogue."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

LENGTH = 8
KINDS = {"click": {"weight": 1.0, "consumes": False}, "purchase": {"weight": 2.0, "consumes": True}}


def bag_encoder(dim: int, length: int = LENGTH, *, decay: float = 0.1) -> bytes:
    """query = W · mean of the history's vectors, weighted by exp(-decay · age); zeros where nothing is unmasked."""
    weights = np.eye(dim, dtype=np.float32)
    nodes = [
        helper.make_node("Mul", ["age_days", "decay"], ["scaled"]),
        helper.make_node("Neg", ["scaled"], ["negated"]),
        helper.make_node("Exp", ["negated"], ["decayed"]),
        helper.make_node("Cast", ["mask"], ["present"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["decayed", "present"], ["weight"]),
        helper.make_node("ReduceSum", ["weight", "one"], ["total"], keepdims=1),
        helper.make_node("Add", ["total", "tiny"], ["safe"]),
        helper.make_node("Div", ["weight", "safe"], ["share"]),
        helper.make_node("Unsqueeze", ["share", "one"], ["row"]),
        helper.make_node("MatMul", ["row", "history"], ["pooled"]),
        helper.make_node("Squeeze", ["pooled", "one"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["query"]),
    ]
    constants = {"decay": np.float32(decay), "one": np.array([1]), "tiny": np.float32(1e-9), "dense": weights}
    graph = helper.make_graph(
        nodes,
        "bag",
        [
            helper.make_tensor_value_info("history", TensorProto.FLOAT, ["B", length, dim]),
            helper.make_tensor_value_info("age_days", TensorProto.FLOAT, ["B", length]),
            helper.make_tensor_value_info("kind", TensorProto.INT64, ["B", length]),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, ["B", length]),
        ],
        [helper.make_tensor_value_info("query", TensorProto.FLOAT, ["B", dim])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def manifest_of(files: dict[str, bytes], n_items: int, dim: int, **changes: Any) -> dict[str, Any]:
    """The manifest's JSON object for these files."""
    return {
        "format": 1,
        "name": "tiny",
        "version": 1,
        "created": "2026-01-01T00:00:00Z",
        "min_runtime": "0.1.0",
        "dim": dim,
        "n_items": n_items,
        "event_kinds": KINDS,
        "history": {"length": LENGTH, "kinds": ["click", "purchase"]},
        "scenarios": {
            "default": {"seen": "hide", "weights": {"taste": 1.0, "neighbours": 1.0, "popular": 0.2}},
            "reorder": {"seen": "show", "weights": {"taste": 1.0, "neighbours": 1.0, "popular": 0.2, "habit": 2.0}},
        },
        "encoder_inputs": ["history", "age_days", "kind", "mask"],
        "sources": {
            "neighbours": {"half_life_days": 30.0},
            "popular": {"boost": 1.0, "half_events": 5.0},
            "habit": {"half_life_days": 60.0},
        },
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()
        },
        **changes,
    }


def npy(array: np.ndarray) -> bytes:
    """The bytes of an .npy file."""
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def catalogue_lines(n_items: int) -> list[dict[str, Any]]:
    """One object per item, with one attribute of every type; every fifth item has none."""
    colours = ("red", "green", "blue")
    lines = []
    for row in range(n_items):
        attributes: dict[str, Any] = {
            "price": round(0.5 + row % 17, 2),
            "colour": colours[row % 3],
            "new": row % 2 == 0,
            "tags": [f"t{row % 4}", f"u{row % 3}"],
        }
        lines.append(
            {"item": f"i{row}", "row": row, "title": f"Item {row}", "attributes": attributes if row % 5 else {}}
        )
    return lines


def repeat_files(n_items: int = 60, *, hidden: int = 6, seed: int = 0) -> dict[str, bytes]:
    """The files of the source `repeat`, with random weights."""
    rng = np.random.default_rng(seed)
    items = np.abs(rng.standard_normal((n_items, 4)))
    bounds = np.stack([np.full(25, -2.0), rng.uniform(1.0, 6.0, 25)])
    arrays = {
        "items": items,
        "range": bounds,
        "hidden": rng.standard_normal((26, hidden)) / 3,
        "out": rng.standard_normal(hidden + 26) / 3,
    }
    return {f"repeat/{name}.npy": npy(array.astype(np.float32)) for name, array in arrays.items()}


def bundle_files(n_items: int = 60, dim: int = 8, *, per_item: int = 5, seed: int = 0) -> dict[str, bytes]:
    """Every file but the manifest, by name."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate([rng.choice(n_items, per_item, replace=False) for _ in range(n_items)]).astype(np.int32)
    popularity = np.sort(rng.exponential(2.0, n_items))[::-1].astype(np.float32)
    lines = "".join(json.dumps(line) + "\n" for line in catalogue_lines(n_items))
    return {
        "encoder.onnx": bag_encoder(dim),
        "items/vectors.npy": npy((rng.standard_normal((n_items, dim)) / dim**0.5).astype(np.float32)),
        "items/bias.npy": npy(rng.standard_normal(n_items).astype(np.float32) * np.float32(0.1)),
        "items/popularity.npy": npy(np.ascontiguousarray(popularity)),
        "items/negatives.npy": npy(rng.integers(0, n_items, 512).astype(np.int32)),
        "neighbours/indptr.npy": npy(np.arange(0, len(ids) + 1, per_item, dtype=np.int32)),
        "neighbours/ids.npy": npy(ids),
        "neighbours/weights.npy": npy(rng.random(len(ids)).astype(np.float32)),
        "catalogue.jsonl": lines.encode(),
        "golden.json": b'{"encoder": [], "stories": []}\n',
    }


def write_folder(root: Path, files: dict[str, bytes], manifest: dict[str, Any] | bytes) -> Path:
    """A bundle as a folder."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "manifest.json").write_bytes(manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode())
    return root


def write_zip(path: Path, files: dict[str, bytes], manifest: dict[str, Any] | bytes) -> Path:
    """A bundle as a zip."""
    raw = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, "manifest.json": raw}.items():
            archive.writestr(name, data)
    return path


def tiny_bundle(path: Path, n_items: int = 60, dim: int = 8, *, seed: int = 0, **changes: Any) -> Path:
    """Writes a whole bundle, a zip where `path` ends in .edgerec, else a folder; returns `path`."""
    files = bundle_files(n_items, dim, seed=seed)
    write = write_zip if path.suffix == ".edgerec" else write_folder
    return write(path, files, manifest_of(files, n_items, dim, **changes))


def contents(folder: Path) -> set[str]:
    """Everything below a folder but lock files."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "lock" not in path.name}


# A golden case and a golden story of the default width, 8.
CASE: dict[str, Any] = {
    "history": [[0.0] * 8] * LENGTH,
    "age_days": [0] * 8,
    "kind": [0] * 8,
    "mask": [0] * 8,
    "query": [0.0] * 8,
}
STORY: dict[str, Any] = {
    "events": [{"item": "i1", "kind": "click", "at": 1.7e9, "event_id": "e", "group": None}],
    "user_vector": [0.0] * 8,
    "rankings": {"default": {"items": ["i2"], "scores": [1.5]}},
}
EVENT: dict[str, Any] = STORY["events"][0]


def golden(case: dict[str, Any] | None = None, **story: Any) -> bytes:
    """golden.json with one case and one story, with some fields changed."""
    parts = {"encoder": [{**CASE, **(case or {})}], "stories": [{**STORY, **story}]}
    return json.dumps(parts).encode()
