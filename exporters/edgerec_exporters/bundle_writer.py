"""Writes a trained model as a bundle, reads it back as a device would, and keeps it only if it is the same model."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle import Bundle, Manifest, Retriever, load_bundle
from edgerec.bundle.content import ContentModel
from edgerec.bundle.manifest import EventKind, Scenario
from edgerec.bundle.repeat import RepeatModel
from edgerec.errors import BundleError, ExportError
from edgerec.types import Model
from edgerec.version import __version__
from edgerec_exporters.bundle_files import Stories, npy, pack, tell, write_files
from edgerec_exporters.golden import to_json
from edgerec_exporters.int8 import CANDIDATES, build_retriever
from edgerec_exporters.onnx_export import export_encoder
from edgerec_exporters.parity import (
    MAX_INT8_LOSS,
    TOP,
    Float32Parity,
    History,
    Int8Parity,
    blend_coefficients,
    float32_parity,
    int8_parity,
    onnx_queries,
)

if TYPE_CHECKING:
    from torch import nn

LARGE = 20_000
"""Above so many items the int8 scan is worth its file: below, float32 is as fast."""
RETRIEVE = ("auto", "exact", "int8")
_INT8_QUERIES = 1000


class Exportable(Protocol):
    """What an export needs of a trained model."""

    encoder: nn.Module
    vectors: NDArray[np.float32]
    bias: NDArray[np.float32]
    popularity: NDArray[np.float32]
    negatives: NDArray[np.int32]
    neighbours: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]] | None
    items: Sequence[str]
    titles: Sequence[str]
    attributes: Sequence[Mapping[str, Any]]
    histories: Sequence[History]
    event_kinds: Mapping[str, EventKind]
    history_length: int
    history_kinds: Sequence[str]
    scenarios: Mapping[str, Scenario]
    sources: Mapping[str, Mapping[str, Any]]
    blend: Mapping[str, Any]
    guard: Mapping[str, Any]
    updater: str
    updaters: Mapping[str, Mapping[str, Any]]
    n_negatives: int
    n_replayed: int
    n_rivals: int
    learn_history: bool
    filters: Mapping[str, Mapping[str, Any]]
    federated: Mapping[str, Any]
    content: ContentModel | None
    repeat: RepeatModel | None


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written. Sizes in bytes: `files` unpacked, `size` of the zip."""

    bundle: str
    name: str
    version: int
    digest: str
    n_items: int
    dim: int
    size: int
    files: Mapping[str, int]
    ratio_zip: float
    ratio_int8: float | None
    float32: Float32Parity
    int8: Int8Parity
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def export(
    trained: Exportable,
    out: str | os.PathLike[str],
    *,
    name: str,
    version: int,
    metrics: Mapping[str, Any] | None = None,
    retrieve: str = "auto",
    stories: Stories | None = None,
    created: str | None = None,
) -> ExportReport:
    """Writes the bundle `out`, a zip, and says how it compares with the trained model.

    `retrieve`: "exact", "int8", or "auto" (int8 above 20,000 items). `created`: ISO time, else now; with a
    fixed one the same model gives the same bytes. Raises ExportError, and leaves `out` as it was, unless a
    device opens the file, its top-10 equals PyTorch's on every history, and int8 loses at most 1 % NDCG@10.
    """
    started = time.monotonic()
    target = Path(out)
    _check_request(trained, target, name, version, retrieve)
    with tempfile.TemporaryDirectory(prefix=".edgerec-export-", dir=target.parent) as scratch:
        work = Path(scratch)
        try:
            folder = _write_folder(trained, work, name, version, dict(metrics or {}), retrieve, created)
            tell(folder, stories, work / "cache")
            packed = pack(folder, work / target.name)
            with load_bundle(packed, work / "reopened") as bundle:
                report = _compare(trained, bundle, work, target, packed.stat().st_size)
        except BundleError as error:
            raise ExportError(f"a device would refuse the exported bundle: {error}") from error
        _check_parity(report)
        with packed.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(packed, target)
    return replace(report, seconds=time.monotonic() - started)


def _check_request(trained: Exportable, target: Path, name: str, version: int, retrieve: str) -> None:
    if retrieve not in RETRIEVE:
        raise ExportError(f"retrieve = {retrieve!r}", hint=f"one of {', '.join(RETRIEVE)}")
    if not name or version < 1:
        raise ExportError("a bundle needs a name, and a version from 1")
    if not target.parent.is_dir():
        raise ExportError(f"no folder {target.parent}")
    if not trained.histories:
        raise ExportError("the trained model holds no histories to compare the export on")


