"""The walk over ONNX files: harmless models pass, and one model per danger is refused before onnxruntime sees it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import bag_encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgerec.bundle import onnx_check, protobuf
from edgerec.bundle.onnx_check import check_onnx
from edgerec.bundle.onnx_schema import FLOAT, INT64, OPERATORS
from edgerec.bundle.signatures import encoder_signature
from edgerec.errors import BundleInvalid

DIM, LENGTH = 8, 8
INPUTS, OUTPUTS = encoder_signature(("history", "age_days", "kind", "mask"), LENGTH, DIM)


def bag() -> onnx.ModelProto:
    return onnx.load_from_string(bag_encoder(DIM, LENGTH))


def check(model: onnx.ModelProto) -> None:
    check_onnx(model.SerializeToString(), inputs=INPUTS, outputs=OUTPUTS)


def small(
    nodes: list[Any], initializers: list[Any] = (), *, dims: Any = ("B", 4), domains: tuple[str, ...] = ()
) -> bytes:
    """A model x → y of the given nodes."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(dims))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(dims))],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def check_small(data: bytes) -> None:
    check_onnx(data, inputs={"x": (FLOAT, (None, 4))}, outputs={"y": (FLOAT, (None, 4))})


def add(value: Any) -> bytes:
    return small([helper.make_node("Add", ["x", "w"], ["y"])], [value])


def weights(values: Any = (1, 2, 3, 4), dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.array(values, dtype), "w")


# -- what passes -------------------------------------------------------------------------------------------------


def test_a_sound_model_passes_as_bytes_and_as_memory() -> None:
    data = bag_encoder(DIM, LENGTH)
    check_onnx(data, inputs=INPUTS, outputs=OUTPUTS)
    check_onnx(memoryview(data), inputs=INPUTS, outputs=OUTPUTS)


def test_a_length_left_open_passes_for_a_fixed_one() -> None:
    model = bag()
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[1].dim_param = "L"
    check(model)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int8, np.uint8, np.int32, np.int64, np.bool_])
@pytest.mark.parametrize("raw", [True, False])
def test_weights_of_every_allowed_type_pass_in_either_encoding(kind: Any, raw: bool) -> None:
    values = np.array([[0, 1, 1, 0]], kind)
    if raw:
        tensor = numpy_helper.from_array(values, "w")
    else:
        tensor = helper.make_tensor("w", helper.np_dtype_to_tensor_dtype(np.dtype(kind)), values.shape, values.ravel())
        assert not tensor.raw_data
    check_small(add(tensor))


def test_negative_numbers_and_an_empty_tensor_pass() -> None:
    kept = helper.make_node("Identity", ["x"], ["y"])
    for tensor in (
        helper.make_tensor("w", TensorProto.INT64, [2], [-1, -(2**63)]),
        numpy_helper.from_array(np.zeros((0, 4), np.float32), "w"),
    ):
        check_small(small([kept, helper.make_node("Neg", ["w"], ["z"])], [tensor]))


def test_a_lone_infinity_passes_as_a_mask_needs_it() -> None:
    check_small(add(weights(-np.inf)))
    node = helper.make_node("LeakyRelu", ["x"], ["y"], alpha=float("-inf"))
    check_small(small([node]))


def test_a_contrib_operator_on_the_list_passes() -> None:
    node = helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft")
    check_small(small([node], domains=("com.microsoft",)))


def test_nothing_in_the_walk_imports_onnx() -> None:
    import subprocess

    code = "import sys, edgerec.bundle.signatures; print('onnx' in sys.modules, 'onnxruntime' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


# -- what does not -----------------------------------------------------------------------------------------------


def edit(change: Callable[[onnx.ModelProto], Any]) -> bytes:
    model = bag()
    change(model)
    return bytes(model.SerializeToString())


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function("custom", "F", ["a"], ["b"], [node], model.opset_import))


def sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [1], [0]), [4])
    )


def sequence(model: onnx.ModelProto) -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["B", DIM]))
    model.graph.output[0].type.CopyFrom(kind)


def loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["n", "c"], ["v"], body=body))


def subgraph(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "body", [], [])))


def dims(model: onnx.ModelProto, place: int, value: int) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[place].dim_value = value


