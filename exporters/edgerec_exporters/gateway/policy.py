"""What a gateway's operator promises: kept in the store, so that whoever opens it keeps to the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from edgerec.errors import ConfigError

OPEN_MODE, SPLIT_MODE = "open", "split"
MODES = (OPEN_MODE, SPLIT_MODE)


@dataclass(frozen=True)
class Policy:
    """`mode`: "open", where single deltas are seen, or "split", where only shares are and only sums leave ·
    `minimum_cohort`: deltas of fewer devices are never handed out · `most_per_round`: how many of one key may wait for
    a round · `noise_multiplier`: in split mode, σ of this gateway's own discrete Gaussian noise over a block's bound;
    0 for none.
    """

    mode: str = OPEN_MODE
    minimum_cohort: int = 20
    most_per_round: int = 1
    noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"gateway: 'mode' cannot be {self.mode!r}", hint=f"it must be one of {', '.join(MODES)}")
        if self.noise_multiplier and self.mode == OPEN_MODE:
            raise ConfigError(
                "gateway: a noise multiplier with mode 'open'",
                hint="in that mode the round adds the noise, or the devices do",
            )

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Policy:
        values: dict[str, Any] = json.loads(text)
        return cls(**values)
