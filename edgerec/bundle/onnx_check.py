"""A bounded walk over an ONNX file's protobuf, in pure Python, before onnxruntime sees a byte of it.

Only a closed list of operators passes: none that branches, loops, draws random numbers, touches files or runs
foreign code. Fields that are not known here are refused, as is any singular field given twice (parsers would
merge the two, and see another model than this walk did).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgerec.bundle import onnx_schema as schema
from edgerec.bundle.protobuf import Walk, decode_varints
from edgerec.errors import BundleInvalid

MAX_NODES = 4096
MAX_TENSORS = 4096
MAX_EDGES = 64
MAX_RANK = 8
MAX_ELEMENTS = 1 << 31
MAX_MADE = 1 << 26  # elements that an operator may make from a constant shape
IR_VERSIONS = range(4, 14)
OPSETS = range(11, 27)

Shape = tuple[int | None, ...]
Signature = Mapping[str, tuple[int, Shape]]
"""Name → (ONNX element type, shape): None where the size must be left open, a number where it must be that
number or left open."""


def check_onnx(data: bytes | memoryview, *, inputs: Signature, outputs: Signature) -> None:
    """Raises BundleInvalid unless `data` is a harmless ONNX model with exactly these inputs and outputs."""
    walk = Walk()
    model = walk.message(memoryview(data), schema.MODEL, "model")
    if model.get("ir_version") not in IR_VERSIONS:
        raise BundleInvalid(f"ONNX IR version {model.get('ir_version')} is not supported")
    _check_opsets([walk.message(part, schema.OPSET, "opset_import") for part in model.get("opset_import", [])])
    if "graph" not in model:
        raise BundleInvalid("an ONNX file without a graph")
    graph = walk.message(model["graph"], schema.GRAPH, "graph")
    constants = _check_initializers(walk, graph.get("initializer", []))
    _check_values(walk, graph.get("input", []), inputs, "input")
    _check_values(walk, graph.get("output", []), outputs, "output")
    if both := set(inputs) & set(constants):
        raise BundleInvalid(f"initializer {min(both)!r} hides an input")
    for part in graph.get("value_info", []):
        value = walk.message(part, schema.VALUE, "value_info")
        walk.message(value.get("type", memoryview(b"")), schema.TYPE, "value_info")
    nodes = graph.get("node", [])
    if len(nodes) > MAX_NODES:
        raise BundleInvalid(f"{len(nodes)} nodes, more than {MAX_NODES}")
    for part in nodes:
        _check_node(walk, part, constants)


def _check_opsets(imports: list[dict[str, Any]]) -> None:
    for entry in imports:
        domain = entry.get("domain", "")
        if domain not in schema.OPERATORS:
            raise BundleInvalid(f"operators of domain {domain!r} are not allowed")
        if domain in ("", "ai.onnx") and entry.get("version") not in OPSETS:
            raise BundleInvalid(f"opset {entry.get('version')} is not supported")


def _check_initializers(walk: Walk, parts: list[memoryview]) -> dict[str, list[int] | None]:
    if len(parts) > MAX_TENSORS:
        raise BundleInvalid(f"{len(parts)} initializers, more than {MAX_TENSORS}")
    constants: dict[str, list[int] | None] = {}
    for part in parts:
        tensor = walk.message(part, schema.TENSOR, "initializer")
        name = tensor.get("name", "")
        if not name or name in constants:
            raise BundleInvalid(f"initializer name {name!r} is empty or given twice")
        constants[name] = _check_tensor(tensor, f"initializer {name!r}")
    return constants


def _check_values(walk: Walk, parts: list[memoryview], wanted: Signature, what: str) -> None:
    found: dict[str, tuple[int, Shape]] = {}
    for part in parts:
        value = walk.message(part, schema.VALUE, what)
        name = value.get("name", "")
        if name in found or name not in wanted:
            raise BundleInvalid(f"{what} {name!r} is not expected; expected {', '.join(sorted(wanted))}")
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


def _check_node(walk: Walk, part: memoryview, constants: dict[str, list[int] | None]) -> None:
    node = walk.message(part, schema.NODE, "node")
    operator = node.get("op_type", "")
    domain = node.get("domain", "")
    if operator not in schema.OPERATORS.get(domain, ()):
        raise BundleInvalid(f"operator {domain + '.' if domain else ''}{operator} is not allowed")
    if node.get("overload"):
        raise BundleInvalid(f"operator {operator} with an overload")
    edges = [*node.get("input", []), *node.get("output", [])]
    if len(edges) > MAX_EDGES or len(node.get("attribute", [])) > MAX_EDGES:
        raise BundleInvalid(f"operator {operator} with more than {MAX_EDGES} edges or attributes")
    for attribute in node.get("attribute", []):
        value = _check_attribute(walk, attribute, operator)
        if operator == "Constant" and value is not None and edges:
            constants[edges[-1]] = value
    position = schema.SHAPE_INPUTS.get(operator)
    if position is not None and position < len(node.get("input", [])):
        _check_made(constants.get(edges[position]), operator)


def _check_made(shape: list[int] | None, operator: str) -> None:
    """An operator that makes a tensor of a constant shape: onnxruntime may make it while it loads the model."""
    if shape is not None and math.prod(max(abs(size), 1) for size in shape) > MAX_MADE:
        raise BundleInvalid(f"operator {operator} makes more than {MAX_MADE} elements")


def _check_attribute(walk: Walk, part: memoryview, operator: str) -> list[int] | None:
    attribute = walk.message(part, schema.ATTRIBUTE, f"attribute of {operator}")
    numbers = attribute.get("floats", [])
    if "f" in attribute:
        numbers = [*numbers, attribute["f"]]
    if any(math.isnan(number) for number in numbers):
        raise BundleInvalid(f"attribute of {operator} is not a number")
    found: list[int] | None = attribute.get("ints")
    for tensor in (*attribute.get("tensors", []), *([attribute["t"]] if "t" in attribute else [])):
        found = _check_tensor(walk.message(tensor, schema.TENSOR, f"tensor of {operator}"), f"tensor of {operator}")
    return found


def _check_tensor(tensor: dict[str, Any], what: str) -> list[int] | None:
    """Checks one tensor; returns its values where it is a small one of whole numbers (it may be a shape)."""
    if tensor.get("external_data") or tensor.get("data_location"):
        raise BundleInvalid(f"{what} keeps its data outside the file")
    kind = schema.ELEMENTS.get(tensor.get("data_type", 0))
    if kind is None:
        raise BundleInvalid(f"{what} has the element type {tensor.get('data_type')}, which is not allowed")
    dims = tensor.get("dims", [])
    if len(dims) > MAX_RANK or any(not 0 <= size <= MAX_ELEMENTS for size in dims):
        raise BundleInvalid(f"{what} has an impossible shape")
    count = math.prod(dims)
    if count > MAX_ELEMENTS:
        raise BundleInvalid(f"{what} has more than {MAX_ELEMENTS} elements")
    present = [key for key in schema.DATA_FIELDS if len(tensor.get(key, b""))]
    if count == 0 and not present:
        return []
    if present not in (["raw_data"], [kind.field]):
        raise BundleInvalid(f"{what} keeps its data in {present}")
    return _check_data(tensor[present[0]], present[0], kind, count, what)


def _check_data(data: memoryview, field: str, kind: schema.Element, count: int, what: str) -> list[int] | None:
    if field == "raw_data" or field in ("float_data", "double_data"):
        if len(data) != count * kind.dtype.itemsize:
            raise BundleInvalid(f"{what} has {len(data)} bytes of data for {count} elements")
        values = np.frombuffer(data, kind.dtype)
        if kind.dtype.kind == "f":
            _check_finite(values, what)
            return None
        return [int(value) for value in values] if count <= MAX_RANK else None
    if int((np.frombuffer(data, np.uint8) < 0x80).sum()) != count:
        raise BundleInvalid(f"{what} does not hold {count} elements")
    if kind.dtype == np.float16:
        halves = decode_varints(data)
        if any(not 0 <= half < 1 << 16 for half in halves):
            raise BundleInvalid(f"{what} holds impossible half floats")
        _check_finite(np.array(halves, np.uint16).view(np.float16), what)
        return None
    return decode_varints(data) if count <= MAX_RANK else None


def _check_finite(values: np.ndarray[Any, Any], what: str) -> None:
    """Weights are finite; a lone infinity is how masks are filled, and passes."""
    if np.isnan(values).any() or (values.size > 1 and not np.isfinite(values).all()):
        raise BundleInvalid(f"{what} holds values that are not finite")