def _write_folder(
    trained: Exportable,
    work: Path,
    name: str,
    version: int,
    metrics: dict[str, Any],
    retrieve: str,
    created: str | None,
) -> Path:
    n_items, dim = trained.vectors.shape
    encoder, inputs = export_encoder(trained.encoder, trained.history_length, dim, len(trained.event_kinds))
    files = {"encoder.onnx": encoder, **_arrays(trained), "catalogue.jsonl": _catalogue(trained)}
    retrieval: dict[str, Any] = {"kind": "exact"}
    if retrieve == "int8" or (retrieve == "auto" and n_items > LARGE):
        files["retrieve.onnx"] = build_retriever(trained.vectors, trained.bias, trained.popularity, CANDIDATES)
        retrieval = {"kind": "int8", "candidates": min(CANDIDATES, n_items)}
    files["golden.json"] = to_json([], [])
    manifest = Manifest(
        name=name,
        version=version,
        created=created or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        min_runtime=__version__,
        dim=dim,
        n_items=n_items,
        event_kinds=trained.event_kinds,
        history_length=trained.history_length,
        history_kinds=tuple(trained.history_kinds),
        scenarios=trained.scenarios,
        encoder_inputs=inputs,
        files={},
        sources=trained.sources,
        blend=trained.blend,
        guard=trained.guard,
        updater=trained.updater,
        updaters=trained.updaters,
        n_negatives=trained.n_negatives,
        n_replayed=trained.n_replayed,
        n_rivals=trained.n_rivals,
        learn_history=trained.learn_history,
        filters=trained.filters,
        federated=trained.federated,
        retrieval=retrieval,
        metrics=metrics,
        content=trained.content.constants() if trained.content else {},
    )
    folder = work / "bundle"
    write_files(folder, files, manifest)
    return folder


def _arrays(trained: Exportable) -> dict[str, bytes]:
    arrays: dict[str, tuple[str, NDArray[Any]]] = {
        "items/vectors.npy": ("<f4", trained.vectors),
        "items/bias.npy": ("<f4", trained.bias),
        "items/popularity.npy": ("<f4", trained.popularity),
        "items/negatives.npy": ("<i4", trained.negatives),
    }
    if trained.neighbours is not None:
        indptr, ids, weights = trained.neighbours
        arrays["neighbours/indptr.npy"] = ("<i4", indptr)
        arrays["neighbours/ids.npy"] = ("<i4", ids)
        arrays["neighbours/weights.npy"] = ("<f4", weights)
    arrays.update({name: ("<f4", array) for name, array in (trained.content.arrays() if trained.content else ())})
    arrays.update({name: ("<f4", array) for name, array in (trained.repeat.arrays().items() if trained.repeat else ())})
    return {name: npy(np.ascontiguousarray(array, dtype)) for name, (dtype, array) in arrays.items()}


def _catalogue(trained: Exportable) -> bytes:
    rows = zip(trained.items, trained.titles, trained.attributes, strict=True)
    lines = (
        json.dumps({"item": item, "row": row, "title": title, "attributes": dict(known)}, ensure_ascii=False)
        for row, (item, title, known) in enumerate(rows)
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _compare(trained: Exportable, bundle: Bundle, work: Path, target: Path, size: int) -> ExportReport:
    manifest, model = bundle.manifest, bundle.model
    original = Model(trained.vectors, trained.bias, trained.popularity)
    sizes = {"manifest.json": (bundle.path / "manifest.json").stat().st_size}
    sizes.update({name: entry.size for name, entry in sorted(manifest.files.items())})
    float_bytes = sum(sizes[f"items/{name}.npy"] for name in ("vectors", "bias", "popularity"))
    return ExportReport(
        bundle=str(target),
        name=manifest.name,
        version=manifest.version,
        digest=bundle.digest,
        n_items=manifest.n_items,
        dim=manifest.dim,
        size=size,
        files=sizes,
        ratio_zip=size / sum(sizes.values()),
        ratio_int8=sizes["retrieve.onnx"] / float_bytes if "retrieve.onnx" in sizes else None,
        float32=float32_parity(trained.encoder, original, bundle, trained.histories),
        int8=_compare_int8(bundle, model, trained.histories[:_INT8_QUERIES], work),
        seconds=0.0,
    )


def _compare_int8(bundle: Bundle, model: Model, histories: Sequence[History], work: Path) -> Int8Parity:
    weights = bundle.manifest.scenarios["default"].weights
    queries = blend_coefficients(
        onnx_queries(bundle.encoder, model, histories), model, weights.get("taste", 0.0), weights.get("popular", 0.0)
    )
    return int8_parity(
        bundle.retriever or _retriever(model, CANDIDATES, work / "scan.onnx"),
        _retriever(model, TOP, work / "narrow.onnx"),
        model,
        queries,
        [past.targets for past in histories],
        shipped=bundle.retriever is not None,
    )


def _retriever(model: Model, candidates: int, path: Path) -> Retriever:
    path.write_bytes(build_retriever(model.vectors, model.bias, model.popularity, candidates))
    return Retriever(path, model.n_items)


def _check_parity(report: ExportReport) -> None:
    if report.float32.differing:
        raise ExportError(
            f"the top-10 of {report.float32.differing} of {report.float32.histories} histories differ from PyTorch's",
            hint=f"the largest difference of a query is {report.float32.max_query_error:.2e}",
        )
    loss = 1 - report.int8.relative_ndcg
    if report.int8.shipped and loss > MAX_INT8_LOSS:
        raise ExportError(f"the int8 scan loses {loss:.1%} of NDCG@10", hint="export with --retrieve exact")
