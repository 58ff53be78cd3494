"""The bag encoder: a recency-weighted sum of item vectors, blind to order within one moment, so it suits baskets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgerec_exporters.models.base import Encoder

MAX_AGE_DAYS = 730.0
N_KNOTS = 16


class BagEncoder(Encoder):
    """query = P · Σ_l w_l x_l / (Σ_l w_l)^½ with w_l = exp(decay(log(1 + age_l)) + kind_l).

    `decay` is piecewise linear between `N_KNOTS` learned values, at ages evenly spaced in log(1 + days). The square
    root lies between a mean (blind to how much is known) and a sum (which long histories would blow up).
    """

    knots: Tensor

    def __init__(self, dim: int, kind_weights: Sequence[float] = (1.0,), gain: float = 1.0) -> None:
        """`kind_weights`: what an event of each kind counts at first · `gain`: P starts as that many times I."""
        super().__init__()
        self.settings = {"dim": dim, "kind_weights": list(kind_weights), "gain": gain}
        span = math.log1p(MAX_AGE_DAYS)
        self.scale = (N_KNOTS - 1) / span
        self.register_buffer("knots", torch.arange(N_KNOTS, dtype=torch.float32))
        self.decay = nn.Parameter(-0.3 / self.scale * self.knots.clone())
        self.kind = nn.Parameter(torch.tensor([[math.log(max(weight, 1e-3))] for weight in kind_weights]))
        self.project = nn.Parameter(torch.eye(dim) * gain)

    def forward(self, history: Tensor, age_days: Tensor, kind: Tensor, mask: Tensor) -> Tensor:
        """As `Encoder`."""
        place = torch.log1p(age_days.clamp(0.0, MAX_AGE_DAYS)) * self.scale
        hats = torch.relu(1.0 - (place.unsqueeze(-1) - self.knots).abs())
        logit = hats @ self.decay.unsqueeze(-1) + functional.embedding(kind, self.kind)
        weight = torch.exp(logit) * mask.unsqueeze(-1)
        pooled = (weight * history).sum(1)
        return (pooled * torch.rsqrt(weight.sum(1) + 1e-6)) @ self.project
