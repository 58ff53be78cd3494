"""The encoders that can be trained. Each turns a history into a query in the space of the item vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from edgerec.errors import TrainingError
from edgerec_exporters.models.bag import BagEncoder

__all__ = ["MODELS", "BagEncoder", "Encoder", "build"]


class Encoder(nn.Module):
    """What every encoder fulfils; `encoder.onnx` has this signature."""

    settings: dict[str, Any]
    """The arguments that `build` makes the same module from."""

    def forward(self, history: Tensor, age_days: Tensor, kind: Tensor, mask: Tensor) -> Tensor:
        """`history` float32 (B, L, dim), oldest first, padded at the front · `age_days` float32 (B, L), counted
        back from the newest event · `kind` int64 (B, L) · `mask` bool (B, L) → float32 (B, dim), zeros where all
        is masked."""
        raise NotImplementedError


MODELS: dict[str, Callable[..., nn.Module]] = {"bag": BagEncoder}


def build(name: str, settings: dict[str, Any]) -> nn.Module:
    """A fresh encoder. Raises TrainingError where there is no model of that name."""
    if name not in MODELS:
        raise TrainingError(f"there is no model '{name}'", hint=f"one of {', '.join(sorted(MODELS))}")
    return MODELS[name](**settings)
