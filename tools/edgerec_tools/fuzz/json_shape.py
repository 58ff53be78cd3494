"""Changes to JSON that leave it JSON, mostly: what a reader does with odd values lies behind the parser."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any

MAX_NODES = 4096
_LONG = (65, 257, 1025, 5000)
_DEEP = (3, 40, 1200)


class Raw(str):
    """Text that is written as it is."""


class Pairs(list[Any]):
    """An object as the list of its entries, [key, value] each, so that a key may occur twice."""


_ODD_VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 0.5, -0.0, 1e-320, 1e38, 1e308, 2**31, 2**53, 2**63, -(2**63) - 1, 10**30, 255, 65536),
    *(Raw("1e999"), Raw("-1e999"), Raw("NaN"), Raw("Infinity"), Raw("9" * 5000), Raw("01"), Raw("1.0"), Raw("-0")),
    *(True, False, None, "", "a", "default", "click", "i1", "\0", "\ud800", "\u202e", "é", "e\u0301", "\ufeff", "'"),
    *("../x", "items/x.npy", "2026-01-01T00:00:00", [], Pairs(), [0], [[]], Pairs([["a", 1]])),
)


def _odd_value(rng: random.Random) -> Any:
    # a copy: it may be changed in its turn
    return deepcopy(rng.choice(_ODD_VALUES))


def mutate_json(rng: random.Random, data: bytes, tokens: tuple[bytes, ...]) -> bytes | None:
    """One to three changes somewhere in the tree; None where `data` is no JSON."""
    try:
        root = [json.loads(data, object_pairs_hook=lambda pairs: Pairs(list(pair) for pair in pairs))]
    except (ValueError, RecursionError):
        return None
    names = [token[1:-1].decode() for token in tokens if token[:1] == b'"' and len(token) > 2]
    for _ in range(rng.randint(1, 3)):
        places = _places(root)
        _change(rng, *rng.choice(places), rng.choice(places), names)
    if len(_places(root)) > MAX_NODES:  # lists of lists that were repeated, written out, would fill memory
        return None
    try:
        return _written(root[0]).encode("utf-8", "surrogatepass")
    except RecursionError:
        return None


def mutate_lines(rng: random.Random, data: bytes, tokens: tuple[bytes, ...]) -> bytes | None:
    """A change to one of several lines of JSON, or to their order and number."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    action = rng.randrange(8)
    if action == 0:
        lines.insert(rng.randrange(len(lines) + 1), lines[place])
    elif action == 1:
        del lines[place]
    elif action == 2:
        rng.shuffle(lines)
    else:
        changed = mutate_json(rng, lines[place], tokens)
        if changed is None:
            return None
        lines[place] = changed
    return b"\n".join(lines)


Place = tuple[list[Any], int]


def _places(root: list[Any]) -> list[Place]:
    """Where every value stands: the list that holds it and its place there."""
    found: list[Place] = [(root, 0)]
    for holder, place in found:
        value = holder[place]
        if isinstance(value, Pairs):
            found += [(pair, 1) for pair in value]
        elif isinstance(value, list):
            found += [(value, n) for n in range(len(value))]
        if len(found) > MAX_NODES:
            break
    return found


def _change(rng: random.Random, holder: list[Any], place: int, other: Place, names: list[str]) -> None:
    value = holder[place]
    action = rng.randrange(10)
    if action < 3:
        holder[place] = _odd_value(rng)
    elif action == 3 and isinstance(value, str):
        holder[place] = rng.choice(
            (value * 2, value[:-1], value + rng.choice("\0\u202e\ud800 é"), "x" * rng.choice(_LONG))
        )
    elif action == 3 and isinstance(value, (int, float)) and not isinstance(value, bool):
        holder[place] = rng.choice(
            (-value, value + 1, value * 1000, float(value) if abs(value) < 1e300 else 0, str(value))
        )
    elif action == 4 and isinstance(value, list) and value:
        del value[rng.randrange(len(value))]
    elif action == 5 and isinstance(value, list) and value:
        value.insert(rng.randrange(len(value) + 1), rng.choice(value))
    elif action == 6 and isinstance(value, Pairs):
        value.append([rng.choice(names or ["a"]), _odd_value(rng)])
    elif action == 7 and isinstance(value, list) and value:
        value += [rng.choice(value)] * rng.choice((2, 70, 300))
    elif action == 8:
        holder[place] = Raw("[" * (depth := rng.choice(_DEEP)) + "]" * depth)
    elif len(_places([value])) < MAX_NODES // 8:
        # a copy, so that no value holds itself
        other[0][other[1]] = Raw(_written(value))


def _written(value: Any) -> str:
    if isinstance(value, Raw):
        return value
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{_written(key)}:{_written(one)}" for key, one in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return json.dumps(value)
