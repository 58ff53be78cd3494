"""Learned states as bytes: a JSON header and raw little-endian arrays (`docs/bundle.md`, "State blobs").

    b"ers1"  crc32 of all that follows (uint32 LE)  header length (uint32 LE)  header  arrays, one after the other

The header maps each name to `[dtype, shape]`, in the order of the arrays. npz would cost ten times as much to write.
"""

from __future__ import annotations

import json
import struct
import zlib
from functools import lru_cache
from math import prod

import numpy as np

from edgerec.errors import StoreDamaged
from edgerec.types import State

_MAGIC = b"ers1"
_PREFIX = struct.Struct("<4sII")
_MOST = 1 << 31
_DTYPES = frozenset(("<f4", "<f8", "<i4", "<i8", "|u1", "|b1"))


@lru_cache(maxsize=256)
def _header(signature: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    return json.dumps({name: [dtype, shape] for name, dtype, shape in signature}, separators=(",", ":")).encode()


@lru_cache(maxsize=256)
def _layout(header: bytes) -> tuple[tuple[str, str, tuple[int, ...], int], ...]:
    fields = json.loads(header)
    if not isinstance(fields, dict):
        raise ValueError("a header that names no arrays")
    for dtype, shape in fields.values():
        if dtype not in _DTYPES or not all(type(size) is int and 0 <= size < _MOST for size in shape):
            raise ValueError("an array of an impossible type or shape")
    return tuple((name, dtype, tuple(shape), prod(shape)) for name, (dtype, shape) in fields.items())


def encode_state(state: State) -> bytes:
    """The blob of a state. Raises ValueError for a dtype that has no place in a state."""
    signature = tuple((name, array.dtype.str, array.shape) for name, array in state.items())
    if wrong := [name for name, dtype, _ in signature if dtype not in _DTYPES]:
        raise ValueError(f"state arrays must be float32/64, int32/64, uint8 or bool; not so: {', '.join(wrong)}")
    header = _header(signature)
    body = len(header).to_bytes(4, "little") + header + b"".join(array.tobytes() for array in state.values())
    return _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def decode_state(blob: bytes) -> State:
    """The state of a blob, as read-only arrays. Raises StoreDamaged when it is not what was written."""
    try:
        magic, crc, length = _PREFIX.unpack_from(blob)
        if magic != _MAGIC or crc != zlib.crc32(memoryview(blob)[8:]):
            raise ValueError("checksum differs")
        offset = _PREFIX.size + length
        state = {}
        for name, dtype, shape, count in _layout(blob[_PREFIX.size : offset]):
            array = np.frombuffer(blob, dtype, count, offset).reshape(shape)
            state[name] = array
            offset += array.nbytes
        if offset != len(blob):
            raise ValueError("length differs")
    except (struct.error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise StoreDamaged(f"a learned state is damaged: {error}", hint="it can be relearned from the events") from None
    return state
