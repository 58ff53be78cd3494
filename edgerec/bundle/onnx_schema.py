"""The part of onnx.proto that bundles may use, as tables: fields, element types, operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgerec.bundle.protobuf import Spec
from edgerec.records import record

FLOAT, UINT8, INT8, INT32, INT64, BOOL, FLOAT16, DOUBLE = 1, 2, 3, 6, 7, 9, 10, 11

# metadata_props are refused everywhere: no device needs them, and exporters put stack traces there
MODEL: Spec = {
    1: ("ir_version", "int"),
    2: ("producer_name", "text"),
    3: ("producer_version", "text"),
    4: ("domain", "text"),
    5: ("model_version", "int"),
    6: ("doc_string", "text"),
    7: ("graph", "bytes"),
    8: ("opset_import", "list"),
    14: ("metadata_props", "refuse"),
    20: ("training_info", "refuse"),
    25: ("functions", "refuse"),
    26: ("configuration", "refuse"),
}
OPSET: Spec = {1: ("domain", "text"), 2: ("version", "int")}
GRAPH: Spec = {
    1: ("node", "list"),
    2: ("name", "text"),
    5: ("initializer", "list"),
    10: ("doc_string", "text"),
    11: ("input", "list"),
    12: ("output", "list"),
    13: ("value_info", "list"),
    14: ("quantization_annotation", "refuse"),
    15: ("sparse_initializer", "refuse"),
    16: ("metadata_props", "refuse"),
}
NODE: Spec = {
    1: ("input", "texts"),
    2: ("output", "texts"),
    3: ("name", "text"),
    4: ("op_type", "text"),
    5: ("attribute", "list"),
    6: ("doc_string", "text"),
    7: ("domain", "text"),
    8: ("overload", "text"),
    9: ("metadata_props", "refuse"),
    10: ("device_configurations", "refuse"),
}
ATTRIBUTE: Spec = {
    1: ("name", "text"),
    2: ("f", "float"),
    3: ("i", "int"),
    4: ("s", "bytes"),
    5: ("t", "bytes"),
    6: ("g", "refuse"),
    7: ("floats", "floats"),
    8: ("ints", "ints"),
    9: ("strings", "list"),
    10: ("tensors", "list"),
    11: ("graphs", "refuse"),
    13: ("doc_string", "text"),
    14: ("tp", "refuse"),
    15: ("type_protos", "refuse"),
    20: ("type", "int"),
    21: ("ref_attr_name", "refuse"),
    22: ("sparse_tensor", "refuse"),
    23: ("sparse_tensors", "refuse"),
}
TENSOR: Spec = {
    1: ("dims", "ints"),
    2: ("data_type", "int"),
    3: ("segment", "refuse"),
    4: ("float_data", "bytes"),
    5: ("int32_data", "bytes"),
    6: ("string_data", "refuse"),
    7: ("int64_data", "bytes"),
    8: ("name", "text"),
    9: ("raw_data", "bytes"),
    10: ("double_data", "bytes"),
    11: ("uint64_data", "refuse"),
    12: ("doc_string", "text"),
    13: ("external_data", "list"),
    14: ("data_location", "int"),
    16: ("metadata_props", "refuse"),
}
VALUE: Spec = {1: ("name", "text"), 2: ("type", "bytes"), 3: ("doc_string", "text"), 4: ("metadata_props", "refuse")}
TYPE: Spec = {
    1: ("tensor_type", "bytes"),
    4: ("sequence_type", "refuse"),
    5: ("map_type", "refuse"),
    6: ("denotation", "text"),
    8: ("sparse_tensor_type", "refuse"),
    9: ("optional_type", "refuse"),
}
TENSOR_TYPE: Spec = {1: ("elem_type", "int"), 2: ("shape", "bytes")}
SHAPE: Spec = {1: ("dim", "list")}
DIM: Spec = {1: ("dim_value", "int"), 2: ("dim_param", "text"), 3: ("denotation", "text")}


@record
class Element:
    """An element type: how raw_data holds it, and which field holds it else."""

    dtype: np.dtype[Any]
    field: str


DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data")
ELEMENTS = {
    FLOAT: Element(np.dtype("<f4"), "float_data"),
    UINT8: Element(np.dtype("u1"), "int32_data"),
    INT8: Element(np.dtype("i1"), "int32_data"),
    INT32: Element(np.dtype("<i4"), "int32_data"),
    INT64: Element(np.dtype("<i8"), "int64_data"),
    BOOL: Element(np.dtype("?"), "int32_data"),
    FLOAT16: Element(np.dtype("<f2"), "int32_data"),
    DOUBLE: Element(np.dtype("<f8"), "double_data"),
}

ATTRIBUTE_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings", 9: "tensors"}
"""An attribute's `type` → the field that holds its value."""

ATTRIBUTE_DEFAULTS: dict[str, Any] = {
    "f": 0.0,
    "i": 0,
    "s": b"",
    "floats": [],
    "ints": [],
    "strings": [],
    "tensors": [],
}
"""What an encoder may leave out."""

_STANDARD = """
    Abs Add And ArgMax ArgMin Attention BatchNormalization Cast CastLike Ceil Clip Concat Constant ConstantOfShape
    Conv Cos CumSum DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand Flatten Floor
    GRU Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish
    Identity InstanceNormalization IsNaN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    LpNormalization MatMul MatMulInteger Max Mean Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow
    QLinearMatMul QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape RotaryEmbedding Round ScatterElements
    ScatterND Selu Shape Sigmoid Sign Sin Size Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Swish Tanh
    Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
_MICROSOFT = """
    BiasGelu DynamicQuantizeMatMul FastGelu FusedMatMul Gelu MatMulIntegerToFloat MatMulNBits QuickGelu
    SimplifiedLayerNormalization SkipLayerNormalization
"""
OPERATORS = {
    "": frozenset(_STANDARD.split()),
    "ai.onnx": frozenset(_STANDARD.split()),
    "com.microsoft": frozenset(_MICROSOFT.split()),
}
"""Operators allowed, by domain. None of them holds a subgraph, so that nothing in a model can loop."""
