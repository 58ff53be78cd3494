"""Asks and answers as Flower's records, and what is believed of an array that came in."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from math import isfinite
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from edgerec.deltas import DeltaError
from edgerec_exporters.federation.sources import Waiting
from edgerec_exporters.flower.asks import Ask, Rows, Total, ask_of, ask_text, ids_of, ids_text, offer_of, offer_text

OFFER = "query.offer"
"""The message type by which the server asks what there is, before it asks for it by `train`."""
ASK, ANSWER, DELTAS, METRICS = "ask", "answer", "deltas", "metrics"

_TEXT, _ROWS, _TOTAL, _MULTIPLIER = "json", "rows", "total", "noise-multiplier"
_HEADER = 256
"""Bytes that numpy's header of an array may take."""


def asking(ask: Ask) -> RecordDict:
    """The server's message, of either type."""
    return RecordDict({ASK: ConfigRecord({_TEXT: ask_text(ask)})})


def asked(content: RecordDict) -> Ask:
    """What `asking` wrote. Raises DeltaError."""
    return ask_of(_text(content, ASK))


def offering(waiting: Sequence[Waiting]) -> RecordDict:
    """A gateway's answer to an `OFFER`."""
    return RecordDict({ANSWER: ConfigRecord({_TEXT: offer_text(waiting)})})


def offered(content: RecordDict, ask: Ask) -> tuple[Waiting, ...]:
    """What `offering` wrote. Raises DeltaError."""
    return offer_of(_text(content, ANSWER), ask)


def with_rows(rows: Rows) -> RecordDict:
    """A gateway's answer to `train`: its deltas as the rows of one array, and their ids."""
    return _answer(_ROWS, np.ascontiguousarray(rows.rows, np.float32), rows.ids)


def rows_in(content: RecordDict, ask: Ask) -> Rows:
    """The rows of an answer. Raises DeltaError unless all of them were asked for. Values are not looked at: the engine
    refuses rows that are not finite.
    """
    ids = ids_of(_text(content, ANSWER), ask)
    return Rows(ids, _array(content, _ROWS, (len(ids), ask.width), np.dtype(np.float32)))


def with_total(total: Total, ids: Sequence[str]) -> RecordDict:
    """A gateway's answer in split mode: the sum of the shares of these ids."""
    answer = _answer(_TOTAL, np.ascontiguousarray(total.total, np.uint32), ids)
    answer.metric_records[METRICS][_MULTIPLIER] = total.multiplier
    return answer


def total_in(content: RecordDict, ask: Ask) -> Total:
    """The sum in an answer. Raises DeltaError where it is of other deltas than were asked for."""
    if set(ids_of(_text(content, ANSWER), ask)) != set(ask.ids):
        raise DeltaError("a sum of other deltas than were asked for")
    metrics = content.metric_records.get(METRICS)
    multiplier = None if metrics is None else metrics.get(_MULTIPLIER)
    if not isinstance(multiplier, float) or not isfinite(multiplier) or multiplier < 0:
        raise DeltaError("a sum that does not say how much noise is in it")
    return Total(_array(content, _TOTAL, (ask.width,), np.dtype(np.uint32)), multiplier)


def _answer(name: str, array: NDArray[Any], ids: Sequence[str]) -> RecordDict:
    """`num-examples`: what Flower's own strategies would weigh by."""
    return RecordDict(
        {
            DELTAS: ArrayRecord({name: Array(array)}),
            ANSWER: ConfigRecord({_TEXT: ids_text(ids)}),
            METRICS: MetricRecord({"num-examples": len(ids)}),
        }
    )


def _text(content: RecordDict, name: str) -> object:
    record = content.config_records.get(name)
    return None if record is None else record.get(_TEXT)


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
