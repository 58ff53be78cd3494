"""golden.json: what a host must compute to be this bundle's host. docs/bundle.md describes the format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerec_exporters.parity import History, pad

if TYPE_CHECKING:
    from edgerec.bundle import Encoder
    from edgerec.types import Model

MAX_CASES = 4


def encoder_cases(encoder: Encoder, model: Model, histories: Sequence[History]) -> list[dict[str, Any]]:
    """Inputs and the query they give: nothing, one event, a history shorter than L, one longer.

    Each case holds one history: `history` (L, dim), `age_days` (L,), `kind` (L,), `mask` (L,) of 0 and 1, and
    `query` (dim,), as onnxruntime computes it.
    """
    return [_case(encoder, model, past) for past in _chosen(histories, encoder.length)]


def _chosen(histories: Sequence[History], length: int) -> list[History]:
    nothing = History(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int64))
    wanted = [nothing]
    for fits in (lambda n: n == 1, lambda n: 1 < n < length, lambda n: n > length):
        wanted += [past for past in histories if fits(len(past.rows))][:1]
    return wanted[:MAX_CASES]


def _case(encoder: Encoder, model: Model, past: History) -> dict[str, Any]:
    inputs = pad([past], model.vectors, encoder.length)
    query = encoder(*inputs)
    history, age_days, kind, mask = (array[0] for array in inputs)
    return {
        "history": _short(history),
        "age_days": _short(age_days),
        "kind": kind.tolist(),
        "mask": mask.astype(int).tolist(),
        "query": _short(query[0]),
    }


def _short(values: np.ndarray[Any, Any]) -> Any:
    """Nested lists of the shortest decimals that give the same float32 again."""
    if values.ndim > 1:
        return [_short(part) for part in values]
    return [float(str(value)) for value in values]


def to_json(cases: Sequence[Mapping[str, Any]], stories: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of golden.json."""
    return (json.dumps({"encoder": cases, "stories": stories}, allow_nan=False) + "\n").encode()
