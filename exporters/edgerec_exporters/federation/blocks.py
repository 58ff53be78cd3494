"""Where the blocks that a manifest declares lie in a row of numbers, one after the other in the manifest's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgerec.bundle.federated import BlockSpec
from edgerec.types import Float64


def width(blocks: Sequence[BlockSpec]) -> int:
    """d: the numbers of all blocks together."""
    return sum(block.size for block in blocks)


def places(blocks: Sequence[BlockSpec]) -> dict[str, slice]:
    """Where each block lies in a row of d numbers."""
    found, start = {}, 0
    for block in blocks:
        found[block.name] = slice(start, start + block.size)
        start += block.size
    return found


def spread(blocks: Sequence[BlockSpec], values: Mapping[str, float]) -> Float64:
    """A number per block, repeated for each of its values: float64 (d,)."""
    return np.concatenate([np.full(block.size, values[block.name], np.float64) for block in blocks])


def units(blocks: Sequence[BlockSpec]) -> Float64:
    """The unit of every value, float64 (d,)."""
    return spread(blocks, {block.name: block.unit for block in blocks})
