from __future__ import annotations
import math
import torch
from torch import Tensor, nn


class BagEncoder(nn.Module):
    def __init__(
        self, dim, n_kinds=1, n_knots=16, max_age_days=730.0, hidden=0, content=0, norm=0.5, dropout=0.0, bias=False
    ):
        super().__init__()
        self.register_buffer("knots", torch.linspace(0, 1, n_knots) * math.log1p(max_age_days))
        self.step = math.log1p(max_age_days) / (n_knots - 1)
        self.decay = nn.Parameter(-0.3 * self.knots.clone())
        self.kind = nn.Parameter(torch.zeros(n_kinds))
        self.norm = norm
        self.content = nn.Sequential(nn.Linear(dim, content), nn.ReLU(), nn.Linear(content, 1)) if content else None
        self.pre = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim)) if hidden else None
        self.project = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.project.weight)
        self.drop = nn.Dropout(dropout)

    def forward(self, history, age_days, kind, mask):
        x = torch.log1p(age_days.clamp(min=0)).clamp(max=float(self.knots[-1]) if False else 6.5944).unsqueeze(-1)
        hat = torch.relu(1 - (x - self.knots).abs() / self.step)
        logit = hat @ self.decay + self.kind[kind]
        if self.content is not None:
            logit = logit + self.content(history).squeeze(-1)
        w = torch.exp(logit) * mask
        p = (w.unsqueeze(1) @ history).squeeze(1)
        p = p / (w.sum(1, keepdim=True) + 1e-6) ** self.norm
        q = self.project(p)
        if self.pre is not None:
            q = q + self.pre(p) * mask.any(1, keepdim=True)
        return q
