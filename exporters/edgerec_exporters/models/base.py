"""What an encoder is: a module with this signature, which `encoder.onnx` has too."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Encoder(nn.Module):
    """Turns a history into a query in the space of the item vectors.

    `settings` are the arguments that `models.build` makes the same module from.
    """

    settings: dict[str, Any]

    def forward(self, history: Tensor, age_days: Tensor, kind: Tensor, mask: Tensor) -> Tensor:
        """`history` float32 (B, L, dim), oldest first, padded at the front · `age_days` float32 (B, L), counted
        back from the newest event · `kind` int64 (B, L) · `mask` bool (B, L) → float32 (B, dim), zeros where all
        is masked."""
        raise NotImplementedError
