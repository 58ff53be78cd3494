"""JSON as a bundle may hold it: without duplicate keys, with bounds on what a text may grow to."""

from __future__ import annotations

import json
import math
from typing import Any

from edgerec.bundle.texts import shown
from edgerec.errors import BundleInvalid

MAX_DEPTH = 32
MAX_WHOLE = 1 << 63
MAX_GROWN = 1 << 27
"""Bytes that a text may make in memory, by the estimate below."""

_CONTAINER, _VALUE = 300, 64
"""About what an object or list with one entry takes in memory, and what any further value does."""


def strict_json(data: bytes, where: str) -> Any:
    """Parses UTF-8 JSON without duplicate keys, NaN, infinities, or half surrogate pairs.

    Nesting is at most 32 deep, whole numbers fit 64 bits. What would take more than 128 MiB of memory is refused before
    it is parsed. Raises BundleInvalid naming `where`.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BundleInvalid(f"{where}: not UTF-8") from None
    grown = _CONTAINER * (text.count("{") + text.count("[")) + _VALUE * text.count(",")
    if grown > MAX_GROWN:
        raise BundleInvalid(f"{where}: would take more than {MAX_GROWN} bytes of memory")
    try:
        parsed = json.loads(text, object_pairs_hook=unique, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleInvalid(f"{where} is not valid JSON: {error}") from None
    _check(parsed, where)
    return parsed


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `object_pairs_hook`: raises ValueError where a key occurs twice."""
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate keys: {shown(twice)}")
    return out


def refuse_constant(name: str) -> Any:
    """For `parse_constant`: NaN and infinities are Python's, not JSON's."""
    raise ValueError(f"{name} is not JSON")


def _check(parsed: Any, where: str) -> None:
    level = [parsed]
    for _ in range(MAX_DEPTH + 1):
        deeper: list[Any] = []
        for part in level:
            values = part.values() if isinstance(part, dict) else part if isinstance(part, list) else (part,)
            if isinstance(part, dict):
                for key in part:
                    _check_value(key, where)
            for value in values:
                if isinstance(value, (dict, list)):
                    deeper.append(value)
                else:
                    _check_value(value, where)
        if not deeper:
            return
        level = deeper
    raise BundleInvalid(f"{where}: nested more than {MAX_DEPTH} deep")


def _check_value(value: Any, where: str) -> None:
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise BundleInvalid(f"{where}: {shown(value)} holds half of a surrogate pair") from None
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise BundleInvalid(f"{where}: a number is not finite")
    elif isinstance(value, int) and not -MAX_WHOLE <= value < MAX_WHOLE:
        raise BundleInvalid(f"{where}: a whole number does not fit 64 bits")
