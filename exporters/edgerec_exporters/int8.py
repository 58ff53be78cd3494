"""retrieve.onnx: the dense part of the blended score, scanned in int8 for its best few hundred items.

The dense part of an item's score is linear in a_i = [V_i, bias_i, popularity_i] (dim + 2 numbers):

    score_i = [c_t·(q + u), c_t, c_p] · a_i + constant

so one matrix of bytes serves every user and every blend. What the scan returns is scored again in float32 on
the device; here only the order near the top must survive.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

CANDIDATES = 256
LEVELS = 64
"""Weights lie in −64 … 64: x86 without VNNI adds two uint8·int8 products in 16 bits, and 2·255·64 just fits."""
OPSET = 20
IR_VERSION = 10


def quantise(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Bytes (n, m) and scales (m,) of a float32 table (n, m); table ≈ bytes · scales + a constant per column.

    Each column is centred between its extremes first: a constant per column shifts every score alike.
    """
    middle = (table.max(axis=0) + table.min(axis=0)) / 2
    scales = np.abs(table - middle).max(axis=0) / LEVELS
    scales = np.where(scales > 0, scales, 1.0).astype(np.float32)
    return np.rint((table - middle) / scales).astype(np.int8), scales


def block_size(n_items: int, candidates: int) -> int:
    """Items per block: a power of two near √(n / K), where the two top-k passes cost least together."""
    return max(1, 1 << round(math.log2(math.sqrt(max(n_items / candidates, 1)))))


def build_retriever(
    vectors: NDArray[np.float32],
    bias: NDArray[np.float32],
    popularity: NDArray[np.float32],
    candidates: int = CANDIDATES,
) -> bytes:
    """The ONNX model: `query` float32 (B, dim + 2) → `rows` int64 (B, K), K = min(candidates, n_items).

    The query, scaled by the columns' scales, is quantised per row to bytes around 128. Blocks of neighbouring
    items are compared by their maxima: the K best blocks, and the last items that fill no block, hold the K
    best items.
    """
    table = np.concatenate([vectors, bias[:, None], popularity[:, None]], axis=1).astype(np.float32)
    packed, scales = quantise(table)
    count = min(candidates, len(table))
    size = block_size(len(table), count)
    blocked = len(table) // size * size
    graph = _Graph()
    query = _quantised_query(graph, scales)
    scores = _products(graph, query, packed[:blocked])
    rows = _rows_of_best_blocks(graph, scores, blocked // size, size, count)
    scores = graph.add("GatherElements", scores, rows, axis=1)
    if blocked < len(table):
        scores = graph.add("Concat", scores, _products(graph, query, packed[blocked:]), axis=1)
        rows = graph.add("Concat", rows, _every_row(graph, np.arange(blocked, len(table))), axis=1)
    graph.add("GatherElements", rows, graph.top_k(scores, count), axis=1, out="rows")
    return bytes(graph.model(table.shape[1], count).SerializeToString())


def _quantised_query(graph: _Graph, scales: NDArray[np.float32]) -> str:
    scaled = graph.add("Mul", "query", graph.constant(scales))
    largest = graph.add("ReduceMax", graph.add("Abs", scaled), graph.constant(np.array([1])), keepdims=1)
    share = graph.add("Div", scaled, graph.add("Max", largest, graph.constant(np.float32(1e-30))))
    steps = graph.add("Round", graph.add("Mul", share, graph.constant(np.float32(127))))
    return graph.add("Cast", graph.add("Add", steps, graph.constant(np.float32(128))), to=2)


def _products(graph: _Graph, query: str, packed: NDArray[np.int8]) -> str:
    """Scores int32 (B, n) of packed items (n, m)."""
    columns = graph.constant(np.ascontiguousarray(packed.T))
    return graph.add("MatMulInteger", query, columns, graph.constant(np.uint8(128)))


def _rows_of_best_blocks(graph: _Graph, scores: str, n_blocks: int, size: int, count: int) -> str:
    """Rows of the `count` blocks with the largest maxima, int64 (B, count · size)."""
    count = min(count, n_blocks)
    blocks = graph.add("Reshape", scores, graph.constant(np.array([-1, n_blocks, size])))
    chosen = graph.top_k(graph.add("ReduceMax", blocks, graph.constant(np.array([2])), keepdims=0), count)
    chosen = graph.add("Unsqueeze", chosen, graph.constant(np.array([2])))
    starts = graph.add("Mul", chosen, graph.constant(np.int64(size)))
    rows = graph.add("Add", starts, graph.constant(np.arange(size)[None, None, :]))
    return graph.add("Reshape", rows, graph.constant(np.array([-1, count * size])))


def _every_row(graph: _Graph, rows: NDArray[np.int64]) -> str:
    """The same rows for every query of the batch, int64 (B, n)."""
    batch = graph.add("Shape", "query", start=0, end=1)
    shape = graph.add("Concat", batch, graph.constant(np.array([len(rows)])), axis=0)
    return graph.add("Expand", graph.constant(rows[None, :]), shape)


class _Graph:
    """Collects nodes and constants, naming them as they come."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: NDArray[Any] | np.generic) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        name = out or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def top_k(self, values: str, count: int) -> str:
        """Indices of the `count` largest along the last axis, in any order."""
        from onnx import helper

        name = f"v{len(self.nodes)}"
        inputs = [values, self.constant(np.array([count]))]
        self.nodes.append(helper.make_node("TopK", inputs, [f"{name}_values", name], axis=-1, sorted=0))
        return name

    def model(self, width: int, count: int) -> onnx.ModelProto:
        from onnx import TensorProto, helper

        query = helper.make_tensor_value_info("query", TensorProto.FLOAT, ["B", width])
        rows = helper.make_tensor_value_info("rows", TensorProto.INT64, ["B", count])
        graph = helper.make_graph(self.nodes, "retrieve", [query], [rows], self.constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="edgerec"
        )
