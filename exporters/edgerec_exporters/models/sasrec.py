"""SASRec (Kang & McAuley 2018): causal self-attention over the history, every position asked for the next item."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgerec.errors import TrainingError
from edgerec_exporters.models.base import Dropout, SequenceEncoder

POSITIONS = ("learned", "rotary")
BLOCKS = ("sasrec", "ligr")


class SasRecEncoder(SequenceEncoder):
    """query = LN(block_n(… block_1(√d · x + p))) at the newest event, p_l learned for the l-th event from the end.

    `block`: "sasrec" is attention and a ReLU layer, both with residuals and layer norms before them; "ligr" gates
    the residuals and has SwiGLU layers (Borisyuk et al. 2024; eSASRec, Tikhonovich et al. 2025). `positions`:
    "learned" vectors, or "rotary" queries and keys (Su et al. 2021), which know distances only.
    """

    def __init__(
        self,
        dim: int,
        length: int,
        blocks: int = 2,
        heads: int = 1,
        dropout: float = 0.2,
        attention_dropout: float = 0.0,
        block: str = "sasrec",
        positions: str = "learned",
        widen: int = 1,
    ) -> None:
        """`length`: events of history that are read · `widen`: width of the inner layers, in multiples of `dim`."""
        super().__init__()
        self.settings = {
            "dim": dim,
            "length": length,
            "blocks": blocks,
            "heads": heads,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "block": block,
            "positions": positions,
            "widen": widen,
        }
        if block not in BLOCKS or positions not in POSITIONS or dim % (2 * heads):
            raise TrainingError(
                f"block {block!r}, positions {positions!r}, dim {dim}, heads {heads}",
                hint=f"block is one of {BLOCKS}, positions of {POSITIONS}; dim must be a multiple of 2 · heads",
            )
        self.scale = dim**0.5
        self.position = nn.Parameter(torch.randn(length, dim) * 0.02) if positions == "learned" else None
        turn = Rotary(length, dim // heads) if positions == "rotary" else None
        self.blocks = nn.ModuleList(
            Block(dim, heads, dropout, attention_dropout, widen, block == "ligr", turn) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def states(self, history: Tensor, mask: Tensor) -> Tensor:
        """As `SequenceEncoder`."""
        return self._run(history, mask, 0)

    def forward(self, history: Tensor, age_days: Tensor, kind: Tensor, mask: Tensor) -> Tensor:
        """As `Encoder`; the last block is computed for the newest event alone."""
        return self._run(history, mask, -1)[:, -1] * mask[:, -1:]

    def _run(self, history: Tensor, mask: Tensor, wanted: int) -> Tensor:
        """The states from place `wanted` on."""
        width = history.shape[1]
        x = history * self.scale
        if self.position is not None:
            x = x + self.position[-width:]
        x = self.dropout(x) * mask.unsqueeze(-1).to(x.dtype)  # PyTorch multiplies by bool at a third of the speed
        allowed = self._allowed(mask, width)
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x = block(x, allowed, wanted if number == last else 0)
        out: Tensor = self.norm(x)
        return out

    @staticmethod
    def _allowed(mask: Tensor, width: int) -> Tensor:
        """bool (B, 1, L, L): earlier events and oneself, so that no row of the softmax is empty."""
        causal = torch.ones(width, width, dtype=torch.bool, device=mask.device).tril()
        own = torch.eye(width, dtype=torch.bool, device=mask.device)
        return (mask[:, None, None, :] & causal) | own


class Block(nn.Module):
    """Attention, then a dense layer, each added to what came in."""

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float,
        attention_dropout: float,
        widen: int,
        gated: bool,
        turn: Rotary | None,
    ) -> None:
        super().__init__()
        self.heads, self.attention_dropout, self.gated, self.turn = heads, attention_dropout, gated, turn
        self.before_attention, self.before_dense = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.up = nn.Linear(dim, (2 if gated else 1) * widen * dim)
        self.down = nn.Linear(widen * dim, dim)
        self.gates = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim)]) if gated else None
        self.dropout = Dropout(dropout)
        for last in (self.out, self.down):
            # untrained, a block passes on what came in, and the query is the newest item's own vector
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, allowed: Tensor, wanted: int) -> Tensor:
        """(B, L, d) → the same from place `wanted` on."""
        normed = self.before_attention(x)
        x = x[:, wanted:]
        x = x + self._gate(0, x) * self.dropout(self._attend(normed, allowed[:, :, wanted:], wanted))
        return x + self._gate(1, x) * self.dropout(self._dense(self.before_dense(x)))

    def _attend(self, x: Tensor, allowed: Tensor, wanted: int) -> Tensor:
        key, value = (self._split(part) for part in self.key_value(x).chunk(2, -1))
        query = self._split(self.query(x[:, wanted:]))
        if self.turn is not None:
            query, key = self.turn(query), self.turn(key)
        share = self.attention_dropout if self.training else 0.0
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=share)
        result: Tensor = self.out(out.transpose(1, 2).flatten(2))
        return result

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _dense(self, x: Tensor) -> Tensor:
        if self.gates is None:
            plain: Tensor = self.down(torch.relu(self.up(x)))
            return plain
        left, right = self.up(x).chunk(2, -1)
        swiglu: Tensor = self.down(functional.silu(left) * right)
        return swiglu

    def _gate(self, number: int, x: Tensor) -> Tensor | float:
        return 1.0 if self.gates is None else torch.sigmoid(self.gates[number](x))


class Rotary(nn.Module):
    """Turns pairs of coordinates by an angle that grows with the place (Su et al. 2021, eq. 34)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        speed = 10_000.0 ** (-torch.arange(0, dim, 2) / dim)
        angle = torch.outer(torch.arange(length, dtype=torch.float32), speed)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """float32 (B, heads, l, d), the last l places."""
        width = x.shape[2]
        cos, sin = self.cos[-width:], self.sin[-width:]
        left, right = x.chunk(2, -1)
        return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)
