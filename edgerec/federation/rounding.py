"""Values as whole multiples of their block's unit, by chance, so that their mean over many devices stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgerec.bundle.federated import LARGEST, BlockSpec
from edgerec.deltas import Delta
from edgerec.interfaces import SecureChance
from edgerec.records import changed
from edgerec.types import Float32, Float64

_TRIES = 8


def rounded(delta: Delta, specs: Sequence[BlockSpec], chance: SecureChance) -> Delta:
    """The delta with every value a whole multiple of its block's unit, at most 32767 of them.

    A value goes to one of its two neighbours, to each with the probability that keeps its mean. A block within its
    bound stays within: where rounding made it too long it is shortened by as much and rounded anew, and after eight
    times rounded towards 0 (as Kairouz et al. 2021 draw again, which costs as little bias). One that a filter has made
    longer than its bound, as noise does, is rounded as it is.
    """
    return changed(delta, blocks={spec.name: _rounded(delta.blocks[spec.name], spec, chance) for spec in specs})


def _rounded(block: Float32, spec: BlockSpec, chance: SecureChance) -> Float32:
    exact = block.astype(np.float64) / spec.unit
    places = np.flatnonzero(exact)
    values, limit = exact[places], spec.bound / spec.unit
    bounded = _length(values) <= limit * (1 + 1e-6)
    whole = _drawn(values, chance)
    for _ in range(_TRIES):
        if not bounded or (length := _length(whole)) <= limit:
            break
        values = values * (limit / length)
        whole = _drawn(values, chance)
    if bounded and _length(whole) > limit:
        whole = np.trunc(values)
    out = np.zeros(len(block), np.float32)
    out[places] = np.clip(whole, -LARGEST, LARGEST) * spec.unit
    return out


def _drawn(values: Float64, chance: SecureChance) -> Float64:
    low = np.floor(values)
    up: Float64 = low + (chance.uniform(len(values)) < values - low)
    return up


def _length(values: Float64) -> float:
    return float(np.sqrt(np.square(values).sum()))
