"""The encoders that can be trained. Each turns a history into a query in the space of the item vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgerec.errors import TrainingError
from edgerec_exporters.models.bag import BagEncoder
from edgerec_exporters.models.base import Encoder

__all__ = ["MODELS", "BagEncoder", "Encoder", "build"]

MODELS: dict[str, Callable[..., Encoder]] = {"bag": BagEncoder}


def build(name: str, settings: dict[str, Any]) -> Encoder:
    """A fresh encoder. Raises TrainingError where there is no model of that name."""
    if name not in MODELS:
        raise TrainingError(f"there is no model '{name}'", hint=f"one of {', '.join(sorted(MODELS))}")
    return MODELS[name](**settings)
