"""What server and gateways write into Flower's messages, and what is believed of it when it is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from edgerec.deltas import DeltaError
from edgerec_exporters.flower.rows import Ask, Ring, Rows

ASK, DELTAS, FACTS, METRICS = "ask", "deltas", "facts", "metrics"
ROWS, TOTAL, IDS = "rows", "total", "ids"
HELD = "query.held"
"""The message type by which split mode asks who is there."""

_ID_BYTES = 16
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_HEADER = 256
"""Bytes that numpy's header of an array may take."""


def asking(ask: Ask) -> RecordDict:
    """The server's message."""
    return RecordDict(
        {
            ASK: ConfigRecord(
                {
                    "number": ask.number,
                    "bundle-version": ask.bundle_version,
                    "names": [name for name, _ in ask.blocks],
                    "sizes": [size for _, size in ask.blocks],
                    "most": ask.most,
                    "split": ask.split,
                    IDS: packed(ask.ids),
                }
            )
        }
    )


def asked(content: RecordDict) -> Ask:
    """What `asking` wrote. Raises DeltaError."""
    found = content.config_records.get(ASK)
    if found is None:
        raise DeltaError("a message that asks for nothing", hint="run server and gateways on the same edgerec")
    try:
        number, version, most = (int(str(found[name])) for name in ("number", "bundle-version", "most"))
        names, sizes = found["names"], found["sizes"]
        blocks = tuple((str(name), int(str(size))) for name, size in zip(names, sizes, strict=True))  # type: ignore[arg-type]
        ids = unpacked(found[IDS])
    except (KeyError, TypeError, ValueError) as error:
        raise DeltaError(f"a message that asks for nothing sensible: {error}") from None
    if number < 1 or most < 1 or not blocks or not all(_NAME.fullmatch(name) and size > 0 for name, size in blocks):
        raise DeltaError("a message that asks for nothing sensible: an impossible number or block")
    return Ask(number, version, blocks, most, found.get("split") is True, ids)


def with_rows(rows: Rows) -> RecordDict:
    """A gateway's answer: its deltas as the rows of one array, and their ids."""
    arrays = ArrayRecord({ROWS: Array(np.ascontiguousarray(rows.rows, np.float32))})
    return _answer(arrays, rows.ids)


def rows_in(content: RecordDict, ask: Ask) -> Rows:
    """The rows of an answer, in whatever order. Raises DeltaError unless they are exactly those that were asked for.
    Values are not looked at: the engine refuses rows that are not finite.
    """
    ids = _ids(content)
    if sorted(ids) != sorted(ask.ids):
        raise DeltaError("an answer of other deltas than were asked for")
    return Rows(ids, _array(content, ROWS, (len(ids), ask.width), np.dtype(np.float32)))


def with_ids(ids: Sequence[str]) -> RecordDict:
    """A gateway's answer to `HELD`."""
    return _answer(None, ids)


def ids_in(content: RecordDict, ask: Ask) -> tuple[str, ...]:
    """The first `ask.most` ids of an answer, each once. Raises DeltaError."""
    return tuple(dict.fromkeys(_ids(content)))[: ask.most]


def with_total(total: Ring, ids: Sequence[str]) -> RecordDict:
    """A gateway's answer in split mode: the sum of the shares of these ids."""
    return _answer(ArrayRecord({TOTAL: Array(np.ascontiguousarray(total, np.uint32))}), ids)


def total_in(content: RecordDict, ask: Ask) -> Ring:
    """The sum in an answer, uint32 (d,). Raises DeltaError where it is of other deltas than were asked for."""
    if set(_ids(content)) != set(ask.ids):
        raise DeltaError("a sum of other deltas than were asked for")
    return _array(content, TOTAL, (ask.width,), np.dtype(np.uint32))


def packed(ids: Sequence[str]) -> bytes:
    """Ids of 32 hexadecimal digits as 16 bytes each."""
    return b"".join(bytes.fromhex(one) for one in ids)


def unpacked(data: object) -> tuple[str, ...]:
    """What `packed` wrote. Raises ValueError."""
    if not isinstance(data, bytes) or len(data) % _ID_BYTES:
        raise ValueError("ids that are none")
    return tuple(data[at : at + _ID_BYTES].hex() for at in range(0, len(data), _ID_BYTES))


def _answer(arrays: ArrayRecord | None, ids: Sequence[str]) -> RecordDict:
    """`num-examples`: what Flower's own strategies would weigh by."""
    facts, metrics = ConfigRecord({IDS: packed(ids)}), MetricRecord({"num-examples": len(ids)})
    return RecordDict({DELTAS: arrays or ArrayRecord(), FACTS: facts, METRICS: metrics})


def _ids(content: RecordDict) -> tuple[str, ...]:
    found = content.config_records.get(FACTS)
    try:
        return unpacked(None if found is None else found.get(IDS))
    except ValueError as error:
        raise DeltaError(f"an answer with {error}") from None


def _array(content: RecordDict, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array of that name and form; its bytes are counted before numpy reads them."""
    record = content.array_records.get(DELTAS)
    found = None if record is None else record.get(name)
    expected = int(np.prod(shape)) * dtype.itemsize
    if found is None or not expected <= len(found.data) <= expected + _HEADER:
        raise DeltaError(f"an answer without an array {name!r} of {shape}")
    try:
        array = np.load(BytesIO(found.data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DeltaError(f"an answer whose array cannot be read: {error}") from None
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
        raise DeltaError(f"an answer whose array is not {dtype} {shape}")
    return array
