"""Softmax over a sample of the catalogue that a whole batch shares, corrected for how the sample was drawn."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]


def draw_candidates(
    targets: Rows, n_items: int, n_negatives: int, chance: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Rows, NDArray[np.float32]]:
    """Rows to rank against, and the log of the probability that each is among them.

    The batch's own `targets` (T,) and `n_negatives` draws with `chance` (n_items,), each row once, ascending. Another
    example sees item i with probability 1 − (1 − chance_i)^m · (1 − f_i)^T, f being the share of i among the
    targets. With n_negatives >= n_items every item takes part, and nothing is corrected.
    """
    if n_negatives >= n_items:
        return np.arange(n_items), np.zeros(n_items, np.float32)
    drawn = np.searchsorted(np.cumsum(chance), rng.random(n_negatives) * chance.sum())
    rows = np.union1d(np.minimum(drawn, n_items - 1), targets)
    share = np.bincount(targets, minlength=n_items)[rows] / max(len(targets), 1)
    missed = n_negatives * np.log1p(-np.minimum(chance[rows] / chance.sum(), 1 - 1e-9))
    missed += len(targets) * np.log1p(-np.minimum(share, 1 - 1e-9))
    return rows, np.log(-np.expm1(np.minimum(missed, -1e-12))).astype(np.float32)


def sampled_softmax(
    logits: Tensor, targets: Tensor, log_inclusion: Tensor, excluded: Tensor | None, weight: Tensor
) -> Tensor:
    """Mean cross-entropy per target of softmax over the candidates; a scalar.

    `logits` (B, C) · `targets` bool (B, C) · `log_inclusion` (C,): a candidate that an example met by chance stands
    for 1/π candidates, so log π is taken off its logit (Bengio & Senécal 2008); the example's own targets were bound
    to be there and are left alone, without which the estimate is biased · `excluded` bool (B, C): no candidates for
    this example · `weight` (B,). Where nothing was sampled this is the cross-entropy over the whole catalogue.
    """
    corrected = torch.where(targets, logits, logits - log_inclusion)
    if excluded is not None:
        corrected = corrected.masked_fill(excluded & ~targets, float("-inf"))
    loss = -(torch.log_softmax(corrected, 1).masked_fill(~targets, 0.0)).sum(1)
    total: Tensor = (loss * weight).sum() / (targets.sum(1) * weight).sum().clamp(min=1e-9)
    return total
