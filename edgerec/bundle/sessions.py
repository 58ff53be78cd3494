"""The one place where onnxruntime is imported: sessions that are quiet, single-threaded and cheap to call.

onnxruntime is imported when the first session opens, not before: a user without history is served without it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.errors import BundleInvalid
from edgerec.types import Float32, Int32, Int64

ENCODER_INPUTS: Mapping[str, tuple[type, int]] = {
    "history": (np.float32, 3),
    "age_days": (np.float32, 2),
    "kind": (np.int64, 2),
    "mask": (np.bool_, 2),
}
"""Element type and rank of every input an encoder may have; which it has is the manifest's `encoder_inputs`."""

_creation = threading.Lock()


def open_session(path: Path) -> Any:
    """An onnxruntime session on the CPU. Raises BundleInvalid where onnxruntime refuses the model.

    One thread, no spinning, no arena: at batch 1 neither threads nor arena gain anything, and both cost
    memory or idle CPU. Creation is locked because concurrent creation races inside onnxruntime.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with _creation:
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # for a host that imported it before the variable was set
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.log_severity_level = 4  # what goes wrong is raised; it need not be printed too
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(
                str(path),
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,  # it would print to stdout
            )
        except Exception as error:  # its exceptions derive from Exception alone
            told = _first_line(error).replace(str(path), path.name)  # where the app keeps its data is nobody's business
            raise BundleInvalid(f"{path.name}: onnxruntime refuses it: {told[:300]}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Bound:
    """Input and output arrays of one query, bound to the session once: a call then copies nothing it need not."""

    __slots__ = ("arrays", "binding", "count", "query")

    def __init__(self, session: Any, inputs: Sequence[str], length: int, dim: int) -> None:
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # for a host that imported it before the variable was set
        self.binding = session.io_binding()
        self.arrays: dict[str, NDArray[Any]] = {}
        for name in inputs:
            dtype, rank = ENCODER_INPUTS[name]
            array: NDArray[Any] = np.zeros((1, length, dim)[:rank], dtype)
            self.arrays[name] = array
            self.binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        self.count = 0
        self.query = np.zeros((1, dim), np.float32)
        self.binding.bind_ortvalue_output("query", onnxruntime.OrtValue.ortvalue_from_numpy(self.query))

    def resize(self, count: int, start: int) -> None:
        """Pads the front and masks it, where the last query had another length."""
        if count != self.count:
            for array in self.arrays.values():
                array[0, :start] = 0
            self.arrays["mask"][0, start:] = True
            self.count = count


class Encoder:
    """`encoder.onnx`: a user's last events become a query. Safe to call from several threads at once."""

    def __init__(self, path: Path, inputs: Sequence[str], length: int, dim: int) -> None:
        self.inputs = tuple(inputs)
        self.length = length
        self.dim = dim
        self._name = path.name
        self._session = open_session(path)
        self._free: deque[_Bound] = deque(maxlen=8)

    def __call__(self, history: Float32, age_days: Float32, kind: Int64, mask: NDArray[np.bool_]) -> Float32:
        """Queries float32 (B, dim) of a batch.

        `history` float32 (B, L, dim): item vectors, oldest first, padded at the front with zeros ·
        `age_days` float32 (B, L): days before the newest event · `kind` int64 (B, L): index of the event
        kind · `mask` bool (B, L): True where there is an event.
        """
        feeds = {"history": history, "age_days": age_days, "kind": kind, "mask": mask}
        try:
            query: Float32 = self._session.run(["query"], {name: feeds[name] for name in self.inputs})[0]
        except Exception as error:
            raise BundleInvalid(f"{self._name}: onnxruntime failed: {_first_line(error)[:300]}") from None
        return query

    def encode(self, vectors: Float32, rows: Int32, age_days: NDArray[Any], kind: NDArray[Any]) -> Float32:
        """The query, float32 (dim,), of one history: gathers, pads and masks by itself.

        `vectors` float32 (n_items, dim) · `rows` (H,): catalogue rows, oldest first; only the last L count ·
        `age_days` (H,) · `kind` (H,). An empty history gives zeros. Raises BundleInvalid
        where onnxruntime fails or the query is not finite.
        """
        count = min(len(rows), self.length)
        if count == 0:
            return np.zeros(self.dim, np.float32)
        try:
            bound = self._free.pop()
        except IndexError:
            bound = _Bound(self._session, self.inputs, self.length, self.dim)
        bound.resize(count, self.length - count)
        arrays = bound.arrays
        vectors.take(rows[-count:], axis=0, out=arrays["history"][0, -count:], mode="clip")
        if "age_days" in arrays:
            arrays["age_days"][0, -count:] = age_days[-count:]
        if "kind" in arrays:
            arrays["kind"][0, -count:] = kind[-count:]
        try:
            self._session.run_with_iobinding(bound.binding)
        except Exception as error:
            raise BundleInvalid(f"{self._name}: onnxruntime failed: {_first_line(error)[:300]}") from None
        query: Float32 = bound.query[0].copy()
        # the sum of squares is quick to tell, but may overflow
        with np.errstate(over="ignore", invalid="ignore"):
            finite = isfinite(query.dot(query)) or np.isfinite(query).all()
        if not finite:
            raise BundleInvalid(f"{self._name}: the query is not finite")
        self._free.append(bound)
        return query


class Retriever:
    """`retrieve.onnx`: the rows most likely to hold the best items, found in int8; rescore them in float32."""

    def __init__(self, path: Path, n_items: int) -> None:
        self._name = path.name
        self._n_items = n_items
        self._session = open_session(path)

    def __call__(self, query: Float32) -> Int64:
        """Candidate rows, int64 (B, K), in no order worth relying on.

        `query` float32 (B, dim + 2): [c_taste * (q + u), c_taste, c_popular], the coefficients of an item's
        [vector, bias, popularity] in the dense part of the blended score.
        """
        try:
            rows: Int64 = self._session.run(["rows"], {"query": query})[0]
        except Exception as error:
            raise BundleInvalid(f"{self._name}: onnxruntime failed: {_first_line(error)[:300]}") from None
        if not rows.size or int(rows.min()) < 0 or int(rows.max()) >= self._n_items:
            raise BundleInvalid(f"{self._name}: names no rows, or rows outside the catalogue")
        return rows
