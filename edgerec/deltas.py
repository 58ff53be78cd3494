"""What a device may tell of what it has learned, and the chance that hides a user in it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import numpy as np

from edgerec.errors import PluginError
from edgerec.records import record
from edgerec.types import Float32, Float64


class DeltaError(PluginError):
    """A delta, or a round of them, that cannot be used: not finite, of the wrong form, too long, too few."""


class TransportError(PluginError):
    """A delta did not get through. It is safe to send it again."""


class DeltaRefused(TransportError):
    """A delta got through and was refused for good: nobody counted it, and sending it again is no use."""


@record
class Delta:
    """One device's contribution to the next bundle. Nothing in it identifies the user.

    `id`: drawn at random, so that a delta that comes in twice counts once · `bundle_version`: what it was computed on ·
    `blocks`: name → float32 (size,), dense; the sizes are those the manifest declares, whatever the user did.
    """

    id: str
    bundle_version: int
    blocks: Mapping[str, Float32]

    def length(self) -> float:
        """The L2 norm over all blocks, summed in float64."""
        return math.sqrt(sum(float(np.square(block, dtype=np.float64).sum()) for block in self.blocks.values()))


def sound(delta: object) -> Delta:
    """The delta. Raises DeltaError where it is none, or a block is not float32, one-dimensional and finite."""
    if not isinstance(delta, Delta):
        raise DeltaError(f"not a Delta but {type(delta).__name__}")
    for name, block in delta.blocks.items():
        if not isinstance(block, np.ndarray) or block.dtype != np.float32 or block.ndim != 1:
            raise DeltaError(f"block {name!r} of a delta is not a float32 array of one dimension")
        if not np.isfinite(block).all():
            raise DeltaError(f"block {name!r} of a delta is not finite")
    return delta


def filtered(before: Delta, after: object) -> Delta:
    """What a filter made of a delta, its arrays copied. Raises DeltaError unless it is sound and has the same id,
    bundle version and block names. Sizes may change, as by a sketch, but for every delta alike.
    """
    made = sound(after)
    if (made.id, made.bundle_version, set(made.blocks)) != (before.id, before.bundle_version, set(before.blocks)):
        raise DeltaError("a delta filter changed the id, the bundle version or the names of the blocks")
    return Delta(made.id, made.bundle_version, {name: np.array(block) for name, block in made.blocks.items()})


class SystemChance:
    """`SecureChance` from the operating system's secure generator: every number is drawn anew, none from a seed.

    Assumed: os.urandom cannot be predicted. No generator is keyed with it, so nobody who learns some of the noise can
    compute the rest. The numbers are floating point, of 53 random bits each, and none lies beyond 8.6; their lowest
    bits are outside what differential privacy proves of real numbers (Mironov 2012).
    """

    def normal(self, size: int) -> Float64:
        """Independent standard normal numbers, float64 (size,): Box & Muller (1958)."""
        pairs = (size + 1) // 2
        bits = np.frombuffer(os.urandom(16 * pairs), np.uint64) >> np.uint64(11)
        u = (bits.astype(np.float64) + 1) * 2.0**-53  # in (0, 1]: its logarithm is finite
        radius, angle = np.sqrt(-2 * np.log(u[:pairs])), math.tau * u[pairs:]
        normal: Float64 = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:size]
        return normal

    def uniform(self, size: int) -> Float64:
        """Independent numbers in [0, 1), float64 (size,), each a multiple of 2^-53."""
        bits = np.frombuffer(os.urandom(8 * size), np.uint64) >> np.uint64(11)
        uniform: Float64 = bits.astype(np.float64) * 2.0**-53
        return uniform
