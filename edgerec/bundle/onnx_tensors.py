"""What is known of a model's tensors and operators before it runs: types, shapes, and the values of small ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerec.bundle.onnx_schema import DOUBLE, FLOAT, FLOAT16
from edgerec.bundle.texts import shown
from edgerec.errors import BundleInvalid
from edgerec.records import record

MAX_RANK = 8
MAX_KNOWN = 64
"""Elements of a tensor whose values are followed: it may be a shape."""

FLOATS = (FLOAT, FLOAT16, DOUBLE)

Shape = tuple[int, ...]


@record
class Tensor:
    """A tensor at the batch of one that a device runs.

    `element`: ONNX element type · `shape`: what it is if `exact`, else what no axis is longer than · `values`: those of
    a small one that do not depend on the model's inputs.
    """

    element: int
    shape: Shape
    exact: bool = True
    values: NDArray[Any] | None = None

    @property
    def size(self) -> int:
        """The number of its elements, at most."""
        return math.prod(self.shape)


class Node:
    """One operator of the graph with what is known of its inputs; counts what it costs."""

    def __init__(
        self, operator: str, inputs: Sequence[Tensor | None], n_outputs: int, attributes: Mapping[str, Any]
    ) -> None:
        self.operator = operator
        self.inputs = inputs
        self.n_outputs = n_outputs
        self.attributes = attributes
        self.work = 0
        self.made = 0

    def spend(self, work: int, made: int = 0) -> None:
        """Notes multiplications, and elements that are made on the way, beyond what inputs and outputs hold."""
        self.work += work
        self.made += made

    def refuse(self, what: str) -> BundleInvalid:
        return BundleInvalid(f"operator {self.operator} {what}")

    def get(self, place: int) -> Tensor | None:
        """An input, None where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def input(self, place: int) -> Tensor:
        """An input that must be there."""
        found = self.get(place)
        if found is None:
            raise self.refuse(f"without input {place}")
        return found

    def given(self) -> list[Tensor]:
        """All inputs that are there."""
        return [tensor for tensor in self.inputs if tensor is not None]

    def known(self, place: int, what: str) -> list[int]:
        """The whole numbers in an input that must not depend on the data."""
        values = self.input(place).values
        if values is None or values.dtype.kind not in "iu":
            raise self.refuse(f"of {what} that the model's own numbers do not tell")
        return [int(value) for value in values.reshape(-1)]

    def one(self, place: int, what: str) -> int:
        """The one whole number in such an input."""
        found = self.known(place, what)
        if len(found) != 1:
            raise self.refuse(f"of {len(found)} numbers where {what} is one")
        return found[0]

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number among the attributes."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise self.refuse(f"without a whole number {name!r}")
        return value

    def numbers(self, name: str) -> list[int] | None:
        """A list of whole numbers among the attributes, None where it is absent."""
        value = self.attributes.get(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(one, int) for one in value)):
            raise self.refuse(f"with {name!r} that lists no whole numbers")
        return value

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front. Raises BundleInvalid outside the rank."""
        if not -rank <= axis < rank:
            raise self.refuse(f"along axis {axis} of {rank}")
        return axis % rank

    def axes(self, place: int) -> list[int] | None:
        """The axes of an operator that takes them as an attribute or, later, as an input; None where it has none."""
        found = self.numbers("axes")
        if found is None and self.get(place) is not None:
            found = self.known(place, "axes")
        return found

    def text(self, name: str, default: str) -> str:
        """A short text among the attributes."""
        value = self.attributes.get(name, default.encode())
        if not isinstance(value, bytes) or len(value) > 256 or not value.isascii():
            raise self.refuse(f"with {name!r} = {shown(value)}")
        return value.decode()


def exact(*tensors: Tensor) -> bool:
    """Whether all the shapes are what they will be."""
    return all(tensor.exact for tensor in tensors)


def broadcast(node: Node, tensors: Sequence[Tensor]) -> tuple[Shape, bool]:
    """The shape of an elementwise result, and whether it is exact."""
    sure = exact(*tensors)
    rank = max(len(tensor.shape) for tensor in tensors)
    out = [1] * rank
    for tensor in tensors:
        for place, size in enumerate(tensor.shape, rank - len(tensor.shape)):
            if size == 1 or out[place] == size:
                continue
            if out[place] != 1 and sure:
                raise node.refuse(f"of shapes {', '.join(str(each.shape) for each in tensors[:3])}")
            out[place] = size if out[place] == 1 else max(out[place], size)
    return tuple(out), sure


def small(values: Any, element: int) -> Tensor:
    """A tensor of known values."""
    array = np.asarray(values)
    return Tensor(element, array.shape, True, array)
