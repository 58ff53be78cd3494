"""Is the exported model the trained one? Top-10 of ONNX against PyTorch, and of the int8 scan against float32."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgerec.topk import top_k

if TYPE_CHECKING:
    from torch import nn

    from edgerec.bundle import Bundle, Encoder, Retriever
    from edgerec.types import Model

TOP = 10
TIE = 1e-5
"""Scores that differ by less, relative to the largest score, are a tie: float32 sums end there."""
MAX_INT8_LOSS = 0.01
_BATCH = 256

Rows = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class History:
    """One user's past, oldest event first: `rows` (H,), `age_days` (H,), `kinds` (H,).

    `targets`: catalogue rows the user took next, where they are known; they judge the int8 ranking.
    """

    rows: Rows
    age_days: NDArray[np.float32]
    kinds: NDArray[np.int64]
    targets: Rows = field(default_factory=lambda: np.empty(0, np.int32))


@dataclass(frozen=True, slots=True)
class Float32Parity:
    """`differing` counts histories whose top-10 differs by more than a tie; it must be 0 to pass."""

    histories: int
    equal: int
    ties: int
    differing: int
    max_query_error: float


@dataclass(frozen=True, slots=True)
class Int8Parity:
    """The int8 scan against float32, over the dense part of the default scenario's blend.

    `recall`: share of float32's top-10 among the scan's candidates after rescoring; `scan_recall`: the same
    for the scan's own order. `relative_ndcg`: NDCG@10 of the rescored candidates over float32's, judged by
    `judged_by` (the users' next items, or float32's top-10 where none are known). Times in milliseconds per
    query, one thread.
    """

    queries: int
    candidates: int
    recall: float
    scan_recall: float
    relative_ndcg: float
    judged_by: str
    scan_ms: float
    float32_ms: float
    shipped: bool


def pad(histories: Sequence[History], vectors: NDArray[np.float32], length: int) -> tuple[NDArray[Any], ...]:
    """The encoder's four inputs for a batch of histories, padded at the front."""
    count, dim = len(histories), vectors.shape[1]
    inputs = (
        np.zeros((count, length, dim), np.float32),
        np.zeros((count, length), np.float32),
        np.zeros((count, length), np.int64),
        np.zeros((count, length), np.bool_),
    )
    for place, past in enumerate(histories):
        n = min(len(past.rows), length)
        if n:
            values: tuple[Any, ...] = (vectors[past.rows[-n:]], past.age_days[-n:], past.kinds[-n:], True)
            for array, value in zip(inputs, values, strict=True):
                array[place, length - n :] = value
    return inputs


def onnx_queries(encoder: Encoder, model: Model, histories: Sequence[History]) -> NDArray[np.float32]:
    """Queries float32 (n_histories, dim) by onnxruntime."""
    parts = [
        encoder(*pad(histories[start : start + _BATCH], model.vectors, encoder.length))
        for start in range(0, len(histories), _BATCH)
    ]
    return np.concatenate(parts)


def torch_queries(module: nn.Module, model: Model, histories: Sequence[History], length: int) -> NDArray[np.float32]:
    """Queries float32 (n_histories, dim) by PyTorch."""
    import torch

    module = module.eval().cpu()
    parts = []
    with torch.no_grad():
        for start in range(0, len(histories), _BATCH):
            inputs = pad(histories[start : start + _BATCH], model.vectors, length)
            parts.append(module(*(torch.from_numpy(array) for array in inputs)).numpy())
    return np.concatenate(parts)


def float32_parity(module: nn.Module, trained: Model, bundle: Bundle, histories: Sequence[History]) -> Float32Parity:
    """Compares the bundle, as a device reads it, with the trained encoder and arrays, as PyTorch computes them."""
    import torch

    exported = onnx_queries(bundle.encoder, bundle.model, histories)
    original = torch_queries(module, trained, histories, bundle.manifest.history_length)
    vectors, bias = torch.from_numpy(np.array(trained.vectors)), torch.from_numpy(np.array(trained.bias))
    equal = ties = 0
    for ours, theirs in zip(exported, original, strict=True):
        found = _top(bundle.model.vectors @ ours + bundle.model.bias)
        scores = (vectors @ torch.from_numpy(theirs) + bias).numpy()
        wanted = _top(scores)
        if np.array_equal(found, wanted):
            equal += 1
        elif (np.abs(scores[found] - scores[wanted]) <= TIE * np.abs(scores).max()).all():
            ties += 1
    error = float(np.abs(exported - original).max())
    return Float32Parity(len(histories), equal, ties, len(histories) - equal - ties, error)


def blend_coefficients(
    queries: NDArray[np.float32], model: Model, w_taste: float, w_popular: float
) -> NDArray[np.float32]:
    """Queries of the scan, float32 (n, dim + 2): [c_t·q, c_t, c_p] with c = weight / standard deviation."""
    popular = float(model.popularity.std())
    c_popular = w_popular / (popular + 1e-9) if popular > 1e-9 else 0.0
    out = np.zeros((len(queries), model.dim + 2), np.float32)
    for place, query in enumerate(queries):
        spread = float((model.vectors @ query + model.bias).std()) if query.any() else 0.0
        c_taste = w_taste / (spread + 1e-9) if spread > 1e-9 else 0.0
        out[place] = np.concatenate([c_taste * query, [c_taste, c_popular]])
    return out


def int8_parity(
    retriever: Retriever,
    narrow: Retriever,
    model: Model,
    queries: NDArray[np.float32],
    targets: Sequence[Rows],
    *,
    shipped: bool,
) -> Int8Parity:
    """Compares the scan with float32 on queries (n, dim + 2) made by `blend_coefficients`.

    `narrow`: the same scan with TOP candidates, which are then its own top-10.
    """
    known = [place for place, wanted in enumerate(targets) if len(wanted)]
    sums = np.zeros(4)
    scan_s = exact_s = 0.0
    for place, query in enumerate(queries):
        started = time.perf_counter()
        scores = model.vectors @ query[:-2] + query[-2] * model.bias + query[-1] * model.popularity
        best = _top(scores)
        ended = time.perf_counter()
        rows = np.sort(retriever(query[None])[0])
        scan_s, exact_s = scan_s + time.perf_counter() - ended, exact_s + ended - started
        rescored = rows[_top(scores[rows])]
        wanted = targets[place] if known else best
        sums += (
            _share(rescored, best),
            _share(narrow(query[None])[0], best),
            _ndcg(rescored, wanted),
            _ndcg(best, wanted),
        )
    n = len(queries)
    return Int8Parity(
        queries=n,
        candidates=len(rows),
        recall=sums[0] / n,
        scan_recall=sums[1] / n,
        relative_ndcg=float(sums[2] / sums[3]) if sums[3] else 1.0,
        judged_by="next items" if known else "float32's top 10",
        scan_ms=1e3 * scan_s / n,
        float32_ms=1e3 * exact_s / n,
        shipped=shipped,
    )


def _top(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The best TOP places, ties by place, as a device finds them."""
    return top_k(scores, TOP)


def _share(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    return len(np.intersect1d(found, wanted)) / len(wanted)


def _ndcg(ranked: NDArray[Any], wanted: NDArray[Any]) -> float:
    """NDCG@10 with gain 1 for each wanted row; the ideal holds at most TOP of them."""
    if not len(wanted):
        return 0.0
    discounts = 1 / np.log2(np.arange(2, TOP + 2))
    hits = np.isin(ranked[:TOP], wanted)
    return float((hits * discounts[: len(hits)]).sum() / discounts[: min(len(wanted), TOP)].sum())
