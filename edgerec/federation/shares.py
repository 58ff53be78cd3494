"""A delta in two shares, for two gateways that do not collude: each alone is as good as chance, their sum is the delta.

Values in units are taken modulo 2^32. One share is a seed of 32 bytes, whose numbers SHAKE-256 draws; the other is the
delta less those numbers. Gateways add up what they have of many devices, and only the two sums are ever joined (Prio,
Corrigan-Gibbs & Boneh 2017; additive secret sharing). Nothing here proves that a share is of a delta within its bounds.
"""

from __future__ import annotations

import os
from hashlib import shake_256

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.federated import LARGEST
from edgerec.deltas import Delta, DeltaError
from edgerec.federation.encoding import OPEN, SEED, SEED_BYTES, SHARE, Payload, delta_of, pack, parse
from edgerec.records import changed

Ring = NDArray[np.uint32]
"""Numbers modulo 2^32."""
_PURPOSE = b"edgerec delta share 1\0"


def split(payload: bytes, seed: bytes | None = None) -> tuple[bytes, bytes]:
    """A delta's payload as two: the one of numbers (kind 1), the one of the seed (kind 2); both have the delta's id.

    `seed`: 32 bytes that nobody else may know; None draws them from the operating system. Raises DeltaError.
    """
    found = parse(payload)
    if found.kind != OPEN:
        raise DeltaError("only a delta that travels openly can be split")
    secret = os.urandom(SEED_BYTES) if seed is None else seed
    if len(secret) != SEED_BYTES:
        raise DeltaError(f"a share's seed has {SEED_BYTES} bytes, not {len(secret)}")
    values = np.frombuffer(found.body, "<i2").astype(np.int32).view(np.uint32)
    masked = values - expand(secret, found.size)
    numbers = changed(found, kind=SHARE, body=masked.astype("<u4").tobytes())
    return pack(numbers), pack(changed(found, kind=SEED, body=secret))


def expand(seed: bytes, n: int) -> Ring:
    """The n numbers of a seed, uint32 (n,): SHAKE-256 of a fixed prefix and the seed, read little-endian."""
    drawn = shake_256(_PURPOSE + seed).digest(4 * n)
    return np.frombuffer(drawn, "<u4").astype(np.uint32)


def ring(share: Payload) -> Ring:
    """What a share adds to a sum, uint32 (d,), block after block. Raises DeltaError for what is no share."""
    if share.kind == SEED:
        return expand(share.body, share.size)
    if share.kind != SHARE:
        raise DeltaError("not a share of a delta")
    return np.frombuffer(share.body, "<u4").astype(np.uint32)


def signed(total: Ring) -> NDArray[np.int32]:
    """Numbers modulo 2^32 as those nearest 0, int32 (d,). A sum of n deltas is right while n · 32767 < 2^31."""
    return total.view(np.int32)


def joined(one: bytes, other: bytes) -> Delta:
    """The delta of its two shares, in either order. Raises DeltaError where they are not of one delta."""
    first, second = parse(one), parse(other)
    if {first.kind, second.kind} != {SHARE, SEED}:
        raise DeltaError("a delta is joined from one share of numbers and one of a seed")
    if (first.id, first.bundle_version, first.parts) != (second.id, second.bundle_version, second.parts):
        raise DeltaError("two shares that are not of one delta")
    values = signed(ring(first) + ring(second))
    if (np.abs(values.astype(np.int64)) > LARGEST).any():
        raise DeltaError("two shares that add up to no delta")
    return delta_of(first, values)
