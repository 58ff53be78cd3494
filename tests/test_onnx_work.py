"""What a model makes and computes is known before it runs: shapes as ONNX's own examples have them, work bounded."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import bag_encoder
from onnx import TensorProto, helper, numpy_helper

from edgerec.bundle import onnx_check
from edgerec.bundle.onnx_check import check_onnx
from edgerec.bundle.onnx_schema import ELEMENTS, FLOAT, INT64, OPERATORS
from edgerec.bundle.onnx_tensors import Tensor
from edgerec.bundle.onnx_work import MAX_MADE, MAX_TENSOR, MAX_WORK, RULES, follow
from edgerec.errors import BundleInvalid

node = helper.make_node


def test_every_operator_that_is_allowed_has_a_rule() -> None:
    assert set(RULES) == set().union(*OPERATORS.values())


# -- shapes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What the check knows of every tensor of the model that it saw last."""
    known: dict[str, Tensor] = {}

    def watched(steps: Any, tensors: dict[str, Tensor]) -> int:
        work = follow(steps, tensors)
        known.clear()
        known.update(tensors)
        return work

    monkeypatch.setattr(onnx_check, "follow", watched)
    return known


def cases() -> Iterator[tuple[str, onnx.ModelProto, list[np.ndarray], list[np.ndarray]]]:
    """ONNX's own examples of the operators that are allowed, where tensors go in and come out."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    for case in found:
        allowed = all(each.op_type in OPERATORS.get(each.domain, ()) for each in case.model.graph.node)
        versions = [each.version for each in case.model.opset_import if each.domain in ("", "ai.onnx")]
        if allowed and case.data_sets and set(versions) <= set(onnx_check.OPSETS):
            inputs, outputs = case.data_sets[0]
            if not any(isinstance(each, (list, dict, type(None))) for each in (*inputs, *outputs)):
                yield case.name, case.model, [np.asarray(one) for one in inputs], [np.asarray(one) for one in outputs]


def with_sizes_known(model: onnx.ModelProto, inputs: list[np.ndarray]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model with whole numbers as weights, which a shape may be, and a signature of what is left."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = 10
    signature: dict[str, Any] = {}
    for value, array in zip(list(copy.graph.input), inputs, strict=True):
        element = helper.np_dtype_to_tensor_dtype(array.dtype)
        if array.dtype.kind in "iu" and array.ndim < 2 and array.size <= 64:
            copy.graph.initializer.append(numpy_helper.from_array(array, value.name))
            copy.graph.input.remove(value)
        else:
            value.CopyFrom(helper.make_tensor_value_info(value.name, element, array.shape))
            signature[value.name] = (element, array.shape)
    return copy, signature


def test_shapes_and_types_are_those_of_onnx_own_examples(seen: dict[str, Tensor]) -> None:
    tried: set[str] = set()
    refused: list[str] = []
    for name, model, inputs, outputs in cases():
        model, signature = with_sizes_known(model, inputs)
        wanted = {}
        for value, array in zip(model.graph.output, outputs, strict=True):
            wanted[value.name] = (helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            value.CopyFrom(helper.make_tensor_value_info(value.name, *wanted[value.name]))
        if any(element not in ELEMENTS for element, _ in (*wanted.values(), *signature.values())):
            continue
        try:
            check_onnx(model.SerializeToString(), inputs=signature, outputs=wanted)
        except BundleInvalid as error:
            refused.append(f"{name}: {error}")
            continue
        for output, (element, shape) in wanted.items():
            found = seen[output]
            assert found.element == element, name
            if found.exact:
                assert found.shape == shape, name
            else:
                assert len(found.shape) == len(shape), name
                assert all(have >= want for have, want in zip(found.shape, shape, strict=True)), name
        tried |= {each.op_type for each in model.graph.node}
    assert len(tried) > 100
    unread = [each for each in refused if "do not tell" not in each and "with a past" not in each]
    assert len(unread) < 20, unread


def test_every_shape_inside_a_real_model_is_known(seen: dict[str, Tensor], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from edgerec.bundle.signatures import encoder_signature
    from edgerec_exporters.int8 import build_retriever
    from edgerec_exporters.models import build
    from edgerec_exporters.onnx_export import export_encoder

    length, dim = 10, 8
    rng = np.random.default_rng(0)
    table = rng.standard_normal((900, dim)).astype(np.float32)
    retriever = build_retriever(table, table[:, 0].copy(), table[:, 1].copy(), 40)
    check_onnx(retriever, inputs={"query": (FLOAT, (None, dim + 2))}, outputs={"rows": (INT64, (None, 40))})
    compare(retriever, {"query": np.ones((1, dim + 2), np.float32)}, seen)
    for name, settings in (
        ("sasrec", {"block": "ligr", "positions": "rotary", "heads": 2, "widen": 2}),
        ("gru4rec", {"hidden": 12, "layers": 2}),
    ):
        torch.manual_seed(0)
        data, names = export_encoder(build(name, {"dim": dim, "length": length, **settings}), length, dim, 2)
        inputs, outputs = encoder_signature(names, length, dim)
        assert 0 < check_onnx(data, inputs=inputs, outputs=outputs) < MAX_WORK
        feeds = {"history": table[None, :length], "mask": np.ones((1, length), np.bool_)}
        compare(data, feeds, seen)


def compare(data: bytes, feeds: dict[str, np.ndarray], seen: dict[str, Tensor]) -> None:
    model = onnx.load_from_string(data)
    made = [name for each in model.graph.node for name in each.output if name]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for name, array in zip(made, session.run(made, feeds), strict=True):
        assert seen[name].exact, name
        assert seen[name].shape == array.shape, name
        if seen[name].values is not None:
            np.testing.assert_array_equal(seen[name].values, array, err_msg=name)


# -- bounds ------------------------------------------------------------------------------------------------------


def check(nodes: list[Any], weights: dict[str, Any] | None = None) -> int:
    """Checks a model x float32 (B, 4) → y float32 (B, 4)."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["B", 4]), value("k", TensorProto.INT64, ["B", 4])],
        [value("y", TensorProto.FLOAT, ["B", 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    signature = {"x": (FLOAT, (None, 4)), "k": (INT64, (None, 4))}
    return check_onnx(model.SerializeToString(), inputs=signature, outputs={"y": (FLOAT, (None, 4))})


HUGE = 1 << 20
Y = node("Identity", ["x"], ["y"])
BOMBS: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "a constant of a huge shape": (
        [node("ConstantOfShape", ["s"], ["z"])],
        {"s": np.array([HUGE, HUGE])},
        f"ConstantOfShape makes more than {MAX_TENSOR}",
    ),
    "a shape that is computed": (
        [node("Mul", ["a", "a"], ["s"]), node("ConstantOfShape", ["s"], ["z"])],
        {"a": np.array([HUGE])},
        "ConstantOfShape makes more than",
    ),
    "a shape that is put together": (
        [node("Concat", ["a", "a"], ["s"], axis=0), node("Expand", ["one", "s"], ["z"])],
        {"a": np.array([HUGE]), "one": np.float32(1)},
        "Expand makes more than",
    ),
    "an outer product by broadcasting": (
        [
            node("ConstantOfShape", ["s"], ["column"]),
            node("Reshape", ["column", "t"], ["row"]),
            node("Add", ["column", "row"], ["z"]),
        ],
        {"s": np.array([HUGE, 1]), "t": np.array([1, HUGE])},
        "Add makes more than",
    ),
    "repeats": ([node("Tile", ["x", "r"], ["z"])], {"r": np.array([HUGE, HUGE])}, "Tile makes more than"),
    "a padding": ([node("Pad", ["x", "p"], ["z"])], {"p": np.array([0, 0, 0, 1 << 40])}, "Pad makes more than"),
    "a range": (
        [node("Range", ["a", "b", "c"], ["z"])],
        {"a": np.int64(0), "b": np.int64(1 << 39), "c": np.int64(1)},
        "Range makes more than",
    ),
    "a range without an end": (
        [node("Range", ["a", "b", "c"], ["z"])],
        {"a": np.int64(0), "b": np.int64(5), "c": np.int64(0)},
        "Range without an end",
    ),
    "a one-hot of a huge depth": (
        [node("OneHot", ["k", "d", "v"], ["z"])],
        {"d": np.int64(1 << 40), "v": np.zeros(2, np.float32)},
        "OneHot makes more than",
    ),
    "a size that the data tell": ([node("ConstantOfShape", ["k1"], ["z"])], {}, "numbers do not tell"),
    "a chain that doubles": (
        [node("Concat", ["x", "x"], ["z0"], axis=0)]
        + [node("Concat", [f"z{n}", f"z{n}"], [f"z{n + 1}"], axis=0) for n in range(40)],
        {},
        "Concat makes more than",
    ),
    "many that are large": (
        [node("ConstantOfShape", ["s"], [f"z{n}"]) for n in range(6)],
        {"s": np.array([MAX_TENSOR])},
        f"make more than {MAX_MADE} elements",
    ),
    "products without end": (
        [node("ConstantOfShape", ["s"], ["w"])] + [node("MatMul", ["w", "w"], [f"z{n}"]) for n in range(20)],
        {"s": np.array([1024, 1024])},
        f"take more than {MAX_WORK} steps",
    ),
    "an einsum of many axes": (
        [node("ConstantOfShape", ["s"], ["w"]), node("Einsum", ["w"] * 6, ["z"], equation="a,b,c,d,e,f->")],
        {"s": np.array([1000])},
        "take more than",
    ),
    "a convolution of huge pads": (
        [node("ConstantOfShape", ["s"], ["w"]), node("Conv", ["w", "w"], ["z"], pads=[1 << 40, 0])],
        {"s": np.array([1, 1, 1])},
        "Conv makes more than|make more than",
    ),
    "too many axes": (
        [node("Unsqueeze", ["x", "axes"], ["z"])],
        {"axes": np.arange(9)},
        "more than 8 axes",
    ),
    "a node that reads what comes later": (
        [node("Neg", ["later"], ["z"]), node("Neg", ["x"], ["later"])],
        {},
        "nothing before it makes",
    ),
    "a circle": ([node("Add", ["x", "z"], ["z"])], {}, "nothing before it makes"),
    "a name made twice": ([node("Neg", ["x"], ["z"]), node("Abs", ["x"], ["z"])], {}, "which is there already"),
    "an input made anew": ([node("Neg", ["x"], ["x"])], {}, "which is there already"),
    "an output too many": ([node("Neg", ["x"], ["z", "more"])], {}, "with 2 outputs"),
    "an operator without inputs": ([node("Add", [], ["z"])], {}, "without input 0"),
    "shapes that do not fit": ([node("Add", ["x", "w"], ["z"])], {"w": np.zeros(3, np.float32)}, "of shapes"),
    "a division of whole numbers by the data": ([node("Div", ["w", "k"], ["z"])], {"w": np.int64(1)}, "do not tell"),
    "a division by zero": ([node("Div", ["k", "w"], ["z"])], {"w": np.int64(0)}, "by less than 1"),
    "a division by minus one": ([node("Div", ["k", "w"], ["z"])], {"w": np.array([2, -1, 2, 2])}, "by less than 1"),
    "a remainder of zero": ([node("Mod", ["k", "w"], ["z"])], {"w": np.int64(0)}, "by less than 1"),
    "a mean of whole numbers": ([node("ReduceMean", ["k"], ["z"])], {}, "of whole numbers"),
    "a cast to text": ([node("Cast", ["x"], ["z"], to=TensorProto.STRING)], {}, "element type 8"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_model_without_bounds_is_refused(name: str) -> None:
    nodes, weights, reason = BOMBS[name]
    if name == "a size that the data tell":
        nodes = [node("Squeeze", ["k"], ["k1"]), *nodes]
    with pytest.raises(BundleInvalid, match=reason):
        check([*nodes, Y], weights)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Identity", ["k"], ["y"])], "'y' comes out with element type 7"),
        ([node("Transpose", ["x"], ["y"])], r"'y' comes out with element type 1 and shape \(4, 1\)"),
        ([], "'y' is made by nothing"),
    ],
)
def test_what_comes_out_must_be_what_is_promised(nodes: list[Any], reason: str) -> None:
    with pytest.raises(BundleInvalid, match=reason):
        check(nodes)


def test_whole_numbers_may_be_divided_by_constants() -> None:
    half = [node("Div", ["k", "two"], ["h"]), node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)]
    assert check(half, {"two": np.int64(2)}) > 0


def test_shapes_computed_from_shapes_are_followed() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["width"]),
        node("Mul", ["width", "half"], ["four"]),
        node("Div", ["four", "half"], ["width_again"]),
        node("Concat", ["minus", "width_again"], ["wanted"], axis=0),
        node("Reshape", ["x", "wanted"], ["y"]),
    ]
    assert check(nodes, {"one": np.array([1]), "half": np.array([2]), "minus": np.array([-1])}) > 0


