"""What an encoder is: a module with this signature, which `encoder.onnx` has too."""

from __future__ import annotations

from typing import Any

import torch
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


class SequenceEncoder(Encoder):
    """An encoder that reads the order of events, not their ages or kinds, and can be asked at every event at once."""

    def states(self, history: Tensor, mask: Tensor) -> Tensor:
        """The query after each event, float32 (B, L, dim), a function of that event and those before it."""
        raise NotImplementedError


class Dropout(nn.Module):
    """Dropout whose chances are bytes: PyTorch draws one number per value, which on a CPU takes an eighth of a
    transformer's training time; here eight values share one. `share` is rounded to 1/256."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.below = round(share * 256)

    def forward(self, x: Tensor) -> Tensor:
        """`x` itself outside training."""
        if not self.training or not self.below:
            return x
        drawn = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
        lowest = torch.iinfo(torch.int64).min  # random_() alone would leave the top bit of every eighth byte 0
        kept = drawn.random_(lowest, None).view(torch.uint8)[: x.numel()].view(x.shape) >= self.below
        return x * (kept * (256 / (256 - self.below)))
