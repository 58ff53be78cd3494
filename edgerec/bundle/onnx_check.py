"""A bounded walk over an ONNX file's protobuf, in pure Python, before onnxruntime sees a byte of it.

Only a closed list of operators passes: none that branches, loops, draws random numbers, touches files or runs
foreign code. Fields that are not known here are refused, as is any singular field given twice (parsers would
merge the two, and see another model than this walk did). What passes is then followed from node to node
(`onnx_work`), so that what it makes and computes is bounded too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgerec.bundle import onnx_schema as schema
from edgerec.bundle.onnx_tensors import MAX_KNOWN, MAX_RANK, Tensor
from edgerec.bundle.onnx_work import Step, follow
from edgerec.bundle.protobuf import Walk, decode_varints
from edgerec.bundle.texts import shown
from edgerec.errors import BundleInvalid

MAX_NODES = 4096
MAX_TENSORS = 4096
MAX_EDGES = 64
MAX_ELEMENTS = 1 << 31
MAX_VARINTS = 1 << 16
"""Half floats written one by one; more of them are written as raw data."""

IR_VERSIONS = range(4, 14)
OPSETS = range(11, 27)

Shape = tuple[int | None, ...]
Signature = Mapping[str, tuple[int, Shape]]
"""Name → (ONNX element type, shape): None where the size must be left open, a number where it must be that
number or left open."""


def check_onnx(data: bytes | memoryview, *, inputs: Signature, outputs: Signature) -> int:
    """Raises BundleInvalid unless `data` is a harmless ONNX model with exactly these inputs and outputs.

    Returns the elementary steps that one query takes: multiplications, and elements read and written.
    """
    walk = Walk()
    model = walk.message(memoryview(data), schema.MODEL, "model")
    if model.get("ir_version") not in IR_VERSIONS:
        raise BundleInvalid(f"ONNX IR version {model.get('ir_version')} is not supported")
    _check_opsets([walk.message(part, schema.OPSET, "opset_import") for part in model.get("opset_import", [])])
    if "graph" not in model:
        raise BundleInvalid("an ONNX file without a graph")
    graph = walk.message(model["graph"], schema.GRAPH, "graph")
    tensors = _check_initializers(walk, graph.get("initializer", []))
    _check_values(walk, graph.get("input", []), inputs, "input")
    _check_values(walk, graph.get("output", []), outputs, "output")
    if both := set(inputs) & set(tensors):
        raise BundleInvalid(f"initializer {min(both)!r} hides an input")
    for part in graph.get("value_info", []):
        _value_type(walk, walk.message(part, schema.VALUE, "value_info"), "value_info")
    nodes = graph.get("node", [])
    if len(nodes) > MAX_NODES:
        raise BundleInvalid(f"{len(nodes)} nodes, more than {MAX_NODES}")
    steps = [_check_node(walk, part) for part in nodes]
    tensors |= {name: Tensor(element, _alone(shape)) for name, (element, shape) in inputs.items()}
    work = follow(steps, tensors)
    _check_results(tensors, outputs)
    return work


def _alone(shape: Shape) -> tuple[int, ...]:
    """The shape at a batch of one."""
    return tuple(1 if size is None else size for size in shape)


def _check_results(tensors: Mapping[str, Tensor], outputs: Signature) -> None:
    for name, (element, shape) in outputs.items():
        found = tensors.get(name)
        if found is None:
            raise BundleInvalid(f"output {name!r} is made by nothing")
        if found.element != element or (found.exact and found.shape != _alone(shape)):
            raise BundleInvalid(
                f"output {name!r} comes out with element type {found.element} and shape {found.shape},"
                f" not {element} and {_alone(shape)}"
            )


def _check_opsets(imports: list[dict[str, Any]]) -> None:
    seen = set()
    for entry in imports:
        domain = entry.get("domain", "")
        if domain not in schema.OPERATORS:
            raise BundleInvalid(f"operators of domain {shown(domain)} are not allowed")
        if domain in ("", "ai.onnx") and entry.get("version") not in OPSETS:
            raise BundleInvalid(f"opset {entry.get('version')} is not supported")
        name = "" if domain == "ai.onnx" else domain
        if name in seen:
            raise BundleInvalid(f"operators of domain {shown(domain)} in two versions")
        seen.add(name)


def _check_initializers(walk: Walk, parts: list[memoryview]) -> dict[str, Tensor]:
    if len(parts) > MAX_TENSORS:
        raise BundleInvalid(f"{len(parts)} initializers, more than {MAX_TENSORS}")
    constants: dict[str, Tensor] = {}
    for part in parts:
        tensor = walk.message(part, schema.TENSOR, "initializer")
        name = tensor.get("name", "")
        if not name or name in constants:
            raise BundleInvalid(f"initializer name {shown(name)} is empty or given twice")
        constants[name] = _check_tensor(tensor, f"initializer {shown(name)}")
    return constants


def _check_values(walk: Walk, parts: list[memoryview], wanted: Signature, what: str) -> None:
    found: dict[str, tuple[int, Shape]] = {}
    for part in parts:
        value = walk.message(part, schema.VALUE, what)
        name = value.get("name", "")
        if name in found or name not in wanted:
            raise BundleInvalid(f"{what} {shown(name)} is not expected; expected {', '.join(sorted(wanted))}")
        found[name] = _value_type(walk, value, f"{what} {name!r}")
    if missing := set(wanted) - set(found):
        raise BundleInvalid(f"{what} {min(missing)!r} is missing")
    for name, (element, shape) in found.items():
        want_element, want_shape = wanted[name]
        fits = len(shape) == len(want_shape) and all(
            have is None or have == want for have, want in zip(shape, want_shape, strict=True)
        )
        if element != want_element or not fits:
            raise BundleInvalid(
                f"{what} {name!r} has element type {element} and shape {shape}, not {want_element} and {want_shape}"
            )


def _value_type(walk: Walk, value: dict[str, Any], what: str) -> tuple[int, Shape]:
    kind = walk.message(value.get("type", memoryview(b"")), schema.TYPE, f"{what} type")
    if "tensor_type" not in kind:
        raise BundleInvalid(f"{what} is not a tensor")
    tensor = walk.message(kind["tensor_type"], schema.TENSOR_TYPE, f"{what} type")
    if "shape" not in tensor:
        raise BundleInvalid(f"{what} has no shape")
    dims = walk.message(tensor["shape"], schema.SHAPE, f"{what} shape").get("dim", [])
    if len(dims) > MAX_RANK:
        raise BundleInvalid(f"{what} has {len(dims)} dimensions")
    sizes = [walk.message(dim, schema.DIM, f"{what} shape").get("dim_value") for dim in dims]
    return tensor.get("elem_type", 0), tuple(sizes)


def _check_node(walk: Walk, part: memoryview) -> Step:
    node = walk.message(part, schema.NODE, "node")
    operator, domain = node.get("op_type", ""), node.get("domain", "")
    if operator not in schema.OPERATORS.get(domain, ()):
        raise BundleInvalid(f"operator {shown(f'{domain}.{operator}' if domain else operator)[1:-1]} is not allowed")
    if node.get("overload"):
        raise BundleInvalid(f"operator {operator} with an overload")
    inputs, outputs, attributes = (node.get(key, []) for key in ("input", "output", "attribute"))
    if len(inputs) + len(outputs) > MAX_EDGES or len(attributes) > MAX_EDGES:
        raise BundleInvalid(f"operator {operator} with more than {MAX_EDGES} edges or attributes")
    found: dict[str, Any] = {}
    for attribute in attributes:
        name, value = _check_attribute(walk, attribute, operator)
        if name in found:
            raise BundleInvalid(f"operator {operator} with an attribute twice")
        found[name] = value
    return Step(operator, tuple(inputs), tuple(outputs), found)


def _check_attribute(walk: Walk, part: memoryview, operator: str) -> tuple[str, Any]:
    attribute = walk.message(part, schema.ATTRIBUTE, f"attribute of {operator}")
    present = [key for key in schema.ATTRIBUTE_FIELDS.values() if key in attribute]
    kind = attribute.get("type", 0)
    key = schema.ATTRIBUTE_FIELDS.get(kind) if kind else present[0] if len(present) == 1 else None
    if key is None or present not in ([], [key]):
        raise BundleInvalid(f"attribute of {operator}: type {kind} with the values {present}")
    value: Any = attribute.get(key, schema.ATTRIBUTE_DEFAULTS.get(key))
    numbers = value if key == "floats" else [value] if key == "f" else []
    if any(math.isnan(number) for number in numbers):
        raise BundleInvalid(f"attribute of {operator} is not a number")
    if key == "t":
        if value is None:
            raise BundleInvalid(f"attribute of {operator}: a tensor that is not there")
        value = _check_tensor(walk.message(value, schema.TENSOR, f"tensor of {operator}"), f"tensor of {operator}")
    return attribute.get("name", ""), bytes(value) if isinstance(value, memoryview) else value


def _check_tensor(tensor: dict[str, Any], what: str) -> Tensor:
    """Checks one tensor; its values come along where they are few."""
    if tensor.get("external_data") or tensor.get("data_location"):
        raise BundleInvalid(f"{what} keeps its data outside the file")
    element = tensor.get("data_type", 0)
    kind = schema.ELEMENTS.get(element)
    if kind is None:
        raise BundleInvalid(f"{what} has the element type {element}, which is not allowed")
    dims = tuple(tensor.get("dims", []))
    if len(dims) > MAX_RANK or any(not 0 <= size <= MAX_ELEMENTS for size in dims):
        raise BundleInvalid(f"{what} has an impossible shape")
    count = math.prod(dims)
    if count > MAX_ELEMENTS:
        raise BundleInvalid(f"{what} has more than {MAX_ELEMENTS} elements")
    present = [key for key in schema.DATA_FIELDS if len(tensor.get(key, b""))]
    if count == 0 and not present:
        return Tensor(element, dims, True, np.zeros(dims, kind.dtype))
    if present not in (["raw_data"], [kind.field]):
        raise BundleInvalid(f"{what} keeps its data in {present}")
    values = _check_data(tensor[present[0]], present[0], kind, count, what)
    return Tensor(element, dims, True, None if values is None else values.reshape(dims))


def _check_data(
    data: memoryview, field: str, kind: schema.Element, count: int, what: str
) -> np.ndarray[Any, Any] | None:
    if field == "raw_data" or field in ("float_data", "double_data"):
        if len(data) != count * kind.dtype.itemsize:
            raise BundleInvalid(f"{what} has {len(data)} bytes of data for {count} elements")
        values = np.frombuffer(data, kind.dtype)
        if kind.dtype.kind == "f":
            _check_finite(values, what)
        return values if count <= MAX_KNOWN else None
    if _count_varints(data) != count:
        raise BundleInvalid(f"{what} does not hold {count} elements")
    if kind.dtype == np.float16:
        if count > MAX_VARINTS:
            raise BundleInvalid(f"{what} writes {count} half floats one by one, not as raw data")
        halves = decode_varints(data)
        if any(not 0 <= half < 1 << 16 for half in halves):
            raise BundleInvalid(f"{what} holds impossible half floats")
        values = np.array(halves, np.uint16).view(np.float16)
        _check_finite(values, what)
        return values if count <= MAX_KNOWN else None
    return np.array(decode_varints(data), np.int64).astype(kind.dtype) if count <= MAX_KNOWN else None


def _blocks(values: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [values[start : start + (1 << 20)] for start in range(0, len(values), 1 << 20)]


def _count_varints(data: memoryview) -> int:
    return sum(int((block < 0x80).sum()) for block in _blocks(np.frombuffer(data, np.uint8)))


def _check_finite(values: np.ndarray[Any, Any], what: str) -> None:
    """Weights are finite; a lone infinity is how masks are filled, and passes."""
    lone = len(values) == 1 and not np.isnan(values[0])
    if not lone and not all(np.isfinite(block).all() for block in _blocks(values)):
        raise BundleInvalid(f"{what} holds values that are not finite")
