"""Operators that move numbers without computing with them: the shape of what they make, and small values along."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgerec.bundle.onnx_schema import INT64
from edgerec.bundle.onnx_tensors import MAX_KNOWN, Node, Tensor, exact, small


def _of(first: Tensor, shape: tuple[int, ...], sure: bool) -> Tensor:
    """A result of another shape, which keeps the values in their order."""
    values = first.values.reshape(shape) if first.values is not None and sure else None
    return Tensor(first.element, shape, sure, values)


def _reshape(node: Node) -> list[Tensor]:
    first, wanted = node.input(0), node.known(1, "a shape")
    keep_zeros = node.whole("allowzero", 0)
    shape = []
    for place, size in enumerate(wanted):
        if size == 0 and not keep_zeros:
            if place >= len(first.shape):
                raise node.refuse(f"of shape {first.shape} to {wanted}")
            size = first.shape[place]
        shape.append(size)
    if shape.count(-1) > 1 or min(shape, default=0) < -1:
        raise node.refuse(f"of shape {first.shape} to {wanted}")
    if -1 in shape:
        rest = math.prod(size for size in shape if size != -1)
        shape[shape.index(-1)] = first.size // rest if rest else 0
    if first.exact and math.prod(shape) != first.size:
        raise node.refuse(f"of shape {first.shape} to {wanted}")
    return [_of(first, tuple(shape), first.exact)]


def _flatten(node: Node) -> list[Tensor]:
    first = node.input(0)
    axis = node.whole("axis", 1)
    if not -len(first.shape) <= axis <= len(first.shape):
        raise node.refuse(f"along axis {axis} of {len(first.shape)}")
    axis = axis + len(first.shape) if axis < 0 else axis
    return [_of(first, (math.prod(first.shape[:axis]), math.prod(first.shape[axis:])), first.exact)]


def _squeeze(node: Node) -> list[Tensor]:
    first, axes = node.input(0), node.axes(1)
    rank = len(first.shape)
    if axes is None:
        if not first.exact:
            raise node.refuse("of a shape that only the data tell")
        axes = [place for place, size in enumerate(first.shape) if size == 1]
    gone = {node.axis(axis, rank) for axis in axes}
    if any(first.shape[place] != 1 for place in gone) and first.exact:
        raise node.refuse(f"of shape {first.shape} along {axes}")
    return [_of(first, tuple(size for place, size in enumerate(first.shape) if place not in gone), first.exact)]


def _unsqueeze(node: Node) -> list[Tensor]:
    first, axes = node.input(0), node.axes(1) or []
    rank = len(first.shape) + len(axes)
    new = {node.axis(axis, rank) for axis in axes}
    if len(new) != len(axes):
        raise node.refuse(f"along {axes}")
    rest = iter(first.shape)
    return [_of(first, tuple(1 if place in new else next(rest) for place in range(rank)), first.exact)]


def _transpose(node: Node) -> list[Tensor]:
    first = node.input(0)
    rank = len(first.shape)
    order = node.numbers("perm") or list(range(rank))[::-1]
    if sorted(order) != list(range(rank)):
        raise node.refuse(f"of {rank} axes by {order}")
    values = first.values.transpose(order) if first.values is not None else None
    return [Tensor(first.element, tuple(first.shape[axis] for axis in order), first.exact, values)]


def _concat(node: Node) -> list[Tensor]:
    parts = node.given()
    first = node.input(0)
    axis = node.axis(node.whole("axis"), len(first.shape))
    sure = exact(*parts)
    for part in parts:
        other = part.shape[:axis] + part.shape[axis + 1 :]
        if len(part.shape) != len(first.shape) or (sure and other != first.shape[:axis] + first.shape[axis + 1 :]):
            raise node.refuse(f"of shapes {', '.join(str(each.shape) for each in parts[:4])}")
    shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    shape[axis] = sum(part.shape[axis] for part in parts)
    values = [part.values for part in parts if part.values is not None]
    joined = len(values) == len(parts) and math.prod(shape) <= MAX_KNOWN
    return [Tensor(first.element, tuple(shape), sure, np.concatenate(values, axis) if joined else None)]


def _gather(node: Node) -> list[Tensor]:
    first, chosen = node.input(0), node.input(1)
    axis = node.axis(node.whole("axis", 0), len(first.shape))
    shape = first.shape[:axis] + chosen.shape + first.shape[axis + 1 :]
    values = None
    if first.values is not None and chosen.values is not None and math.prod(shape) <= MAX_KNOWN:
        if any(not -first.shape[axis] <= int(place) < first.shape[axis] for place in chosen.values.reshape(-1)):
            raise node.refuse("of places that are not there")
        values = first.values.take(chosen.values.astype(np.int64), axis)
    return [Tensor(first.element, shape, exact(first, chosen), values)]


def _gather_elements(node: Node) -> list[Tensor]:
    first, chosen = node.input(0), node.input(1)
    node.axis(node.whole("axis", 0), len(first.shape))
    return [Tensor(first.element, chosen.shape, chosen.exact)]


def _gather_nd(node: Node) -> list[Tensor]:
    first, chosen = node.input(0), node.input(1)
    batch = node.whole("batch_dims", 0)
    if not chosen.shape or not 0 <= batch < len(chosen.shape) or batch + chosen.shape[-1] > len(first.shape):
        raise node.refuse(f"of shapes {first.shape} and {chosen.shape}")
    return [Tensor(first.element, chosen.shape[:-1] + first.shape[batch + chosen.shape[-1] :], exact(first, chosen))]


def _slice(node: Node) -> list[Tensor]:
    first = node.input(0)
    rank = len(first.shape)
    if any(each is not None and each.values is None for each in node.inputs[1:5]):
        return [Tensor(first.element, first.shape, False)]
    starts, ends = node.known(1, "a start"), node.known(2, "an end")
    axes = node.known(3, "axes") if node.get(3) else list(range(len(starts)))
    steps = node.known(4, "steps") if node.get(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise node.refuse("with lists that do not fit")
    cuts = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cuts[node.axis(axis, rank)] = slice(start, end, step)
    shape = tuple(len(range(*cut.indices(size))) for cut, size in zip(cuts, first.shape, strict=True))
    if not first.exact:
        return [Tensor(first.element, first.shape, False)]
    return [Tensor(first.element, shape, True, first.values[tuple(cuts)] if first.values is not None else None)]


def _split(node: Node) -> list[Tensor]:
    first = node.input(0)
    axis = node.axis(node.whole("axis", 0), len(first.shape))
    length = first.shape[axis]
    if node.whole("num_outputs", node.n_outputs) != node.n_outputs:
        raise node.refuse(f"with {node.n_outputs} outputs where 'num_outputs' says another number")
    sizes = node.numbers("split")
    second = node.get(1)
    if sizes is None and second is not None:
        sizes = node.known(1, "sizes") if second.values is not None else [length] * node.n_outputs
    elif sizes is None:
        part = -(-length // max(node.n_outputs, 1))
        sizes = [max(min(part, length - place * part), 0) for place in range(node.n_outputs)]
    sure = first.exact and (second is None or second.values is not None)
    if len(sizes) != node.n_outputs or min(sizes, default=0) < 0 or (sure and sum(sizes) != length):
        raise node.refuse(f"of {length} into {sizes[:8]}")
    shapes = [(*first.shape[:axis], size, *first.shape[axis + 1 :]) for size in sizes]
    return [Tensor(first.element, shape, sure) for shape in shapes]


def _shape(node: Node) -> list[Tensor]:
    first = node.input(0)
    rank = len(first.shape)
    part = first.shape[slice(node.whole("start", 0), node.whole("end", rank))]
    return [small(np.array(part, np.int64), INT64) if first.exact else Tensor(INT64, (len(part),))]


def _size(node: Node) -> list[Tensor]:
    first = node.input(0)
    return [small(np.int64(first.size), INT64) if first.exact else Tensor(INT64, ())]


LAYOUT: dict[str, Callable[[Node], list[Tensor]]] = {
    "Concat": _concat,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
