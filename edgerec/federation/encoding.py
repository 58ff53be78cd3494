"""Deltas as bytes: docs/delta-format.md, byte by byte. Strict both ways: what is not exactly a delta is refused."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.federated import (
    BLOCK_NAME,
    LARGEST,
    MAX_BLOCKS,
    MAX_PAYLOAD,
    OPEN_WIDTH,
    RING_WIDTH,
    BlockSpec,
    payload_size,
)
from edgerec.deltas import Delta, DeltaError, sound
from edgerec.records import record
from edgerec.types import Float32

__all__ = [
    "FORMAT",
    "MAX_PAYLOAD",
    "OPEN",
    "SEED",
    "SEED_BYTES",
    "SHARE",
    "BlockSpec",
    "Part",
    "Payload",
    "check_layout",
    "decode",
    "encode",
    "multiples",
    "pack",
    "parse",
    "payload_size",
]

MAGIC = b"EDGD"
FORMAT = 1
OPEN, SHARE, SEED = 0, 1, 2
"""Kinds: a delta as it is; a share of one, as numbers; the other share, as the seed of its numbers."""
SEED_BYTES = 32
WIDEST = 1e6

_HEAD = struct.Struct("<4sBB16sQB")
_PART = struct.Struct("<If")
_CHECKSUM = struct.Struct("<I")
_WIDTH = {OPEN: OPEN_WIDTH, SHARE: RING_WIDTH}
_ID = re.compile(r"[0-9a-f]{32}")
_WHOLE = 1e-3
"""How far from a whole multiple a value may lie; float32 holds 32767.0 to a five hundredth of this."""


@record
class Part:
    """A block in a payload: `unit` is what its whole numbers are multiples of."""

    name: str
    size: int
    unit: float


@record
class Payload:
    """A delta, or a share of one, taken apart. `body`: what lies between the last part's head and the checksum."""

    kind: int
    id: str
    bundle_version: int
    parts: tuple[Part, ...]
    body: bytes

    @property
    def size(self) -> int:
        """How many values it stands for, all blocks together."""
        return sum(part.size for part in self.parts)


def encode(delta: Delta, specs: Sequence[BlockSpec]) -> bytes:
    """The delta's bytes, kind 0. Raises DeltaError unless its blocks are those of `specs`, and every value a whole
    multiple of its block's unit, at most 32767 of them (`edgerec.federation.rounding.rounded` makes it so)."""
    parts = tuple([Part(spec.name, spec.size, spec.unit) for spec in specs])
    body = multiples(delta, specs).astype("<i2").tobytes()
    return pack(Payload(OPEN, delta.id, delta.bundle_version, parts, body))


def multiples(delta: Delta, specs: Sequence[BlockSpec]) -> NDArray[np.int32]:
    """The delta's values in units, int32 (d,), block after block in the order of `specs`. Raises DeltaError."""
    sound(delta)
    if {(name, len(block)) for name, block in delta.blocks.items()} != {(spec.name, spec.size) for spec in specs}:
        raise DeltaError("the delta's blocks are not those that the bundle declares", hint="which version is it of?")
    found = [np.zeros(0, np.int32)]
    for spec in specs:
        exact = delta.blocks[spec.name].astype(np.float64) / spec.unit
        whole = np.rint(exact)
        if (np.abs(whole) > LARGEST).any() or (np.abs(whole - exact) > _WHOLE).any():
            raise DeltaError(
                f"block {spec.name!r}: a value is no whole multiple of {spec.unit:g}, or more than {LARGEST} of them",
                hint="round the delta first",
            )
        found.append(whole.astype(np.int32))
    return np.concatenate(found)


def decode(payload: bytes) -> Delta:
    """The delta of a payload of kind 0; its blocks float32 (size,). Raises DeltaError for whatever is not exactly one.

    That the blocks are those of a bundle is for `check_layout` to say.
    """
    found = parse(payload)
    if found.kind != OPEN:
        raise DeltaError("a share of a delta, which says nothing by itself")
    values = np.frombuffer(found.body, "<i2")
    if (values < -LARGEST).any():
        raise DeltaError(f"a value of more than {LARGEST} units")
    return delta_of(found, values.astype(np.int32))


def delta_of(payload: Payload, values: NDArray[np.int32]) -> Delta:
    """A delta with the payload's name and layout, of values in units, int32 (d,)."""
    blocks: dict[str, Float32] = {}
    start = 0
    for part in payload.parts:
        blocks[part.name] = (values[start : start + part.size] * np.float64(part.unit)).astype(np.float32)
        start += part.size
    return Delta(payload.id, payload.bundle_version, blocks)


