"""The encoders that can be trained. Each turns a history into a query in the space of the item vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgerec.errors import TrainingError
from edgerec_exporters.models.bag import BagEncoder
from edgerec_exporters.models.base import Encoder, SequenceEncoder
from edgerec_exporters.models.gru4rec import Gru4RecEncoder
from edgerec_exporters.models.sasrec import SasRecEncoder

__all__ = ["MODELS", "BagEncoder", "Encoder", "Gru4RecEncoder", "SasRecEncoder", "SequenceEncoder", "build"]

MODELS: dict[str, Callable[..., Encoder]] = {
    "bag": BagEncoder,
    "ials": BagEncoder,
    "lightgcn": BagEncoder,
    "sasrec": SasRecEncoder,
    "gru4rec": Gru4RecEncoder,
}
"""`ials` and `lightgcn` are bags over item vectors from those spaces."""


def build(name: str, settings: dict[str, Any]) -> Encoder:
    """A fresh encoder. Raises TrainingError where there is no model of that name."""
    if name not in MODELS:
        raise TrainingError(f"there is no model '{name}'", hint=f"one of {', '.join(sorted(MODELS))}")
    return MODELS[name](**settings)
