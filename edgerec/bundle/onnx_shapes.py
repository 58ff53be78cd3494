"""The shape and type of what each operator makes, from those of its inputs.

The operators that multiply are in `onnx_products`; what small whole numbers come to is in `onnx_values`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from edgerec.bundle.onnx_products import PRODUCTS
from edgerec.bundle.onnx_schema import BOOL, ELEMENTS, FLOAT, INT64, UINT8
from edgerec.bundle.onnx_tensors import FLOATS, MAX_KNOWN, MAX_RANK, Node, Tensor, broadcast, small

Rule = Callable[[Node], list[Tensor]]

_SAME = """
    Abs Ceil Clip Cos CumSum Elu Erf Exp Floor Gelu GroupNormalization HardSigmoid HardSwish InstanceNormalization
    LeakyRelu Log LogSoftmax LpNormalization Mish Neg RMSNormalization Reciprocal Relu RotaryEmbedding Round
    ScatterElements ScatterND Selu Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Swish Tanh Trilu
    BiasGelu FastGelu QuickGelu
"""
_NORMALISED = "LayerNormalization SimplifiedLayerNormalization SkipLayerNormalization"
_TRUTHS = "Equal Greater GreaterOrEqual Less LessOrEqual"
_JOINED = "Add And Max Mean Min Mul Or PRelu Pow Sub Sum Xor"
_REDUCED = """
    ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
