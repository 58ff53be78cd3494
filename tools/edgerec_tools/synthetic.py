"""Bundles of random items, of any size, for benchmarks: the shape of a real one, with nothing learned in it."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle import FileEntry, Manifest
from edgerec.bundle.manifest import EventKind, Scenario, dump
from edgerec.errors import MissingDistribution
from edgerec.version import __version__

HISTORY = 50
NEIGHBOURS = 50
NEGATIVES = 8192
_BAG = """
<ir_version: 10, opset_import: ["" : 20]>
bag (float[B, {length}, {dim}] history, float[B, {length}] age_days, int64[B, {length}] kind, bool[B, {length}] mask)
    => (float[B, {dim}] query)
<float[1] rate = {{-0.5}}, float[2] kinds = {{0.0, 0.5}}, float[1] one = {{1.0}}, float[1] tiny = {{1e-6}},
 int64[1] places = {{1}}, float[{dim}, {dim}] dense = {{{identity}}}>
{{
    older = Add(age_days, one)
    log_age = Log(older)
    decay = Mul(log_age, rate)
    of_kind = Gather(kinds, kind)
    logit = Add(decay, of_kind)
    odds = Exp(logit)
    present = Cast<to = 1>(mask)
    weight = Mul(odds, present)
    row = Unsqueeze(weight, places)
    summed = MatMul(row, history)
    pooled = Squeeze(summed, places)
    total = ReduceSum<keepdims = 1>(weight, places)
    safe = Add(total, tiny)
    norm = Sqrt(safe)
    mean = Div(pooled, norm)
    query = MatMul(mean, dense)
}}
"""


def random_vectors(n_items: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Item vectors, float32 (n_items, dim), of length about 1."""
    vectors = np.random.default_rng(seed).standard_normal((n_items, dim), np.float32)
    vectors /= np.float32(dim**0.5)
    return vectors


def bag_encoder(dim: int, length: int = HISTORY) -> bytes:
    """ONNX bytes of a bag encoder: the history's vectors summed with a weight that decays with age, then a dense layer.

    Raises MissingDistribution where the `onnx` package is absent.
    """
    try:
        import onnx.parser
    except ModuleNotFoundError:
        raise _missing() from None
    identity = ", ".join(str(value) for value in np.eye(dim).ravel())
    model = onnx.parser.parse_model(_BAG.format(length=length, dim=dim, identity=identity))
    return bytes(model.SerializeToString())


def int8_scan(vectors: NDArray[np.float32], bias: NDArray[np.float32], popularity: NDArray[np.float32]) -> bytes:
    """ONNX bytes of the scan that an export of a large catalogue ships. Raises MissingDistribution."""
    try:
        from edgerec_exporters.int8 import build_retriever
    except ModuleNotFoundError:
        raise _missing() from None
    return build_retriever(vectors, bias, popularity)


def _missing() -> MissingDistribution:
    return MissingDistribution("a synthetic bundle needs edgerec-exporters", hint="pip install edgerec-exporters")


def write_bundle(folder: Path, n_items: int, dim: int = 64, *, seed: int = 0) -> Path:
    """Writes a bundle as a folder: random vectors, popularity and neighbours, a bag encoder; returns `folder`.

    Items are called i0, i1, …; each has NEIGHBOURS neighbours; kinds are click and purchase, scenarios default
    (seen items hidden) and reorder. Raises MissingDistribution.
    """
    files = {"encoder.onnx": bag_encoder(dim), **_arrays(n_items, dim, seed), "catalogue.jsonl": _catalogue(n_items)}
    files["golden.json"] = b'{"encoder": [], "stories": []}\n'
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_text(dump(_manifest(files, n_items, dim)), "utf-8")
    return folder


def _arrays(n_items: int, dim: int, seed: int) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    per_item = min(NEIGHBOURS, n_items)
    arrays: dict[str, NDArray[Any]] = {
        "items/vectors": random_vectors(n_items, dim, seed),
        "items/bias": rng.normal(0, 0.1, n_items).astype(np.float32),
        "items/popularity": np.log1p(rng.exponential(20.0, n_items)).astype(np.float32),
        "items/negatives": rng.integers(0, n_items, NEGATIVES).astype(np.int32),
        "neighbours/indptr": np.arange(0, n_items * per_item + 1, per_item, dtype=np.int32),
        "neighbours/ids": rng.integers(0, n_items, n_items * per_item).astype(np.int32),
        "neighbours/weights": rng.exponential(0.05, n_items * per_item).astype(np.float32),
    }
    return {f"{name}.npy": _npy(array) for name, array in arrays.items()}


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _catalogue(n_items: int) -> bytes:
    lines = (
        json.dumps({"item": f"i{row}", "row": row, "title": f"Item {row}", "attributes": {"price": row % 100}})
        for row in range(n_items)
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _manifest(files: dict[str, bytes], n_items: int, dim: int) -> Manifest:
    weights = {"taste": 1.0, "neighbours": 1.0, "popular": 0.2}
    return Manifest(
        name=f"synthetic-{n_items}",
        version=1,
        created="2026-01-01T00:00:00Z",
        min_runtime=__version__,
        dim=dim,
        n_items=n_items,
        event_kinds={"click": EventKind(1.0), "purchase": EventKind(2.0, consumes=True)},
        history_length=HISTORY,
        history_kinds=("click", "purchase"),
        scenarios={
            "default": Scenario("hide", weights),
            "reorder": Scenario("show", {**weights, "habit": 2.0}),
        },
        encoder_inputs=("history", "age_days", "kind", "mask"),
        files={name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
        sources={
            "neighbours": {"half_life_days": 60.0},
            "popular": {"boost": 1.0, "half_events": 5.0},
            "habit": {"half_life_days": 120.0},
        },
    )
