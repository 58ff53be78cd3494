"""What operators make of small whole numbers that do not depend on a model's inputs: they may become a shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgerec.bundle.onnx_schema import ELEMENTS
from edgerec.bundle.onnx_tensors import MAX_KNOWN, Node, Tensor
from edgerec.records import changed

_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "And": np.logical_and,
    "Div": np.floor_divide,
    "Equal": np.equal,
    "Expand": lambda values, shape: np.broadcast_to(values, np.broadcast_shapes(values.shape, tuple(shape))),
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mod": np.mod,
    "Mul": np.multiply,
    "Or": np.logical_or,
    "Sub": np.subtract,
}
_ONE: dict[str, Callable[[Any], Any]] = {"Abs": np.abs, "Neg": np.negative, "Not": np.logical_not}
_REDUCED: dict[str, Callable[..., Any]] = {
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
}
_CUT = ("Div", "Mod")
"""onnxruntime rounds these towards zero, numpy downwards: the same only where nothing is negative."""


def with_values(node: Node, made: Tensor) -> Tensor:
    """The result with its values, where they follow from those of the inputs."""
    inputs = [tensor.values for tensor in node.given()]
    if made.values is not None or not made.exact or made.size > MAX_KNOWN or any(each is None for each in inputs):
        return made
    values: list[Any] = [each for each in inputs if each is not None]
    if any(each.dtype.kind not in "iub" for each in values) or made.element not in ELEMENTS:
        return made
    found = _computed(node, values)
    if found is None or np.shape(found) != made.shape:
        return made
    return changed(made, values=np.asarray(found).astype(ELEMENTS[made.element].dtype))


def _computed(node: Node, values: list[Any]) -> Any:
    operator = node.operator
    with np.errstate(all="ignore"):
        if operator in _CUT and min(int(each.min(initial=0)) for each in values) < 0:
            return None
        if operator in _TWO and len(values) == 2:
            return _TWO[operator](*values)
        if operator in _ONE and len(values) == 1:
            return _ONE[operator](values[0])
        if operator == "Cast":
            return values[0]
        if operator == "Where" and len(values) == 3:
            return np.where(*values)
        if operator in _REDUCED and values[0].ndim == 1 and values[0].size and node.axes(1) in (None, [0], [-1]):
            return _REDUCED[operator](values[0], keepdims=bool(node.whole("keepdims", 1)))
    return None