DANGERS: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "external data": (external, "outside the file"),
    "a local function": (function, "functions is not allowed"),
    "training": (lambda m: m.training_info.add(), "training_info is not allowed"),
    "a sparse weight": (sparse, "sparse_initializer is not allowed"),
    "a sequence": (sequence, "sequence_type is not allowed"),
    "a loop": (loop, "operator Loop is not allowed"),
    "a subgraph on any operator": (subgraph, "g is not allowed"),
    "random numbers": (lambda m: setattr(m.graph.node[0], "op_type", "RandomNormalLike"), "RandomNormalLike"),
    "an unknown operator": (lambda m: setattr(m.graph.node[0], "op_type", "Exec"), "operator Exec"),
    "a foreign domain": (lambda m: setattr(m.graph.node[0], "domain", "evil"), "operator evil.Mul"),
    "a foreign opset": (lambda m: m.opset_import.add(domain="evil", version=1), "domain 'evil'"),
    "an ML operator set": (lambda m: m.opset_import.add(domain="ai.onnx.ml", version=3), "domain 'ai.onnx.ml'"),
    "an overload": (lambda m: setattr(m.graph.node[0], "overload", "x"), "overload"),
    "an opset from the future": (lambda m: setattr(m.opset_import[0], "version", 99), "opset 99"),
    "an ancient IR": (lambda m: setattr(m, "ir_version", 3), "IR version 3"),
    "metadata": (lambda m: m.graph.node[0].metadata_props.add(key="k", value="v"), "metadata_props is not allowed"),
    "a missing input": (lambda m: m.graph.input.pop(), "input 'mask' is missing"),
    "another input": (lambda m: setattr(m.graph.input[0], "name", "secret"), "input 'secret' is not expected"),
    "an input twice": (lambda m: m.graph.input.append(m.graph.input[0]), "input 'history' is not expected"),
    "another output": (lambda m: m.graph.output.append(m.graph.input[0]), "output 'history' is not expected"),
    "no output": (lambda m: m.graph.output.pop(), "output 'query' is missing"),
    "an input of another type": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE),
        "element type 11",
    ),
    "an input of another rank": (lambda m: m.graph.input[0].type.tensor_type.shape.dim.pop(), "'history' has"),
    "an input without a shape": (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "no shape"),
    "an input without a type": (lambda m: m.graph.input[0].ClearField("type"), "not a tensor"),
    "a fixed batch": (lambda m: dims(m, 0, 1), "'history' has"),
    "another width": (lambda m: dims(m, 2, DIM + 1), "'history' has"),
    "an initializer that hides an input": (
        lambda m: m.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "mask")),
        "hides an input",
    ),
    "an initializer twice": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "given twice"),
    "a nameless initializer": (lambda m: setattr(m.graph.initializer[0], "name", ""), "empty or given twice"),
    "no graph": (lambda m: m.ClearField("graph"), "without a graph"),
    "a name of a megabyte": (lambda m: setattr(m.graph.node[0], "name", "x" * (1 << 20)), "longer than"),
}


@pytest.mark.parametrize("name", DANGERS)
def test_a_dangerous_model_is_refused(name: str) -> None:
    change, reason = DANGERS[name]
    with pytest.raises(BundleInvalid, match=reason):
        check_onnx(edit(change), inputs=INPUTS, outputs=OUTPUTS)


def tensor(**fields: Any) -> Any:
    out = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    for key, value in fields.items():
        if isinstance(value, list):
            out.ClearField(key)
            getattr(out, key).extend(value)
        else:
            setattr(out, key, value)
    return out


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (weights([1, np.nan]), "not finite"),
        (weights(np.nan), "not finite"),
        (weights([1, np.inf]), "not finite"),
        (weights([1, np.inf], np.float16), "not finite"),
        (weights([1, -np.inf], np.float64), "not finite"),
        (helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, float("nan")]), "not finite"),
        (helper.make_tensor("w", TensorProto.DOUBLE, [2], [1.0, float("nan")]), "not finite"),
        (helper.make_tensor("w", TensorProto.FLOAT16, [2], [1.0, float("nan")]), "not finite"),
        (tensor(raw_data=b"1234"), "4 bytes of data for 2"),
        (tensor(raw_data=b"123456789"), "9 bytes of data for 2"),
        (tensor(), "keeps its data in"),
        (tensor(raw_data=b"12345678", float_data=[1, 2]), "keeps its data in"),
        (tensor(double_data=[1, 2]), "keeps its data in"),
        (tensor(float_data=[1.0]), "bytes of data for 2"),
        (tensor(data_type=TensorProto.INT64, int64_data=[1, 2, 3]), "does not hold 2"),
        (tensor(data_type=TensorProto.FLOAT16, int32_data=[1, 1 << 20]), "impossible half"),
        (tensor(data_type=TensorProto.STRING, string_data=[b"a", b"b"]), "string_data is not allowed"),
        (tensor(data_type=TensorProto.COMPLEX64, float_data=[1, 2, 3, 4]), "element type 14"),
        (tensor(data_type=99, raw_data=b"1"), "element type 99"),
        (tensor(dims=[1] * 9, raw_data=b"1234"), "impossible shape"),
        (tensor(dims=[-1], raw_data=b"1234"), "impossible shape"),
        (tensor(dims=[1 << 40], raw_data=b"1234"), "impossible shape"),
        (tensor(dims=[1 << 20, 1 << 20], raw_data=b"1234"), "more than"),
    ],
)
def test_a_weight_that_cannot_be_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(BundleInvalid, match=reason):
        check_small(add(value))


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("nan")]])
def test_an_attribute_that_is_not_a_number_is_refused(value: Any) -> None:
    with pytest.raises(BundleInvalid, match="not a number"):
        check_small(small([helper.make_node("Selu", ["x"], ["y"], alpha=value)]))


