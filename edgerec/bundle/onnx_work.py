"""How much a model makes and computes for one query, found by following its shapes from node to node.

Nothing is run. A device asks with a batch of one, so every size is a number; where a shape depends on the data, what it
is at most is followed instead, and where even that is open the model is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgerec.bundle.onnx_layout import LAYOUT
from edgerec.bundle.onnx_shapes import SHAPES
from edgerec.bundle.onnx_tensors import MAX_RANK, Node, Tensor
from edgerec.bundle.onnx_values import with_values
from edgerec.bundle.texts import shown
from edgerec.errors import BundleInvalid
from edgerec.records import record

MAX_TENSOR = 1 << 26
"""Elements of one tensor."""

MAX_MADE = 1 << 28
"""Elements of all tensors that a model makes, whether they are held at once or not: at most 1 GiB of float32."""

MAX_WORK = 1 << 33
"""Multiplications, and elements read and written."""

RULES = {**SHAPES, **LAYOUT}
_MAY_LEAVE_OUT = ("Attention", "GRU", "LSTM", "RNN", "SkipLayerNormalization")
"""Operators whose outputs may be nameless. Of others, onnxruntime writes to some all the same, and dies."""


@record
class Step:
    """One node of a graph: names of what it reads and makes, and its attributes."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


def follow(steps: Iterable[Step], tensors: dict[str, Tensor]) -> int:
    """Goes through a graph in order; adds what every node makes to `tensors`, which holds inputs and weights.

    Returns the elementary steps of one query. Raises BundleInvalid where a node reads what nothing before it makes,
    makes what is there already, does not fit its inputs, or where the bounds are passed.
    """
    work = made = 0
    for step in steps:
        node, outputs = _made(step, tensors)
        made += node.made
        work += node.work + sum(tensor.size for tensor in node.given())
        for name, tensor in zip(step.outputs, outputs, strict=False):
            if not name:
                if step.operator not in _MAY_LEAVE_OUT:
                    raise node.refuse("leaves out an output")
                continue
            if name in tensors:
                raise node.refuse(f"makes {shown(name)}, which is there already")
            if len(tensor.shape) > MAX_RANK or tensor.size > MAX_TENSOR:
                raise node.refuse(f"makes more than {MAX_TENSOR} elements, or more than {MAX_RANK} axes")
            tensors[name] = tensor
            made += tensor.size
            work += tensor.size
        if made > MAX_MADE:
            raise node.refuse(f"and those before it make more than {MAX_MADE} elements")
        if work > MAX_WORK:
            raise node.refuse(f"and those before it take more than {MAX_WORK} steps")
    return work


def _made(step: Step, tensors: dict[str, Tensor]) -> tuple[Node, list[Tensor]]:
    inputs = []
    for name in step.inputs:
        if name and name not in tensors:
            raise BundleInvalid(f"operator {step.operator} reads {shown(name)}, which nothing before it makes")
        inputs.append(tensors[name] if name else None)
    node = Node(step.operator, inputs, len(step.outputs), step.attributes)
    outputs = RULES[step.operator](node)
    if len(step.outputs) > len(outputs):
        raise node.refuse(f"with {len(step.outputs)} outputs")
    return node, [with_values(node, outputs[0]), *outputs[1:]] if outputs else []
