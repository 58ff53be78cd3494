"""Changes to protobuf messages whose lengths still fit: byte by byte, almost every change only breaks a length."""

from __future__ import annotations

import random
from typing import Any

MAX_NODES = 4096
MAX_DEPTH = 12
_NUMBERS = (0, 1, 2, 3, 7, 10, 11, 16, 127, 128, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_FIELDS = (*range(1, 16), 20, 21, 22, 23, 25)

Field = list[Any]
"""[number, wire type, value]: an int, bytes, or for a message inside a list of fields."""


def mutate_protobuf(rng: random.Random, data: bytes, tokens: tuple[bytes, ...]) -> bytes | None:
    """One to three changes somewhere in the tree of messages; None where `data` is no message."""
    root = _parsed(data, 0)
    if not root:
        return None
    for _ in range(rng.randint(1, 3)):
        places = _places(root)
        _change(rng, *rng.choice(places), rng.choice(places), tokens)
    return _written(root)


def _parsed(data: bytes, depth: int) -> list[Field] | None:
    fields: list[Field] = []
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if place < 0 or not number or wire not in (0, 1, 2, 5):
            return None
        if wire == 0:
            value, place = _varint(data, place)
            if place < 0:
                return None
            fields.append([number, wire, value])
            continue
        size, place = (8, place) if wire == 1 else (4, place) if wire == 5 else _varint(data, place)
        if place < 0 or place + size > len(data):
            return None
        part = data[place : place + size]
        place += size
        inner = (
            _parsed(part, depth + 1) if wire == 2 and len(part) > 1 and depth < MAX_DEPTH and not _text(part) else None
        )
        fields.append([number, wire, part if inner is None else inner])
    return fields


def _text(part: bytes) -> bool:
    return part.isascii() and part.decode("ascii").isprintable()


def _varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
        shift += 7
    return 0, -1


def _places(root: list[Field]) -> list[tuple[list[Field], int]]:
    found = [(root, place) for place in range(len(root))]
    for fields, place in found:
        value = fields[place][2]
        if isinstance(value, list):
            found += [(value, n) for n in range(len(value))]
        if len(found) > MAX_NODES:
            break
    return found or [([[1, 0, 0]], 0)]


def _change(
    rng: random.Random, fields: list[Field], place: int, other: tuple[list[Field], int], tokens: tuple[bytes, ...]
) -> None:
    if place >= len(fields):  # an earlier change took it
        return
    field = fields[place]
    action = rng.randrange(7)
    if action == 0:
        del fields[place]
    elif action == 1:
        fields.insert(place, _copy(field))
    elif action == 2:
        field[0] = rng.choice(_FIELDS)
    elif action == 3 and other[1] < len(other[0]):
        fields.insert(rng.randint(0, len(fields)), _copy(other[0][other[1]]))
    elif action == 4:
        fields.append([rng.choice(_FIELDS), 0, rng.choice(_NUMBERS)])
    elif isinstance(field[2], int):
        field[2] = rng.choice((*_NUMBERS, field[2] + 1, max(field[2] - 1, 0)))
    elif isinstance(field[2], bytes) and field[1] == 2:
        field[2] = _changed_bytes(rng, field[2], tokens)


def _changed_bytes(rng: random.Random, value: bytes, tokens: tuple[bytes, ...]) -> bytes:
    if _text(value) and tokens and rng.random() < 0.6:
        return rng.choice(tokens)
    out = bytearray(value)
    if out:
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out[: rng.randint(0, len(out))] if rng.random() < 0.2 else out * rng.choice((1, 1, 1, 2)))


def _copy(field: Field) -> Field:
    value = field[2]
    return [field[0], field[1], [_copy(one) for one in value] if isinstance(value, list) else value]


def _written(fields: list[Field]) -> bytes:
    out = bytearray()
    for number, wire, value in fields:
        out += _number(number << 3 | wire)
        if wire == 0:
            out += _number(value & (1 << 64) - 1)
            continue
        part = _written(value) if isinstance(value, list) else value
        out += (_number(len(part)) if wire == 2 else b"") + part
    return bytes(out)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
