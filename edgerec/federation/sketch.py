"""Pairs of items in a signed count sketch: a fixed number of sums, from which the count of any pair can be estimated.

Each pair has one place and one sign, drawn by a hash of the sketch's seed and the two rows (Charikar, Chen &
Farach-Colton 2002, one row of it). A pair's estimate is the sum at its place times its sign: unbiased, its variance the
sum of the squared counts of all other pairs divided by the size. Devices and servers compute the same places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.federated import BlockSpec
from edgerec.learning.draws import mixed
from edgerec.types import Float32, Float64, Int64

_U = np.uint64


def pair_places(spec: BlockSpec, one: Int64, other: Int64) -> tuple[Int64, Float32]:
    """The place of each pair, int64 (p,), and its sign, float32 (p,), from two rows int64 (p,) in whatever order.

    The hash: SplitMix64's output function of the seed, xor the lower row times 2^32 plus the higher one, and the output
    function again; its lowest bit is the sign (1: minus), the rest modulo the size the place.
    """
    low, high = np.minimum(one, other).astype(np.uint64), np.maximum(one, other).astype(np.uint64)
    seed = mixed(np.array([spec.seed], np.uint64))
    drawn: NDArray[np.uint64] = mixed(seed ^ (low << _U(32) | high))
    signs = np.where(drawn & _U(1), np.float32(-1), np.float32(1))
    return ((drawn >> _U(1)) % _U(spec.size)).astype(np.int64), signs


def sketch(spec: BlockSpec, one: Int64, other: Int64) -> Float32:
    """The sketch of pairs that count 1 each, float32 (size,)."""
    places, signs = pair_places(spec, one, other)
    return np.bincount(places, signs, minlength=spec.size).astype(np.float32)


def estimated(spec: BlockSpec, sums: Float64, one: Int64, other: Int64) -> Float64:
    """The estimated counts of pairs, float64 (p,), from a sketch's sums (size,)."""
    places, signs = pair_places(spec, one, other)
    counts: Float64 = np.asarray(sums, np.float64)[places] * signs
    return counts
