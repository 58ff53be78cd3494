"""What the sizes of a bundle's files say, before one of them is unpacked or read."""

from __future__ import annotations

from edgerec.bundle.arrays import ALIGNMENT, MAX_HEADER
from edgerec.bundle.manifest import Manifest
from edgerec.bundle.opened import (
    BIAS,
    CATALOGUE,
    ENCODER,
    GOLDEN,
    IDS,
    INDPTR,
    NEGATIVES,
    POPULARITY,
    RETRIEVE,
    VECTORS,
    WEIGHTS,
)
from edgerec.bundle.repeat import HIDDEN, ITEMS, MAX_HIDDEN, N_FEATURES, N_ITEM, OUT, RANGE
from edgerec.errors import BundleInvalid

MAX_ONNX = 1 << 31
MAX_NEGATIVES = 1 << 24
MAX_GOLDEN = 1 << 24
MAX_LINE = 1 << 16
"""Bytes of a line of the catalogue."""

_MIN_LINE = len('{"item":"a","row":0,"title":"","attributes":{}}')
_HEADER = MAX_HEADER + ALIGNMENT


def check_sizes(manifest: Manifest) -> None:
    """Raises BundleInvalid where a file is too large, or does not fit the number of items and dimensions."""
    n, files = manifest.n_items, manifest.files
    exact = {VECTORS: n * manifest.dim, BIAS: n, POPULARITY: n, INDPTR: n + 1, ITEMS: n * N_ITEM, RANGE: 2 * N_FEATURES}
    for name, count in exact.items():
        if name in files and not 4 * count < files[name].size <= 4 * count + _HEADER:
            raise BundleInvalid(
                f"{name}: {files[name].size} bytes cannot be the {count} numbers that the manifest asks for"
            )
    if IDS in files and files[IDS].size != files[WEIGHTS].size:
        raise BundleInvalid(f"{IDS}, {WEIGHTS}: of different sizes")
    if not n * _MIN_LINE <= files[CATALOGUE].size <= n * MAX_LINE:
        raise BundleInvalid(f"{CATALOGUE}: {files[CATALOGUE].size} bytes cannot be the lines of {n} items")
    limits = {NEGATIVES: 4 * MAX_NEGATIVES + _HEADER, GOLDEN: MAX_GOLDEN, ENCODER: MAX_ONNX, RETRIEVE: MAX_ONNX}
    limits |= {name: 4 * MAX_HIDDEN * (N_FEATURES + 1) + _HEADER for name in (HIDDEN, OUT)}
    for name, limit in limits.items():
        if name in files and files[name].size > limit:
            raise BundleInvalid(f"{name}: larger than {limit} bytes")
