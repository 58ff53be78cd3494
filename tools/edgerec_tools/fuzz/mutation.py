"""Inputs drawn from a seed: pieces of the corpus, changed. Needs nothing, and draws the same inputs everywhere."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

MAX_LENGTH = 1 << 14
_MOST_CHANGES = 4
_NUMBERS = (b"0", b"-1", b"1", b"255", b"65536", b"2147483648", b"9223372036854775807", b"1e999", b"0.5")
_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF, 0x22, 0x2C, 0x5C)

Shape = Callable[[random.Random, bytes, tuple[bytes, ...]], bytes | None]
"""Changes an input so that it stays what its reader can parse; None where it is nothing of the kind."""

Change = Callable[[random.Random, bytearray, Sequence[bytes], Sequence[bytes]], None]


def inputs(corpus: Sequence[bytes], tokens: tuple[bytes, ...], shape: Shape | None, seed: int) -> Iterator[bytes]:
    """The corpus as it is, then changes to it without end; `shape` makes half of them, where it can."""
    yield from corpus
    rng = random.Random(seed)
    known = list(corpus) or [b""]
    while True:
        data = rng.choice(known)
        shaped = shape(rng, data, tokens) if shape is not None and rng.random() < 0.5 else None
        yield (_changed(rng, data, known, tokens) if shaped is None else shaped)[:MAX_LENGTH]


def _changed(rng: random.Random, data: bytes, known: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, _MOST_CHANGES)):
        rng.choice(_CHANGES)(rng, out, known, tokens)
    return bytes(out)


def _place(rng: random.Random, data: bytearray) -> int:
    return rng.randint(0, len(data))


def _flip(rng: random.Random, data: bytearray, known: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray, known: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice(_BYTES)


def _drop(rng: random.Random, data: bytearray, known: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    start = _place(rng, data)
    del data[start : start + rng.randint(1, 1 + len(data) // 4)]


def _repeat(rng: random.Random, data: bytearray, known: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    start = _place(rng, data)
    piece = data[start : start + rng.randint(1, 32)]
    data[start:start] = piece * rng.choice((1, 1, 2, 64))


def _insert(rng: random.Random, data: bytearray, known: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    start = _place(rng, data)
    data[start:start] = rng.choice(tokens or _NUMBERS)


def _overwrite(rng: random.Random, data: bytearray, known: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    start = _place(rng, data)
    piece = rng.choice((*tokens, *_NUMBERS))
    data[start : start + len(piece)] = piece


def _splice(rng: random.Random, data: bytearray, known: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    other = rng.choice(known)
    start = rng.randint(0, len(other))
    data[_place(rng, data) :] = other[start:]


_CHANGES: tuple[Change, ...] = (_flip, _set, _drop, _repeat, _insert, _overwrite, _splice)
