"""From a history to the encoder's query."""

from __future__ import annotations

from edgerec.bundle import Bundle
from edgerec.history import History
from edgerec.types import Float32


def query_of(bundle: Bundle, history: History) -> Float32:
    """The encoder's output for the last events, float32 (dim,); zeros for an empty history.

    Raises BundleInvalid where onnxruntime fails or the output is not finite.
    """
    rows, age_days, kinds = history.window(bundle.manifest.history_length)
    return bundle.encoder.encode(bundle.model.vectors, rows, age_days, kinds)
