"""Reads protobuf's wire format by a given schema, with bounds; knows nothing of ONNX."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from edgerec.errors import BundleInvalid

MAX_FIELDS = 1 << 18
MAX_LIST = 1 << 12
MAX_TEXT = 1 << 12
MAX_TEXTS = 1 << 24
"""Bytes of all the texts in a file."""

Spec = Mapping[int, tuple[str, str]]
"""Field number → (name, kind). Kinds: "int" varint, "float" 32 bits, "text" a short UTF-8 string, "bytes" (also
messages and blocks of packed numbers); "ints" and "floats": repeated numbers, packed or not; "texts" and "list":
repeated strings and bytes; "refuse": may not occur."""

_WIRE = {"int": 0, "float": 5, "text": 2, "bytes": 2, "texts": 2, "list": 2}


class Walk:
    """One walk over one file: counts fields so that a small file cannot cost unbounded time."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS
        self._text_left = MAX_TEXTS

    def message(self, data: memoryview, spec: Spec, what: str) -> dict[str, Any]:
        """The fields of one message by name; absent ones are left out. Raises BundleInvalid."""
        out: dict[str, Any] = {}
        for number, wire, value in _fields(data, what):
            self._left -= 1
            if self._left < 0:
                raise BundleInvalid(f"{what}: more than {MAX_FIELDS} fields in the file")
            name, kind = spec.get(number, ("", "refuse"))
            if kind == "refuse":
                raise BundleInvalid(f"{what}: field {number} {name or ''} is not allowed".replace("  ", " "))
            if kind in ("text", "texts") and wire == 2:
                self._text_left -= len(value)
                if self._text_left < 0:
                    raise BundleInvalid(f"{what}: more than {MAX_TEXTS} bytes of names and texts")
            _put(out, name, kind, wire, value, what)
        return out


def _put(out: dict[str, Any], name: str, kind: str, wire: int, value: Any, what: str) -> None:
    if kind in ("ints", "floats"):
        numbers = out.setdefault(name, [])
        numbers.extend(_numbers(kind, wire, value, f"{what}.{name}"))
        if len(numbers) > MAX_LIST:
            raise BundleInvalid(f"{what}.{name}: more than {MAX_LIST} numbers")
        return
    if wire != _WIRE[kind]:
        raise BundleInvalid(f"{what}.{name}: wire type {wire}")
    if kind == "float":
        (value,) = struct.unpack("<f", value)
    elif kind in ("text", "texts"):
        value = _text(value, f"{what}.{name}")
    if kind in ("list", "texts"):
        out.setdefault(name, []).append(value)
    elif name in out:
        raise BundleInvalid(f"{what}.{name}: given twice")
    else:
        out[name] = value


def _text(value: memoryview, what: str) -> str:
    if len(value) > MAX_TEXT:
        raise BundleInvalid(f"{what}: longer than {MAX_TEXT} bytes")
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise BundleInvalid(f"{what}: not UTF-8") from None


def _numbers(kind: str, wire: int, value: Any, what: str) -> list[Any]:
    single = 0 if kind == "ints" else 5
    if wire == single:
        return [value] if kind == "ints" else list(struct.unpack("<f", value))
    if wire != 2:
        raise BundleInvalid(f"{what}: wire type {wire}")
    if kind == "ints":
        if len(value) > 10 * MAX_LIST:
            raise BundleInvalid(f"{what}: more than {MAX_LIST} numbers")
        return decode_varints(value)
    if len(value) % 4 or len(value) > 4 * MAX_LIST:
        raise BundleInvalid(f"{what}: a block of {len(value)} bytes")
    return list(struct.unpack(f"<{len(value) // 4}f", value))


def decode_varints(data: memoryview) -> list[int]:
    """A block of packed varints as signed 64-bit numbers. Raises BundleInvalid."""
    numbers, place = [], 0
    while place < len(data):
        number, place = _varint(data, place, "packed numbers")
        numbers.append(number)
    return numbers


def _varint(data: memoryview, place: int, what: str) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >= 1 << 64:
                break
            return number - (1 << 64) if number >= 1 << 63 else number, place
    raise BundleInvalid(f"{what}: a damaged number")


def _fields(data: memoryview, what: str) -> Iterator[tuple[int, int, Any]]:
    place, end = 0, len(data)
    while place < end:
        tag, place = _varint(data, place, what)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise BundleInvalid(f"{what}: field number {number}")
        if wire == 0:
            value, place = _varint(data, place, what)
            yield number, wire, value
            continue
        if wire == 2:
            size, place = _varint(data, place, what)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise BundleInvalid(f"{what}: wire type {wire}")
        if not 0 <= size <= end - place:
            raise BundleInvalid(f"{what}: cut short")
        yield number, wire, data[place : place + size]
        place += size
