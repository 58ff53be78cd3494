"""A bundle with another popularity and other blend weights under a new number; nothing else in it changes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgerec.bundle import Manifest, load_bundle
from edgerec.bundle.manifest import Scenario, parse
from edgerec.bundle.opened import IDS, INDPTR, WEIGHTS
from edgerec.bundle.repeat import ITEMS
from edgerec.errors import BundleError, ExportError
from edgerec.files import scratch
from edgerec.records import changed
from edgerec.types import Float32
from edgerec_exporters.bundle_files import Stories, npy, pack, tell, write_files
from edgerec_exporters.federation.pairs import Csr
from edgerec_exporters.golden import to_json

POPULARITY = "items/popularity.npy"
GOLDEN = "golden.json"
RETRIEVE = "retrieve.onnx"

Weights = Mapping[str, Mapping[str, float]]
"""Scenario → source → weight. A scenario that is not named keeps its own."""
Constants = Mapping[str, Mapping[str, Any]]
"""Source → constants; those that are not named stay."""


def rewritten(
    bundle_folder: Path,
    popularity: Float32 | None,
    weights: Weights,
    version: int,
    out_folder: Path,
    *,
    sources: Constants | None = None,
    neighbours: Csr | None = None,
    repeat_items: Float32 | None = None,
    created: str | None = None,
) -> Path:
    """Writes the bundle in a folder to another, new one; quickly, for a simulation. None keeps the popularity.

    Golden stories, which tell rankings, are left out; the encoder's cases stay. `created`: ISO time, else the old one.
    Raises BundleError for an unsound manifest, ExportError for what does not fit it.
    """
    manifest = parse((bundle_folder / "manifest.json").read_bytes())
    _check(manifest, popularity, weights)
    made = {} if popularity is None else {POPULARITY: npy(np.ascontiguousarray(popularity, "<f4"))}
    if made and RETRIEVE in manifest.files:
        made[RETRIEVE] = _scan(bundle_folder, manifest, made[POPULARITY])
    made |= _neighbours(manifest, neighbours)
    if repeat_items is not None:
        made[ITEMS] = npy(np.ascontiguousarray(repeat_items, "<f4"))
    golden = json.loads((bundle_folder / GOLDEN).read_bytes())
    made[GOLDEN] = to_json(golden["encoder"], golden["stories"] if not (made or weights or sources) else [])
    for name in manifest.files.keys() - made.keys():
        (out_folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle_folder / name, out_folder / name)
    scenarios = dict(manifest.scenarios)
    scenarios |= {name: Scenario(scenarios[name].seen, dict(own)) for name, own in weights.items()}
    constants = {**manifest.sources}
    constants |= {name: {**constants.get(name, {}), **own} for name, own in (sources or {}).items()}
    told = changed(
        manifest, version=version, scenarios=scenarios, sources=constants, created=created or manifest.created
    )
    write_files(out_folder, made, told)
    return out_folder


def candidate(
    bundle: Path,
    popularity: Float32 | None,
    weights: Weights,
    version: int,
    out: Path,
    *,
    sources: Constants | None = None,
    neighbours: Csr | None = None,
    repeat_items: Float32 | None = None,
    stories: Stories | None = None,
    created: str | None = None,
) -> Path:
    """Writes the rewritten bundle, a folder or a zip, as the zip `out`, golden file and all, and opens it as a device
    would. `stories` None tells them by the runtime; `created`: now by default. Raises ExportError or BundleError, and
    leaves `out` as it was.
    """
    if stories is None:
        from edgerec_exporters.golden import tell_stories as stories
    created = created or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with scratch(out.absolute().parent) as work:
        with load_bundle(bundle, work / "old") as old:
            new = work / "new"
            changes = {"sources": sources, "neighbours": neighbours, "repeat_items": repeat_items, "created": created}
            folder = rewritten(old.path, popularity, weights, version, new, **changes)  # type: ignore[arg-type]
        try:
            tell(folder, stories, work / "told")
            packed = pack(folder, work / out.name)
            load_bundle(packed, work / "reopened").close()
        except BundleError as error:
            raise ExportError(f"a device would refuse the candidate: {error}") from error
        with packed.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(packed, out)
    return out


def _check(manifest: Manifest, popularity: Float32 | None, weights: Weights) -> None:
    if popularity is not None and (popularity.shape != (manifest.n_items,) or not np.isfinite(popularity).all()):
        raise ExportError(f"a popularity of {popularity.shape}, finite numbers for {manifest.n_items} items are needed")
    if unknown := sorted(set(weights) - set(manifest.scenarios)):
        raise ExportError(f"the bundle has no scenario {unknown[0]!r}")


def _neighbours(manifest: Manifest, neighbours: Csr | None) -> dict[str, bytes]:
    """The files of other item-to-item weights. Raises ExportError where the bundle has none."""
    if neighbours is None:
        return {}
    if INDPTR not in manifest.files:
        raise ExportError("the bundle has no item-to-item weights")
    typed = zip((INDPTR, IDS, WEIGHTS), ("<i4", "<i4", "<f4"), neighbours, strict=True)
    return {name: npy(np.ascontiguousarray(array, dtype)) for name, dtype, array in typed}


def _scan(folder: Path, manifest: Manifest, popularity: bytes) -> bytes:
    """The int8 scan, which holds the popularity too, made anew with as many candidates."""
    import io

    from edgerec_exporters.int8 import build_retriever

    vectors, bias = (np.load(folder / "items" / f"{name}.npy") for name in ("vectors", "bias"))
    return build_retriever(vectors, bias, np.load(io.BytesIO(popularity)), int(manifest.retrieval["candidates"]))