"""


def _same(node: Node) -> list[Tensor]:
    return [Tensor(node.input(0).element, node.input(0).shape, node.input(0).exact)]


def _normalised(node: Node) -> list[Tensor]:
    """The result, two statistics of what was summed over, and the sum of the inputs."""
    first = node.input(0)
    axis = node.axis(node.whole("axis", -1), len(first.shape))
    statistic = Tensor(first.element, first.shape[:axis] + (1,) * (len(first.shape) - axis), first.exact)
    return [*_same(node), statistic, statistic, *_same(node)]


def _batch_normalised(node: Node) -> list[Tensor]:
    return [*_same(node), *(Tensor(node.input(0).element, node.input(1).shape) for _ in range(2))]


def _truth_of_one(node: Node) -> list[Tensor]:
    return [Tensor(BOOL, node.input(0).shape, node.input(0).exact)]


def _identity(node: Node) -> list[Tensor]:
    return [node.input(0)]


def _dropout(node: Node) -> list[Tensor]:
    return [*_same(node), *_truth_of_one(node)]


def _joined(node: Node) -> list[Tensor]:
    shape, sure = broadcast(node, [node.input(0), *node.given()[1:]])
    return [Tensor(node.input(0).element, shape, sure)]


def _truths(node: Node) -> list[Tensor]:
    shape, sure = broadcast(node, [node.input(0), node.input(1)])
    return [Tensor(BOOL, shape, sure)]


def _where(node: Node) -> list[Tensor]:
    shape, sure = broadcast(node, [node.input(place) for place in range(3)])
    return [Tensor(node.input(1).element, shape, sure)]


def _divided(node: Node) -> list[Tensor]:
    # the processor traps 0 and -2^63 / -1, and onnxruntime lets it: the app would be killed
    if node.input(0).element not in FLOATS and min(node.known(1, "whole divisors"), default=0) < 1:
        raise node.refuse("of whole numbers by less than 1")
    return _joined(node)


def _mean(node: Node) -> list[Tensor]:
    if node.input(0).element not in FLOATS:
        raise node.refuse("of whole numbers")
    return _reduced(node)


def _reduced(node: Node) -> list[Tensor]:
    first, axes = node.input(0), node.axes(1)
    rank = len(first.shape)
    if axes is None or not axes:
        axes = [] if node.whole("noop_with_empty_axes", 0) else list(range(rank))
    gone = {node.axis(axis, rank) for axis in axes}
    return [Tensor(first.element, _without(first, gone, node.whole("keepdims", 1)), first.exact)]


def _place_of_best(node: Node) -> list[Tensor]:
    first = node.input(0)
    gone = {node.axis(node.whole("axis", 0), len(first.shape))}
    return [Tensor(INT64, _without(first, gone, node.whole("keepdims", 1)), first.exact)]


def _without(tensor: Tensor, gone: set[int], keep: int) -> tuple[int, ...]:
    return tuple(1 if place in gone else size for place, size in enumerate(tensor.shape) if keep or place not in gone)


def _cast(node: Node) -> list[Tensor]:
    element = node.whole("to")
    if element not in ELEMENTS:
        raise node.refuse(f"to the element type {element}")
    return [Tensor(element, node.input(0).shape, node.input(0).exact)]


def _cast_like(node: Node) -> list[Tensor]:
    return [Tensor(node.input(1).element, node.input(0).shape, node.input(0).exact)]


def _constant(node: Node) -> list[Tensor]:
    given = {name: value for name, value in node.attributes.items() if name.startswith("value")}
    if len(given) != 1:
        raise node.refuse("without one value")
    ((name, value),) = given.items()
    if name == "value" and isinstance(value, Tensor):
        return [value]
    if name in ("value_int", "value_ints"):
        return [_list(value, INT64, np.int64)]
    if name in ("value_float", "value_floats"):
        return [_list(value, FLOAT, np.float32)]
    raise node.refuse(f"with {name!r}")


def _list(value: Any, element: int, kind: type) -> Tensor:
    array: Any = np.array(value, kind)
    return small(array, element) if array.size <= MAX_KNOWN else Tensor(element, array.shape)


def _filled(node: Node) -> list[Tensor]:
    shape = _sizes(node, node.known(0, "a shape"))
    value = node.attributes.get("value", small(np.zeros(1, np.float32), FLOAT))
    if not isinstance(value, Tensor) or value.size != 1:
        raise node.refuse("of another value than one number")
    if value.values is None or math.prod(shape) > MAX_KNOWN:
        return [Tensor(value.element, shape)]
    return [small(np.full(shape, value.values.reshape(-1)[0]), value.element)]


def _sizes(node: Node, sizes: list[int]) -> tuple[int, ...]:
    if len(sizes) > MAX_RANK or min(sizes, default=0) < 0:
        raise node.refuse(f"to the shape {sizes[:MAX_RANK]}")
    return tuple(sizes)


def _expanded(node: Node) -> list[Tensor]:
    wanted = Tensor(INT64, _sizes(node, node.known(1, "a shape")))
    shape, sure = broadcast(node, [node.input(0), wanted])
    return [Tensor(node.input(0).element, shape, sure)]


def _tiled(node: Node) -> list[Tensor]:
    first, times = node.input(0), _sizes(node, node.known(1, "repeats"))
    if len(times) != len(first.shape):
        raise node.refuse(f"of {len(first.shape)} axes {len(times)} times")
    return [Tensor(first.element, tuple(a * b for a, b in zip(first.shape, times, strict=True)), first.exact)]


def _padded(node: Node) -> list[Tensor]:
    first, pads = node.input(0), node.known(1, "pads")
    rank = len(first.shape)
    axes = [node.axis(axis, rank) for axis in (node.known(3, "axes") if node.get(3) else range(rank))]
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise node.refuse(f"with {len(pads)} pads for {len(axes)} axes")
    shape = list(first.shape)
    for place, axis in enumerate(axes):
        shape[axis] += pads[place] + pads[place + len(axes)]
    return [Tensor(first.element, _sizes(node, shape), first.exact)]


def _range(node: Node) -> list[Tensor]:
    start, limit, delta = (node.input(place) for place in range(3))
    if any(each.values is None or each.size != 1 for each in (start, limit, delta)):
        raise node.refuse("of limits that the model's own numbers do not tell")
    first, last, step = (each.values.reshape(-1)[0].item() for each in (start, limit, delta) if each.values is not None)
    length = (last - first) / step if step else math.inf
    if not math.isfinite(length) or abs(length) > 1 << 40:
        raise node.refuse("without an end")
    count = max(math.ceil(length), 0)
    if count <= MAX_KNOWN and start.element not in FLOATS:
        return [small(np.arange(count, dtype=np.int64) * step + first, start.element)]
    return [Tensor(start.element, (count,))]


def _one_hot(node: Node) -> list[Tensor]:
    first, depth = node.input(0), node.one(1, "a depth")
    axis = node.axis(node.whole("axis", -1), len(first.shape) + 1)
    shape = [*first.shape[:axis], depth, *first.shape[axis:]]
    return [Tensor(node.input(2).element, _sizes(node, shape), first.exact)]


def _places_of_truths(node: Node) -> list[Tensor]:
    return [Tensor(INT64, (len(node.input(0).shape), node.input(0).size), False)]


def _quantised(node: Node) -> list[Tensor]:
    zero = node.get(2)
    return [Tensor(zero.element if zero else UINT8, node.input(0).shape, node.input(0).exact)]


def _quantised_by_itself(node: Node) -> list[Tensor]:
    first = node.input(0)
    return [Tensor(UINT8, first.shape, first.exact), Tensor(FLOAT, ()), Tensor(UINT8, ())]


def _dequantised(node: Node) -> list[Tensor]:
    return [Tensor(node.input(1).element, node.input(0).shape, node.input(0).exact)]


def _best(node: Node) -> list[Tensor]:
    first = node.input(0)
    axis = node.axis(node.whole("axis", -1), len(first.shape))
    shape, sure = list(first.shape), first.exact
    if node.input(1).values is None:
        sure = False
    else:
        shape[axis] = node.one(1, "a count")
        if not 0 <= shape[axis] <= first.shape[axis]:
            raise node.refuse(f"of {shape[axis]} among {first.shape[axis]}")
    return [Tensor(first.element, tuple(shape), sure), Tensor(INT64, tuple(shape), sure)]


def _joins(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


SHAPES: dict[str, Rule] = {
    **PRODUCTS,
    **_joins(_SAME, _same),
    **_joins(_NORMALISED, _normalised),
    **_joins("IsNaN Not", _truth_of_one),
    **_joins(_TRUTHS, _truths),
    **_joins(_JOINED, _joined),
    **_joins("Div Mod", _divided),
    **_joins(_REDUCED, _reduced),
    **_joins("ArgMax ArgMin", _place_of_best),
    "BatchNormalization": _batch_normalised,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "DequantizeLinear": _dequantised,
    "Dropout": _dropout,
    "DynamicQuantizeLinear": _quantised_by_itself,
    "Expand": _expanded,
    "Identity": _identity,
    "NonZero": _places_of_truths,
    "OneHot": _one_hot,
    "Pad": _padded,
    "QuantizeLinear": _quantised,
    "Range": _range,
    "ReduceMean": _mean,
    "Tile": _tiled,
    "TopK": _best,
    "Where": _where,
}