def pack(payload: Payload) -> bytes:
    """The payload's bytes. Raises DeltaError where `parse` would not read them back."""
    if not _ID.fullmatch(payload.id) or not 0 <= payload.bundle_version < 1 << 64:
        raise DeltaError("a delta's id is 32 hexadecimal digits, its bundle version a whole number of 64 bits")
    if not 1 <= len(payload.parts) <= MAX_BLOCKS:
        raise DeltaError(f"a delta has 1 to {MAX_BLOCKS} blocks, not {len(payload.parts)}")
    _check_parts(payload.parts)
    if len(payload.body) != _body_size(payload.kind, payload.parts):
        raise DeltaError("a delta's values are not as many as its blocks say")
    raw_id, count = bytes.fromhex(payload.id), len(payload.parts)
    pieces = [_HEAD.pack(MAGIC, FORMAT, payload.kind, raw_id, payload.bundle_version, count)]
    for part in payload.parts:
        name = part.name.encode()
        pieces += (bytes((len(name),)), name, _PART.pack(part.size, part.unit))
    data = b"".join((*pieces, payload.body))
    return _checked_size(data + _CHECKSUM.pack(zlib.crc32(data)))


def parse(data: bytes) -> Payload:
    """A payload of any kind, taken apart. Raises DeltaError."""
    _checked_size(data)
    if len(data) < _HEAD.size + _CHECKSUM.size or data[:4] != MAGIC:
        raise DeltaError("not a delta: it does not begin like one")
    _, form, kind, raw_id, version, count = _HEAD.unpack_from(data)
    if form != FORMAT:
        raise DeltaError(f"a delta of format {form}, this runtime reads {FORMAT}", hint="update edgerec")
    end = len(data) - _CHECKSUM.size
    if _CHECKSUM.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise DeltaError("a delta that was damaged or cut off: its checksum differs")
    if not 1 <= count <= MAX_BLOCKS:
        raise DeltaError(f"a delta has 1 to {MAX_BLOCKS} blocks, not {count}")
    parts, at = _parts(data[:end], count)
    body = data[at:end]
    if len(body) != _body_size(kind, parts):
        raise DeltaError("a delta's values are not as many as its blocks say")
    return Payload(kind, raw_id.hex(), version, parts, body)


def check_layout(payload: Payload, specs: Sequence[BlockSpec]) -> None:
    """Raises DeltaError unless the payload has these blocks, in this order, of these sizes and units."""
    expected = tuple([(spec.name, spec.size, float(np.float32(spec.unit))) for spec in specs])
    if tuple([(part.name, part.size, part.unit) for part in payload.parts]) != expected:
        raise DeltaError("the delta's blocks are not those that the bundle declares", hint="which version is it of?")


def _parts(data: bytes, count: int) -> tuple[tuple[Part, ...], int]:
    """The heads of the blocks, and where they end."""
    parts, at = [], _HEAD.size
    for _ in range(count):
        start = at + 1
        at = start + data[at] if at < len(data) else len(data)
        if at + _PART.size > len(data):
            raise DeltaError("a delta that ends within the head of a block")
        size, unit = _PART.unpack_from(data, at)
        parts.append(Part(data[start:at].decode("latin-1"), size, unit))
        at += _PART.size
    _check_parts(parts)
    return tuple(parts), at


def _check_parts(parts: Sequence[Part]) -> None:
    for part in parts:
        if not re.fullmatch(BLOCK_NAME, part.name):
            raise DeltaError("a delta with a block whose name is none")
        if not 1 <= part.size <= MAX_PAYLOAD or not isfinite(part.unit) or not 0 < part.unit <= WIDEST:
            raise DeltaError(f"block {part.name!r} of a delta has an impossible size or unit")
    if len({part.name for part in parts}) != len(parts):
        raise DeltaError("a delta with two blocks of one name")


def _body_size(kind: int, parts: Sequence[Part]) -> int:
    if kind not in (OPEN, SHARE, SEED):
        raise DeltaError(f"a delta of an unknown kind, {kind}")
    return SEED_BYTES if kind == SEED else _WIDTH[kind] * sum(part.size for part in parts)


def _checked_size(data: bytes) -> bytes:
    if len(data) > MAX_PAYLOAD:
        raise DeltaError(f"a delta of {len(data)} bytes, more than {MAX_PAYLOAD}")
    return data
