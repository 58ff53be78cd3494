"""A fleet's rounds: what honest devices send, and the popularity that the real engine makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgerec.bundle.federated import BlockSpec
from edgerec.deltas import Delta
from edgerec.federation.rounding import rounded
from edgerec.types import Float32, Float64
from edgerec_exporters.federation.engine import aggregate
from edgerec_exporters.federation.growth import Growth
from edgerec_exporters.federation.settings import RoundSettings
from edgerec_tools.studies.federated.harness import Bools, Field

BLOCK = "popularity"
Rows = Callable[[int], Float32]
"""The deltas of a round by its number, float32 (n_devices, n_items)."""
Join = Callable[[Float32, Float64, int], Float64]
"""A round's sums, float64 (n_items,), from its deltas, the decayed counts before it, and a seed."""


class Chance:
    """A `SecureChance` with a seed, so that a study can be repeated."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def normal(self, size: int) -> Float64:
        return self.random.normal(size=size)

    def uniform(self, size: int) -> Float64:
        return self.random.random(size)


@dataclass(frozen=True, slots=True)
class Wire:
    """What a delta may be: `bound` of its L2 norm, `unit` of its values."""

    bound: float = 4.0
    unit: float = 0.0625

    def spec(self, n_items: int) -> BlockSpec:
        return BlockSpec(BLOCK, "item_counts", n_items, self.bound, self.unit)


def clipped(rows: Bools | Float32, bound: float) -> Float32:
    """Rows scaled down to an L2 norm of at most `bound`, float32 (n, n_items)."""
    rows = rows.astype(np.float32)
    length = np.sqrt(np.square(rows, dtype=np.float64).sum(1, keepdims=True))
    scale = np.where(length > bound, bound / np.maximum(length, 1e-9) * (1 - 1e-7), 1.0)
    return rows * scale.astype(np.float32)


def sent(items: Bools, wire: Wire, chance: Chance) -> Float32:
    """What honest devices send of `items` bool (n, n_items): clipped, rounded, float32 (n, n_items)."""
    specs = (wire.spec(items.shape[1]),)
    rows = clipped(items, wire.bound)
    for place, row in enumerate(rows):
        rows[place] = rounded(Delta("0" * 32, 1, {BLOCK: row}), specs, chance).blocks[BLOCK]
    return rows


def honest(fleet: Field, wire: Wire, seed: int) -> list[Float32]:
    """The deltas of every round."""
    chance = Chance(seed)
    return [sent(one.items, wire, chance) for one in fleet.rounds]


@dataclass(frozen=True, slots=True)
class Server:
    """How a round's deltas become sums: by the engine under `settings`, then within `growth`, if any."""

    settings: RoundSettings = field(default_factory=lambda: RoundSettings(aggregator="bounded_mean"))
    wire: Wire = field(default_factory=Wire)
    growth: Growth | None = None

    def __call__(self, rows: Float32, before: Float64, seed: int) -> Float64:
        found = aggregate(self.settings, (self.wire.spec(rows.shape[1]),), rows, seed=seed)
        sums = found.sums(BLOCK)
        return sums if self.growth is None else self.growth.within(sums, before, found.devices)


def unchecked(rows: Float32, before: Float64, seed: int) -> Float64:
    """The sum of whatever came in: what a server without the engine would do."""
    with np.errstate(invalid="ignore", over="ignore"):
        total: Float64 = rows.sum(axis=0, dtype=np.float64)
    return total


def popularity_of(counts: Float64) -> Float32:
    return np.log1p(np.maximum(counts, 0)).astype(np.float32)


def learn(fleet: Field, rows: Rows, join: Join, *, half_life: float = 7.0, seed: int = 0) -> list[Float32]:
    """The popularity before every round and after the last, float32 (n_items,) each.

    counts ← counts · 0.5^(days / half-life) + sums, popularity = log(1 + counts).
    """
    counts = fleet.counts(half_life)
    found = [popularity_of(counts)]
    for number in range(len(fleet.rounds)):
        before = counts * 0.5 ** (fleet.every / half_life)
        counts = np.maximum(before + join(rows(number), before, seed * 1000 + number), 0)
        found.append(popularity_of(counts))
    return found


def frozen(fleet: Field) -> Sequence[Float32]:
    """The bundle's popularity, in every week."""
    return [fleet.frozen] * (len(fleet.rounds) + 1)
