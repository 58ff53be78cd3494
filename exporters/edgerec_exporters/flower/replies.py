"""What gateways answered, as a source of deltas: from there on a round is the same as without Flower."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.federated import BlockSpec
from edgerec.deltas import DeltaError
from edgerec.types import Float32
from edgerec_exporters.federation.sources import Found, Split, Waiting
from edgerec_exporters.flower.asks import Rows, Total


class Replied:
    """Rows of several gateways, joined; an id that came twice counts once. `waiting`: what was offered, by id."""

    def __init__(self, answers: Sequence[Rows], waiting: Mapping[str, Waiting], number: int) -> None:
        self._rows = {one: row for part in answers for one, row in zip(part.ids, part.rows, strict=True)}
        self._waiting, self._number = waiting, number

    def number(self, least: int, span: int) -> int:
        return max(least, self._number)

    def waiting(self, versions: Collection[int], blocks: Sequence[BlockSpec]) -> Found:
        came = [self._waiting[one] for one in sorted(self._rows) if one in self._waiting]
        return Found([one for one in came if one.version in versions], {})

    def rows(self, number: int, ids: Sequence[str], newest: int, blocks: Sequence[BlockSpec]) -> Float32:
        if missing := [one for one in ids if one not in self._rows]:
            raise DeltaError(f"{len(missing)} deltas of this round did not come", hint="they are asked for again")
        return np.stack([self._rows[one] for one in ids])


class RepliedTotals(Split):
    """The sums of two gateways, of the shares that both hold."""

    def __init__(
        self, answers: Sequence[Total], ids: Sequence[str], waiting: Mapping[str, Waiting], number: int
    ) -> None:
        self._answers, self._ids = answers, ids
        self._waiting, self._number = waiting, number

    def number(self, least: int, span: int) -> int:
        return max(least, self._number)

    def waiting(self, versions: Collection[int], blocks: Sequence[BlockSpec]) -> Found:
        return Found([self._waiting[one] for one in sorted(self._ids) if one in self._waiting], {})

    def sums(self, number: int, ids: Sequence[str], version: int) -> list[NDArray[np.uint32]]:
        if len(self._answers) != 2 or set(ids) != set(self._ids):
            raise DeltaError("the sums of both gateways did not come", hint="they are asked for again")
        return [answer.total for answer in self._answers]

    @property
    def multiplier(self) -> float:
        """The least of the two."""
        return min((answer.multiplier for answer in self._answers), default=0.0)
