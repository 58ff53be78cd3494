"""Delta filters, transports and aggregators that do one thing wrong each, and one of each that is sound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgerec.deltas import Delta, DeltaError, sound
from edgerec.interfaces import SecureChance
from edgerec.records import changed
from edgerec.types import Float32, Float64


class DeltaFilter:
    """Adds some noise."""

    name = "sound"

    def filter(self, delta: Delta, chance: SecureChance) -> Delta:
        blocks = {name: self.block(one, chance) for name, one in sound(delta).blocks.items()}
        return changed(delta, blocks=blocks)

    def block(self, block: Float32, chance: SecureChance) -> Any:
        half = block * np.float32(0.5)
        return half + chance.normal(len(block)).astype(np.float32)


class Signed(DeltaFilter):
    """Signs what it sends."""

    def filter(self, delta: Delta, chance: SecureChance) -> Delta:
        return changed(super().filter(delta, chance), id="mine")


class Renames(DeltaFilter):
    def filter(self, delta: Delta, chance: SecureChance) -> Delta:
        made = super().filter(delta, chance)
        return changed(made, blocks={f"{name}2": one for name, one in made.blocks.items()})


class WideDelta(DeltaFilter):
    def block(self, block: Float32, chance: SecureChance) -> Any:
        return block + chance.normal(len(block))


class Square(DeltaFilter):
    def block(self, block: Float32, chance: SecureChance) -> Any:
        return block[:, None]


class Telling(DeltaFilter):
    """Leaves out the zeros: how many are left tells of the user."""

    def block(self, block: Float32, chance: SecureChance) -> Any:
        return block[block != 0]


class Divides(DeltaFilter):
    """Scales to length 1, whatever there is."""

    def block(self, block: Float32, chance: SecureChance) -> Any:
        with np.errstate(all="ignore"):
            return block / np.sqrt(np.square(block).sum())


class Trusting(DeltaFilter):
    """Passes on whatever it is given."""

    def filter(self, delta: Delta, chance: SecureChance) -> Delta:
        return delta


class OwnChance(DeltaFilter):
    """Draws from the process's random numbers."""

    def block(self, block: Float32, chance: SecureChance) -> Any:
        return block + np.random.normal(size=len(block)).astype(np.float32)


class Counting(DeltaFilter):
    def __init__(self) -> None:
        self.asked = 0

    def block(self, block: Float32, chance: SecureChance) -> Any:
        self.asked += 1
        return block * np.float32(self.asked > 4)


class Transport:
    """Keeps what it is sent in a place that all instances share."""

    name = "sound"

    def __init__(self, kept: dict[str, bytes] | None = None) -> None:
        self.kept = {} if kept is None else kept

    def send(self, payload: bytes, *, delta_id: str) -> Any:
        if not delta_id:
            raise DeltaError("a delta needs an id")
        self.kept[delta_id] = payload


class Answers(Transport):
    def send(self, payload: bytes, *, delta_id: str) -> Any:
        return 200


class Once(Transport):
    """Cannot send again."""

    def send(self, payload: bytes, *, delta_id: str) -> Any:
        if delta_id in self.kept:
            raise FileExistsError(delta_id)
        super().send(payload, delta_id=delta_id)


class Pathlike(Transport):
    """Takes an id for a path."""

    def send(self, payload: bytes, *, delta_id: str) -> Any:
        Path(delta_id).stat()


class Aggregator:
    """The median."""

    name, least = "sound", 1

    def aggregate(self, deltas: Float32) -> Any:
        if not len(deltas):
            raise DeltaError("no delta")
        return self.join(deltas.astype(np.float64))

    def join(self, rows: Float64) -> Any:
        return np.median(rows, axis=0)


class Narrow(Aggregator):
    def join(self, rows: Float64) -> Any:
        return np.median(rows.astype(np.float32), axis=0)


class Several(Aggregator):
    def join(self, rows: Float64) -> Any:
        return rows[:2]


class Lists(Aggregator):
    def join(self, rows: Float64) -> Any:
        return super().join(rows).tolist()


class Overflows(Aggregator):
    """Adds up in float32."""

    def join(self, rows: Float64) -> Any:
        with np.errstate(all="ignore"):
            return (np.square(rows.astype(np.float32)).sum(axis=0) / rows.sum(axis=0)).astype(np.float64)


class First(Aggregator):
    def join(self, rows: Float64) -> Any:
        return rows[0]


class Sums(Aggregator):
    def join(self, rows: Float64) -> Any:
        return rows.sum(axis=0)


class Undemanding(Aggregator):
    """Says that it needs three, and takes one."""

    least = 3


class Overdemanding(Aggregator):
    """Needs more than it says."""

    def join(self, rows: Float64) -> Any:
        return np.median(rows, axis=0) if len(rows) > 2 else rows[2]


class Nothing(Aggregator):
    """Makes something of nothing."""

    def aggregate(self, deltas: Float32) -> Any:
        return self.join(deltas.astype(np.float64)) if len(deltas) else np.zeros(deltas.shape[1])


class Loud(Aggregator):
    """The mean, which one device moves as far as it likes."""

    def join(self, rows: Float64) -> Any:
        return rows.mean(axis=0)


class InPlaceAggregator(Aggregator):
    def aggregate(self, deltas: Float32) -> Any:
        deltas.sort(axis=0)
        return deltas[len(deltas) // 2].astype(np.float64)


class Momentum(Aggregator):
    """Remembers the last round."""

    last: Mapping[str, Float64] | None = None

    def join(self, rows: Float64) -> Any:
        before = 0.0 if self.last is None else self.last["row"]
        self.last = {"row": rows[0]}
        return super().join(rows) + before
