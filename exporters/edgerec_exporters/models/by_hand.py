"""Parts of a transformer as they are trained: the gradients are written out, which spares memory traffic and work.

Queries, keys and values come in one tensor, and so do their gradients; so do both halves of a SwiGLU layer.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

PART = 100
"""Queries at once. Each part looks at keys up to its own end only: two parts, three quarters of all scores."""


class CausalAttention(torch.autograd.Function):
    """softmax(q kᵀ + hidden) v.

    On a CPU this costs less than PyTorch's attention under a mask: what lies behind the end of a part of the queries
    is left out, the shares are kept instead of computed again, and queries and keys are turned together.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, turn: Tensor | None, hidden: Tensor) -> Tensor:
        """`packed` (B, L, 3, heads, n): queries already divided by √n, keys, values → (B, L, heads · n).

        `turn` complex64 (L, 1, 1, n/2): by what two neighbouring coordinates of a query or a key, taken as one complex
        number, are multiplied · `hidden` (B · heads or 1, L, L): −∞ where a query may not look, at the least at all
        later events; else 0.
        """
        turned = packed[:, :, :2]
        if turn is not None:
            turned = torch.view_as_real(_as_complex(turned) * turn).flatten(-2)
        query, key, value = _by_head(turned[:, :, 0]), _by_head(turned[:, :, 1]), _by_head(packed[:, :, 2])
        shares, out = [], []
        for start, end in _parts(packed.shape[1]):
            scores = torch.baddbmm(hidden[:, start:end, :end], query[:, start:end], key[:, :end].transpose(1, 2))
            shares.append(torch.softmax(scores, -1))
            out.append(torch.bmm(shares[-1], value[:, :end]))
        ctx.save_for_backward(query, key, value, *shares)
        ctx.turn, ctx.heads = turn, packed.shape[3]
        return torch.cat(out, 1).unflatten(0, (-1, ctx.heads)).transpose(1, 2).flatten(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of `packed`."""
        query, key, value, *shares = ctx.saved_tensors
        d_out = _by_head(grads[0].unflatten(-1, (ctx.heads, -1)))
        n, length, width = query.shape
        d_packed = query.new_zeros(n, length, 3, width)
        d_query, d_key, d_value = d_packed.unbind(2)
        for (start, end), share in zip(_parts(length), shares, strict=True):
            asked = slice(start, end)
            d_share = torch.bmm(d_out[:, asked], value[:, :end].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_share, share, -1, share.dtype)
            d_query[:, asked] = torch.bmm(d_scores, key[:, :end])
            d_key[:, :end] += torch.bmm(d_scores.transpose(1, 2), query[:, asked])
            d_value[:, :end] += torch.bmm(share.transpose(1, 2), d_out[:, asked])
        if ctx.turn is not None:
            _as_complex(d_packed[:, :, :2]).mul_(ctx.turn[:, 0].conj().resolve_conj())
        return d_packed.unflatten(0, (-1, ctx.heads)).permute(0, 2, 3, 1, 4), None, None


class SwiGlu(torch.autograd.Function):
    """silu(left) · right of the halves of the last axis (Shazeer 2020)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """(…, 2n) → (…, n)."""
        left, right = x.chunk(2, -1)
        gate = functional.silu(left)
        ctx.save_for_backward(x, gate)
        return gate * right

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The gradient of `x`."""
        x, gate = ctx.saved_tensors
        left, right = x.chunk(2, -1)
        d_x = torch.empty_like(x)
        d_left, d_right = d_x.chunk(2, -1)
        torch.mul(grads[0], gate, out=d_right)
        torch.ops.aten.silu_backward(grads[0] * right, left, grad_input=d_left)
        return d_x


def _parts(length: int) -> list[tuple[int, int]]:
    n_parts = math.ceil(length / PART)
    return list(pairwise(length * part // n_parts for part in range(n_parts + 1)))


def _by_head(x: Tensor) -> Tensor:
    """(B, L, heads, n) → (B · heads, L, n)."""
    return x.transpose(1, 2).flatten(0, 1)


def _as_complex(x: Tensor) -> Tensor:
    """(…, n) → complex (…, n/2), of neighbours; a view."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))
