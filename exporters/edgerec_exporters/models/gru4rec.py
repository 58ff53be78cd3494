"""GRU4Rec (Hidasi et al. 2016; Hidasi & Karatzoglou 2018): a gated recurrent unit reads the history in order."""

from __future__ import annotations

from torch import Tensor, nn

from edgerec_exporters.models.base import Dropout, SequenceEncoder


class Gru4RecEncoder(SequenceEncoder):
    """query = P · LN(GRU(√d · x)) at the newest event.

    The GRU has no biases, so that padding in front, which is zero, leaves its state at zero.
    """

    def __init__(self, dim: int, length: int, hidden: int = 128, layers: int = 1, dropout: float = 0.2) -> None:
        """`length`: events of history that are read · `hidden`: size of the GRU's state."""
        super().__init__()
        self.settings = {"dim": dim, "length": length, "hidden": hidden, "layers": layers, "dropout": dropout}
        self.scale = dim**0.5
        self.gru = nn.GRU(dim, hidden, layers, bias=False, batch_first=True)
        self.norm, self.project = nn.LayerNorm(hidden), nn.Linear(hidden, dim)
        self.dropout = Dropout(dropout)

    def states(self, history: Tensor, mask: Tensor) -> Tensor:
        """As `SequenceEncoder`."""
        x = self.dropout(history * self.scale) * mask.unsqueeze(-1)
        out: Tensor = self.project(self.dropout(self.norm(self.gru(x)[0])))
        return out

    def forward(self, history: Tensor, age_days: Tensor, kind: Tensor, mask: Tensor) -> Tensor:
        """As `Encoder`."""
        out: Tensor = self.states(history, mask)[:, -1] * mask[:, -1:]
        return out
