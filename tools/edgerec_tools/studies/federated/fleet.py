"""A fleet's rounds: what honest devices send, and the popularity that the real engine makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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


class Round(NamedTuple):
    """What came in: `rows` float32 (n, n_items) · `keys` (n,), who sent them; None: everybody one."""

    rows: Float32
    keys: Sequence[str] | None = None


Join = Callable[[Round, Float64, int], Float64]
"""A round's sums, float64 (n_items,), from what came in, the decayed counts before it, and a seed."""


class Chance:
    """A `SecureChance` with a seed, so that a study can be repeated."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def normal(self, size: int) -> Float64:
        return np.asarray(self.random.normal(size=size), np.float64)

    def uniform(self, size: int) -> Float64:
        return np.asarray(self.random.random(size), np.float64)


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
    short: Float32 = rows * scale.astype(np.float32)
    return short


def sent(items: Bools, wire: Wire, chance: Chance) -> Float32:
    """What honest devices send of `items` bool (n, n_items): clipped, rounded, float32 (n, n_items)."""
    specs = (wire.spec(items.shape[1]),)
    rows = clipped(items, wire.bound)
    for place, row in enumerate(rows):
        rows[place] = rounded(Delta("0" * 32, 1, {BLOCK: row}), specs, chance).blocks[BLOCK]
    return rows


def honest(fleet: Field, wire: Wire, seed: int) -> list[Round]:
    """What comes in, round by round, without anybody hostile."""
    chance = Chance(seed)
    return [Round(sent(one.items, wire, chance)) for one in fleet.rounds]


@dataclass(frozen=True, slots=True)
class Server:
    """How a round's deltas become sums: by the engine under `settings`, then within `growth`, if any."""

    settings: RoundSettings = field(default_factory=lambda: RoundSettings(aggregator="bounded_mean"))
    wire: Wire = field(default_factory=Wire)
    growth: Growth | None = None

    def __call__(self, came: Round, before: Float64, seed: int) -> Float64:
        blocks = (self.wire.spec(came.rows.shape[1]),)
        found = aggregate(self.settings, blocks, came.rows, keys=came.keys, seed=seed)
        sums = found.sums(BLOCK)
        return sums if self.growth is None else self.growth.within(sums, before, found.devices)


@dataclass(frozen=True, slots=True)
class Unchecked:
    """The sum of whatever came in: a server without the engine, or split mode, where nobody sees single deltas."""

    growth: Growth | None = None

    def __call__(self, came: Round, before: Float64, seed: int) -> Float64:
        with np.errstate(invalid="ignore"):
            sums: Float64 = came.rows.sum(axis=0, dtype=np.float64)
        return sums if self.growth is None else self.growth.within(sums, before, len(came.rows))


def popularity_of(counts: Float64) -> Float32:
    return np.log1p(np.maximum(counts, 0)).astype(np.float32)


def learn(
    fleet: Field, came: Callable[[int], Round], join: Join, *, half_life: float = 7.0, seed: int = 0
) -> list[Float32]:
    """The popularity before every round and after the last, float32 (n_items,) each.

    counts ← counts · 0.5^(days / half-life) + sums, popularity = log(1 + counts).
    """
    counts = fleet.counts(half_life)
    found = [popularity_of(counts)]
    for number in range(len(fleet.rounds)):
        now, counts = came(number), counts * 0.5 ** (fleet.every / half_life)
        if len(now.rows):  # the shop is closed on some days
            counts = np.maximum(counts + join(now, counts, seed * 1000 + number), 0)
        found.append(popularity_of(counts))
    return found


def frozen(fleet: Field) -> Sequence[Float32]:
    """The bundle's popularity, in every week."""
    return [fleet.frozen] * (len(fleet.rounds) + 1)
