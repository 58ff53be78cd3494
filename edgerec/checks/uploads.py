"""What implementations that serve a round are tried on: deltas of one device, and of many; the same every time."""

from __future__ import annotations

import numpy as np

from edgerec.checks.cases import Case, locked_state
from edgerec.deltas import Delta
from edgerec.types import Float32, Float64

DEVICES = 21


class FixedChance:
    """A `SecureChance` that gives the same numbers to every call, for comparisons."""

    def __init__(self, seed: int = 3) -> None:
        self.seed = seed

    def normal(self, size: int) -> Float64:
        return np.random.default_rng(self.seed).normal(size=size)

    def uniform(self, size: int) -> Float64:
        return np.random.default_rng(self.seed).random(size)


def deltas_of(case: Case) -> list[Delta]:
    """Deltas of two blocks, (n_items,) and (dim,): dense, sparse and of nothing; the longest has length .8."""
    random = np.random.default_rng(5)
    sizes = {"bias": case.model.n_items, "prior": case.model.dim}
    deltas = []
    for place, (length, share) in enumerate(((0.8, 1.0), (0.3, 0.1), (1e-6, 1.0), (0.0, 1.0))):
        blocks = {name: random.normal(size=n) * (random.random(n) < share) for name, n in sizes.items()}
        norm = max(float(np.sqrt(sum((one * one).sum() for one in blocks.values()))), 1e-9)
        locked = locked_state({name: (one * (length / norm)).astype(np.float32) for name, one in blocks.items()})
        deltas.append(Delta(f"delta{place}", 3, locked))
    return deltas


def delta_with(case: Case, value: float) -> Delta:
    """A delta whose first values, of either block, are `value`."""
    delta = deltas_of(case)[0]
    blocks = {name: block.copy() for name, block in delta.blocks.items()}
    for block in blocks.values():
        block[:2] = value
    return Delta("odd", delta.bundle_version, locked_state(blocks))


def devices_of(case: Case, least: int, scale: float = 1.0) -> Float32:
    """Deltas of devices that agree but for a tenth, float32 (n_devices, n_items), read-only; 21, or as many as are
    needed."""
    random = np.random.default_rng(6)
    d = case.model.n_items
    rows = random.normal(size=d) + 0.1 * random.normal(size=(max(least, DEVICES), d))
    return locked(rows * scale)


def locked(rows: Float64) -> Float32:
    """As float32, read-only."""
    array: Float32 = locked_state({"": rows.astype(np.float32)})[""]
    return array
