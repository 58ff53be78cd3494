"""Softmax over a sample of the catalogue that a whole batch shares, corrected for how the sample was drawn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

BLOCK = 512
"""Rows of the shared softmax at once."""
LOG2_E = 1 / math.log(2)

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


class _SharedSoftmax(torch.autograd.Function):
    """Loss and gradients in one pass over blocks of rows that stay in the processor's cache: the matrix of all rows
    by all candidates is never written to memory, which halves the time."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, pool: Tensor, offset: Tensor, own: Tensor, place: Tensor, weight: Tensor
    ) -> Tensor:
        total = weight.sum().clamp(min=1e-9)
        d_states, d_pool, d_offset = torch.empty_like(states), torch.zeros_like(pool), torch.zeros_like(offset)
        d_own, loss = torch.empty_like(own), torch.zeros((), device=states.device)
        for start in range(0, len(states), BLOCK):
            part = slice(start, start + BLOCK)
            # in base 2, for exp2 takes half of exp's time
            logits = torch.addmm(offset, states[part], pool.T, beta=LOG2_E, alpha=LOG2_E)
            met = (place[part] >= 0).nonzero().squeeze(1)
            logits[met, place[part][met]] = float("-inf")
            top = logits.amax(1, keepdim=True)
            odds = logits.sub_(top).exp2_()
            mass = odds.sum(1)
            gap = (top.squeeze(1) + mass.log2()) / LOG2_E - own[part]
            share = torch.sigmoid(gap) * weight[part] / total
            loss += torch.dot(functional.softplus(gap), weight[part])
            odds.mul_((share / mass).unsqueeze(1))
            d_own[part] = -share
            torch.mm(odds, pool, out=d_states[part])
            d_pool.addmm_(odds.T, states[part])
            d_offset += odds.sum(0)
        ctx.save_for_backward(d_states, d_pool, d_offset, d_own)
        return loss / total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*(saved * grads[0] for saved in ctx.saved_tensors), None, None)


def shared_softmax(
    states: Tensor, target: Tensor, vectors: Tensor, bias: Tensor, rows: Tensor, log_inclusion: Tensor, weight: Tensor
) -> Tensor:
    """Mean cross-entropy of one target per row of `states` (T, dim) against candidates that all of them share.

    `target` int64 (T,) · `vectors` (n, dim), `bias` (n,) · `rows` int64 (C,) ascending, at least two, with
    `log_inclusion` (C,), as `draw_candidates` makes them · `weight` (T,). The value is that of `sampled_softmax`
    with each row's target added to its candidates: log π is taken off every candidate but the target.
    """
    own = (states * vectors.index_select(0, target)).sum(1) + bias.index_select(0, target)
    place = torch.searchsorted(rows, target).clamp(max=len(rows) - 1)
    place = torch.where(rows[place] == target, place, -1)
    loss: Tensor = _SharedSoftmax.apply(states, vectors[rows], bias[rows] - log_inclusion, own, place, weight)  # type: ignore[no-untyped-call]
    return loss