@pytest.mark.parametrize("count", [1, 10, 100])
def test_work_grows_with_the_model(count: int) -> None:
    weights = {f"w{n}": np.eye(4, dtype=np.float32) for n in range(count)}
    chain = [node("MatMul", [f"z{n}" if n else "x", f"w{n}"], [f"z{n + 1}"]) for n in range(count)]
    work = check([*chain, node("Neg", [f"z{count}"], ["y"])], weights)
    assert 16 * count <= work <= 50 * count + 20


KILLER = """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"x": np.full((1, 4), -1, np.int64)})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signals are Linux's")
def test_why_whole_numbers_are_not_divided_by_the_data(tmp_path: Path) -> None:
    """The control: this model, which the check refuses, kills the process that runs it."""
    graph = helper.make_graph(
        [node("Div", ["w", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["B", 4])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["B", 4])],
        [numpy_helper.from_array(np.array([-(2**63)]), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(BundleInvalid, match="do not tell"):
        check_onnx(model.SerializeToString(), inputs={"x": (INT64, (None, 4))}, outputs={"y": (INT64, (None, 4))})
    onnx.save(model, tmp_path / "m.onnx")
    run = subprocess.run([sys.executable, "-c", KILLER, str(tmp_path / "m.onnx")], capture_output=True)
    assert run.returncode < 0


Damage = Callable[[Any], None]


def typed(kind: int | None, **values: Any) -> Damage:
    def damage(attribute: Any) -> None:
        attribute.Clear()
        attribute.name = "to"
        if kind is not None:
            attribute.type = kind
        for key, value in values.items():
            getattr(attribute, key).extend(value) if isinstance(value, list) else setattr(attribute, key, value)

    return damage


@pytest.mark.parametrize(
    "damage",
    [typed(2, f=1.0), typed(2, i=1, ints=[1]), typed(None, i=1, f=1.0), typed(None), typed(5), typed(4)],
)
def test_an_attribute_is_of_the_type_that_it_says(damage: Damage) -> None:
    model = onnx.load_from_string(bag_encoder(8))
    (attribute,) = next(each for each in model.graph.node if each.op_type == "Cast").attribute
    damage(attribute)
    from edgerec.bundle.signatures import encoder_signature

    inputs, outputs = encoder_signature(("history", "age_days", "kind", "mask"), 8, 8)
    with pytest.raises(BundleInvalid, match="attribute of Cast: "):
        check_onnx(model.SerializeToString(), inputs=inputs, outputs=outputs)
