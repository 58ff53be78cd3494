"""What a server asks of its gateways and what they answer, as plain records; `messages` puts them into Flower's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.federated import BlockSpec
from edgerec.deltas import DeltaError
from edgerec.types import Float32
from edgerec_exporters.federation.sources import Waiting

Ring = NDArray[np.uint32]
_ID = re.compile(r"[0-9a-f]{32}")
_MOST_NUMBER = 1 << 53
_SENDER = 64


@dataclass(frozen=True, slots=True)
class Part:
    """Deltas that a gateway is asked for under one number: for that number it gives the same ones again, and to no
    other number those. `newest`: the bundle's version then; a delta of an older one goes under a later number.
    """

    number: int
    newest: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """`versions`: of which deltas may be · `blocks`: of the bundle, in its order · `split`: whether sums of shares are
    asked for, not rows · `parts`: empty while the server only asks what there is.
    """

    versions: tuple[int, ...]
    blocks: tuple[BlockSpec, ...]
    split: bool = False
    parts: tuple[Part, ...] = ()

    @property
    def width(self) -> int:
        """d: the numbers of all blocks together."""
        return sum(spec.size for spec in self.blocks)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of all parts."""
        return tuple(one for part in self.parts for one in part.ids)


@dataclass(frozen=True, slots=True)
class Rows:
    """Deltas of one gateway: `ids`, n of them, and `rows` float32 (n, d)."""

    ids: tuple[str, ...]
    rows: Float32


@dataclass(frozen=True, slots=True)
class Total:
    """Of one gateway: the sum of the shares that it was asked for, uint32 (d,); `multiplier`: σ of its own noise over a
    block's bound.
    """

    total: Ring
    multiplier: float


def ask_text(ask: Ask) -> bytes:
    """The ask as JSON."""
    blocks = [spec.values() for spec in ask.blocks]
    parts = [[part.number, part.newest, list(part.ids)] for part in ask.parts]
    return json.dumps({"versions": ask.versions, "blocks": blocks, "split": ask.split, "parts": parts}).encode()


def ask_of(text: object) -> Ask:
    """What `ask_text` wrote. Raises DeltaError."""
    data = _object(text)
    try:
        blocks = tuple(BlockSpec.of(one) for one in data["blocks"])
        parts = tuple(Part(_number(number), _number(newest), _ids(ids)) for number, newest, ids in data["parts"])
        ask = Ask(tuple(map(_number, data["versions"])), blocks, data["split"] is True, parts)
    except (KeyError, TypeError, ValueError) as error:
        raise DeltaError(f"a message that asks for nothing sensible: {error}", hint=_SAME) from None
    if not ask.blocks or not ask.versions:
        raise DeltaError("a message that asks for nothing", hint=_SAME)
    return ask


def offer_text(waiting: Sequence[Waiting]) -> bytes:
    """What a gateway holds, as JSON."""
    return json.dumps({"waiting": [[one.id, one.version, one.size, one.key] for one in waiting]}).encode()


def offer_of(text: object, ask: Ask) -> tuple[Waiting, ...]:
    """What `offer_text` wrote, each id once, of the asked versions only. Raises DeltaError."""
    try:
        found = [_waiting(*one) for one in _object(text)["waiting"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DeltaError(f"an offer of deltas that cannot be read: {error}") from None
    return tuple({one.id: one for one in found if one.version in ask.versions}.values())


def ids_text(ids: Sequence[str]) -> bytes:
    """Ids as JSON."""
    return json.dumps({"ids": list(ids)}).encode()


def ids_of(text: object, ask: Ask) -> tuple[str, ...]:
    """What `ids_text` wrote, if it was asked for, and each id once. Raises DeltaError."""
    try:
        ids = _ids(_object(text)["ids"])
    except (KeyError, TypeError, ValueError) as error:
        raise DeltaError(f"an answer whose ids cannot be read: {error}") from None
    if len(set(ids)) != len(ids) or not set(ids) <= set(ask.ids):
        raise DeltaError("an answer of other deltas than were asked for")
    return ids


_SAME = "run server and gateways on the same edgerec"


def _object(text: object) -> Mapping[str, Any]:
    if not isinstance(text, bytes):
        raise DeltaError("a message without content", hint=_SAME)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DeltaError("a message that is no JSON object", hint=_SAME)
    return found


def _waiting(id_: object, version: object, size: object, key: object) -> Waiting:
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= _SENDER):
        raise ValueError("an impossible sender")
    return Waiting(_ids([id_])[0], _number(version), _number(size), key)


def _ids(ids: object) -> tuple[str, ...]:
    if not isinstance(ids, list) or not all(isinstance(one, str) and _ID.fullmatch(one) for one in ids):
        raise ValueError("an id that is not 32 hexadecimal digits")
    return tuple(ids)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST_NUMBER:
        raise ValueError(f"{value!r} is no number of something")
    return value
