"""encoder.onnx: a PyTorch encoder as ONNX, stripped of everything but the computation, and checked."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

from edgerec.errors import BundleInvalid, ExportError

if TYPE_CHECKING:
    import onnx
    from torch import nn

OPSET = 20
IR_VERSION = 10
INPUTS = ("history", "age_days", "kind", "mask")


def export_encoder(encoder: nn.Module, length: int, dim: int, n_kinds: int) -> tuple[bytes, tuple[str, ...]]:
    """The ONNX bytes of `encoder(history, age_days, kind, mask) → query`, and the inputs that it reads.

    The batch is dynamic, the history's length fixed. Raises ExportError where PyTorch cannot export it or the
    result is not a model that a device would take.
    """
    model = _torch_export(encoder, length, dim, n_kinds)
    _strip(model)
    inputs = _used_inputs(model)
    data = bytes(model.SerializeToString())
    _check(data, inputs, length, dim)
    return data, inputs


def _torch_export(encoder: nn.Module, length: int, dim: int, n_kinds: int) -> onnx.ModelProto:
    import torch

    batch = torch.export.Dim("batch", min=1)
    sample = (
        torch.zeros(2, length, dim),
        torch.zeros(2, length),
        torch.full((2, length), n_kinds - 1, dtype=torch.int64),
        torch.ones(2, length, dtype=torch.bool),
    )
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                encoder.eval().cpu(),
                sample,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(INPUTS),
                output_names=["query"],
                dynamic_shapes=tuple({0: batch} for _ in sample),
                external_data=False,
                verbose=False,
            )
            model: onnx.ModelProto = program.model_proto
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"PyTorch cannot export the encoder: {reason}") from error
    return model


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter talks on stdout, where only a command's JSON may go, and warns of its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _strip(model: onnx.ModelProto) -> None:
    """Takes out names of source files, stack traces, shapes of intermediate values and unused domains."""
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.metadata_props[:]
    del model.graph.value_info[:]
    model.doc_string = model.graph.doc_string = ""
    model.graph.name, model.producer_name, model.ir_version = "encoder", "edgerec", IR_VERSION
    graph = model.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]


def _used_inputs(model: onnx.ModelProto) -> tuple[str, ...]:
    """Drops graph inputs that nothing reads (an encoder need not look at ages or kinds); returns the others."""
    read = {name for node in model.graph.node for name in node.input} | {"history", "mask"}
    kept = [value for value in model.graph.input if value.name in read]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return tuple(value.name for value in kept)


def _check(data: bytes, inputs: tuple[str, ...], length: int, dim: int) -> None:
    from edgerec.bundle.onnx_check import check_onnx
    from edgerec.bundle.signatures import encoder_signature

    wanted, outputs = encoder_signature(inputs, length, dim)
    try:
        check_onnx(data, inputs=wanted, outputs=outputs)
    except BundleInvalid as error:
        raise ExportError(f"a device would refuse the exported encoder: {error}") from error
