"""What goes into and comes out of a bundle's ONNX files, for `check_onnx`."""

from __future__ import annotations

from collections.abc import Iterable

from edgerec.bundle.manifest import Manifest
from edgerec.bundle.onnx_check import Signature, check_onnx
from edgerec.bundle.onnx_schema import BOOL, FLOAT, INT64
from edgerec.errors import BundleInvalid


def encoder_signature(inputs: Iterable[str], length: int, dim: int) -> tuple[Signature, Signature]:
    """Inputs and outputs of an encoder that reads the named inputs."""
    known: Signature = {
        "history": (FLOAT, (None, length, dim)),
        "age_days": (FLOAT, (None, length)),
        "kind": (INT64, (None, length)),
        "mask": (BOOL, (None, length)),
    }
    return {name: known[name] for name in inputs}, {"query": (FLOAT, (None, dim))}


def check_encoder(data: bytes | memoryview, manifest: Manifest) -> int:
    """`encoder.onnx`: the inputs that the manifest names, and `query` float32 (B, dim). Raises BundleInvalid.

    Returns the elementary steps of one query (`check_onnx`).
    """
    inputs, outputs = encoder_signature(manifest.encoder_inputs, manifest.history_length, manifest.dim)
    return check_onnx(data, inputs=inputs, outputs=outputs)


def check_retriever(data: bytes | memoryview, manifest: Manifest) -> int:
    """`retrieve.onnx`: `query` float32 (B, dim + 2) → `rows` int64 (B, K). Raises BundleInvalid."""
    count = manifest.retrieval.get("candidates")
    if manifest.retrieval.get("kind") != "int8" or type(count) is not int or not 0 < count <= manifest.n_items:
        raise BundleInvalid("manifest.json.retrieval must be {'kind': 'int8', 'candidates': K}")
    return check_onnx(
        data, inputs={"query": (FLOAT, (None, manifest.dim + 2))}, outputs={"rows": (INT64, (None, count))}
    )
