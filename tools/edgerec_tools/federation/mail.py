"""What becomes of deltas between the devices and the server: lost, late, forged. And who sent those that arrived."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgerec.bundle.federated import BlockSpec
from edgerec.deltas import Delta, DeltaError
from edgerec.federation.encoding import encode
from edgerec.types import Float32
from edgerec_exporters.federation.sources import SUFFIX, Folder, Found


@dataclass
class Mail:
    """Deltas of one fleet. `sent`, `arrived`: folders · `keys`: delta id → user, of all that were ever sent · `late`:
    ids that arrive with the next round."""

    sent: Path
    arrived: Path
    rng: np.random.Generator
    dropout: float = 0.0
    stragglers: float = 0.0
    keys: dict[str, str] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)

    def carry(self, senders: Mapping[str, int]) -> None:
        """Lets arrive what devices sent since the last time, but what is lost or late; and what was late before."""
        self.keys |= {one: str(user) for one, user in senders.items()}
        for one in self.late:
            self._deliver(one)
        self.late = []
        for one in sorted(senders, key=senders.__getitem__):  # ids are drawn anew in every run, users are not
            fate = self.rng.random()
            if fate < self.dropout:
                (self.sent / f"{one}{SUFFIX}").unlink()
            elif fate < self.dropout + self.stragglers:
                self.late.append(one)
            else:
                self._deliver(one)

    def forge(self, rows: Float32, version: int, specs: Sequence[BlockSpec], counts: BlockSpec) -> None:
        """Puts hostile deltas among those that arrived: a row of counts each, nothing in the other blocks. What cannot
        be written as a delta, as NaN, cannot be sent."""
        for number, row in enumerate(rows):
            blocks = {spec.name: np.zeros(spec.size, np.float32) for spec in specs}
            blocks[counts.name] = (np.rint(row / counts.unit) * counts.unit).astype(np.float32)
            delta = Delta(self.rng.bytes(16).hex(), version, blocks)
            with suppress(DeltaError):
                (self.arrived / f"{delta.id}{SUFFIX}").write_bytes(encode(delta, specs))
                self.keys[delta.id] = f"hostile-{number}"

    def clear(self, ids: Collection[str]) -> None:
        """Removes what a round has counted."""
        for one in ids:
            (self.arrived / f"{one}{SUFFIX}").unlink(missing_ok=True)

    def _deliver(self, one: str) -> None:
        os.replace(self.sent / f"{one}{SUFFIX}", self.arrived / f"{one}{SUFFIX}")


class Keyed(Folder):
    """The deltas that arrived, each with the key of its sender, as a gateway knows them."""

    def __init__(self, mail: Mail) -> None:
        super().__init__(mail.arrived)
        self._keys = mail.keys

    def waiting(self, versions: Collection[int], blocks: Sequence[BlockSpec]) -> Found:
        found = super().waiting(versions, blocks)
        return replace(found, waiting=[replace(one, key=self._keys[one.id]) for one in found.waiting])