@pytest.mark.parametrize(
    ("module", "limit"), [(onnx_check, "MAX_NODES"), (onnx_check, "MAX_TENSORS"), (protobuf, "MAX_FIELDS")]
)
def test_counts_are_bounded(module: Any, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, limit, 3)
    with pytest.raises(BundleInvalid, match="more than 3"):
        check(bag())


def test_edges_and_attributes_of_a_node_are_bounded() -> None:
    with pytest.raises(BundleInvalid, match="edges or attributes"):
        check_small(small([helper.make_node("Concat", ["x"] * 65, ["y"], axis=0)]))
    many = [1] * (protobuf.MAX_LIST + 1)
    with pytest.raises(BundleInvalid, match="numbers"):
        check_small(small([helper.make_node("Transpose", ["x"], ["y"], perm=many)]))


# -- the wire format ---------------------------------------------------------------------------------------------


def field(number: int, wire: int, payload: bytes) -> bytes:
    return bytes([number << 3 | wire]) + payload


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (field(7, 2, b"\x05abc"), "cut short"),
        (field(7, 2, b""), "damaged number"),
        (field(7, 2, b"\xff" * 11), "damaged number"),
        (field(1, 0, b"\xff" * 9 + b"\x7f"), "damaged number"),
        (field(7, 0, b"\x01"), "wire type 0"),
        (field(1, 5, b"1234"), "wire type 5"),
        (field(1, 5, b"12"), "cut short"),
        (field(7, 3, b""), "wire type 3"),
        (field(0, 0, b"\x01"), "field number 0"),
        (field(15, 0, b"\x01"), "field 15 is not allowed"),
        (field(1, 0, b"\x08") * 2, "ir_version: given twice"),
        (field(2, 2, b"\x01\xff"), "not UTF-8"),
        (b"", "IR version None"),
    ],
)
def test_a_broken_or_ambiguous_encoding_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BundleInvalid, match=reason):
        check_onnx(data, inputs={}, outputs={})


def test_a_graph_given_twice_is_refused_as_parsers_would_merge_them() -> None:
    data = bag_encoder(DIM, LENGTH)
    again = onnx.ModelProto(graph=helper.make_graph([helper.make_node("Exec", [], [])], "more", [], []))
    with pytest.raises(BundleInvalid, match="graph: given twice"):
        check_onnx(data + again.SerializeToString(), inputs=INPUTS, outputs=OUTPUTS)


@given(st.integers(-(2**63), 2**63 - 1))
def test_varints_decode_as_onnx_encodes_them(number: int) -> None:
    packed = TensorProto(int64_data=[number]).SerializeToString()
    assert protobuf.decode_varints(memoryview(packed)[2:]) == [number]


def test_no_allowed_operator_is_unknown_to_onnx_or_holds_a_graph() -> None:
    known = {schema.name: schema for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    for operator in OPERATORS[""]:
        kinds = {attribute.type for attribute in known[operator].attributes.values()}
        assert not kinds & {onnx.defs.OpSchema.AttrType.GRAPH, onnx.defs.OpSchema.AttrType.GRAPHS}


# -- fuzz --------------------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=3)), max_size=4),
    cut=st.sampled_from([1.0, 1.0, 0.9, 0.3]),
)
def test_a_mutated_model_never_raises_anything_but_bundle_invalid(edits: list[tuple[float, bytes]], cut: float) -> None:
    out = bytearray(bag_encoder(DIM, LENGTH))
    for place, new in edits:
        at = int(place * len(out))
        out[at : at + max(len(new), 1)] = new
    data = bytes(out[: int(cut * len(out))])
    try:
        check_onnx(data, inputs=INPUTS, outputs=OUTPUTS)
    except BundleInvalid:
        return
    model = onnx.load_from_string(data)  # what passes, onnx's own parser reads, and sees the same graph
    assert {value.name for value in model.graph.input} == set(INPUTS)
    assert not model.functions
    assert all(node.op_type in OPERATORS.get(node.domain, ()) for node in model.graph.node)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(BundleInvalid):
        check_onnx(data, inputs={"x": (INT64, (None,))}, outputs={})
