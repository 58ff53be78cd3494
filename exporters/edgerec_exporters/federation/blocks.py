"""The blocks that a bundle's manifest declares as federated, as the server reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from edgerec.types import Float64

METRICS = "metrics"
COUNTS = "item_counts"
PAIRS = "pair_sketch"


class Block(Protocol):
    """What the engine needs to know of a block; `bound`: L2 norm · `unit`: values are whole multiples of it."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def bound(self) -> float: ...
    @property
    def unit(self) -> float: ...


def width(blocks: Sequence[Block]) -> int:
    """d: the numbers of all blocks together."""
    return sum(block.size for block in blocks)


def places(blocks: Sequence[Block]) -> dict[str, slice]:
    """Where each block lies in a row of d numbers: one after the other, in the manifest's order."""
    found, start = {}, 0
    for block in blocks:
        found[block.name] = slice(start, start + block.size)
        start += block.size
    return found


def spread(blocks: Sequence[Block], values: Mapping[str, float]) -> Float64:
    """A number per block, repeated for each of its values: float64 (d,)."""
    return np.concatenate([np.full(block.size, values[block.name], np.float64) for block in blocks])


def units(blocks: Sequence[Block]) -> Float64:
    """The unit of every value, float64 (d,)."""
    return spread(blocks, {block.name: block.unit for block in blocks})
