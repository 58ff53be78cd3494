"""Random draws that every host language makes alike: SplitMix64 seeded by the event's id.

Seed: FNV-1a (64 bit) over the id's UTF-8 bytes. Draw k (from 0): SplitMix64's output function applied to
`seed + (k + 1) · 0x9E3779B97F4A7C15`, all modulo 2^64 (Steele, Lea & Flood 2014); an index below n is the draw
modulo n.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgerec.types import Int64

_PRIME = 0x100000001B3
_BASIS = 0xCBF29CE484222325
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_U = np.uint64
_S30, _S27, _S31 = _U(30), _U(27), _U(31)
_M1, _M2 = _U(0xBF58476D1CE4E5B9), _U(0x94D049BB133111EB)


def seed_of(event_id: str) -> int:
    """FNV-1a of the id."""
    value = _BASIS
    for byte in event_id.encode():
        value = (value ^ byte) * _PRIME & _MASK
    return value


@lru_cache(maxsize=16)
def _steps(count: int) -> NDArray[np.uint64]:
    return np.array([(k + 1) * _GOLDEN & _MASK for k in range(count)], np.uint64)


def streams(event_ids: Sequence[str], count: int) -> NDArray[np.uint64]:
    """The first `count` outputs for each event, uint64 (B, count)."""
    return mixed(np.array([[seed_of(event_id)] for event_id in event_ids], np.uint64) + _steps(count))


def mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function, in place."""
    z ^= z >> _S30
    z *= _M1
    z ^= z >> _S27
    z *= _M2
    z ^= z >> _S31
    return z


def indices(stream: NDArray[np.uint64], below: int) -> Int64:
    """Draws as indices in [0, below), int64."""
    return (stream % _U(below)).astype(np.int64)


def draw(event_id: str, count: int, below: int) -> Int64:
    """`count` indices in [0, below), int64 (count,)."""
    return indices(streams((event_id,), count)[0], below)
