"""What every trace needs, whatever the family: a model at rest and a quiet exporter."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from transformers import PreTrainedModel

from lmkit.errors import ExportError
from lmkit.saving.manifest import Tensor

OPSET = 20
# The lowest that knows this opset; onnxruntime 1.31 reads up to 13, onnx 1.23 writes 14.
_IR_VERSION = 10


def port(value: ir.Value) -> Tensor:
    """Return an input or output of a graph as the manifest states it."""
    assert value.name is not None
    assert value.dtype is not None
    assert value.shape is not None
    axes = tuple(axis if isinstance(axis, int) else str(axis.value) for axis in value.shape)
    return Tensor(name=value.name, dtype=str(value.dtype.numpy()), axes=axes)


@contextmanager
def inference(model: PreTrainedModel) -> Iterator[None]:
    """Put the model into float32 evaluation, and back into what it was."""
    training = [module for module in model.modules() if module.training]
    tensors = [*model.parameters(), *model.buffers()]
    narrow = [
        (tensor, tensor.data)
        for tensor in tensors
        if tensor.is_floating_point() and tensor.dtype != torch.float32
    ]
    try:
        model.eval()
        for tensor, data in narrow:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in narrow:
            tensor.data = data
        for module in training:
            module.training = True


# What torch 2.13 warns about inside its own exporter; drop a line once its cause is gone upstream.
_KNOWN_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # copy.deepcopy of torch's own tree specs
    r"# The axis name: \w+ will not be used",  # said of every input that shares an axis by intent
)
_TRACED = "lmkit.traced"  # where a graph keeps the values that it was traced with
_CHATTY_LOGGERS = (
    "torch.onnx._internal.exporter._registration",  # one line for each torchvision operator it lacks
)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporter says about itself."""
    loggers = [logging.getLogger(name) for name in _CHATTY_LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def uncollected() -> Iterator[None]:
    """Hold the cyclic collector: it walks the growing graph again and again, a seventh of the time.

    What stays uncollected meanwhile was 45 MB for SmolLM2-135M's shape.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def traced(
    model: PreTrainedModel,
    step: torch.nn.Module,
    inputs: tuple[Any, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: tuple[Any, ...],
) -> ir.Model:
    """Trace a step of a model into a graph.

    Args:
        model: the model, for an error to name.
        step: what is traced; it holds the model.
        inputs: what the step is called with.
        input_names: the names of its inputs' tensors, in their order.
        output_names: those of its outputs'.
        dynamic_shapes: the names of the axes that may have any size, built as the inputs are.
    Raises:
        ExportError: the model's code cannot be followed; the text has the first cause.
    """
    try:
        program = torch.onnx.export(
            step.eval(),
            inputs,
            dynamo=True,
            input_names=[*input_names],
            output_names=[*output_names],
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    except Exception as error:
        cause = _root_cause(error)
        raise ExportError(
            f"{type(model).__name__} cannot be traced into a graph: {type(cause).__name__}: {cause}"
        ) from error
    assert program is not None
    graph: ir.Model = program.model
    graph.ir_version = _IR_VERSION
    read = [value for node in graph.graph for value in node.inputs if value is not None]
    # A tied weight's second name is no initializer any more; the list of inputs, where all weights once
    # were, still counts it.
    counted = getattr(graph.graph.inputs, "_ref_counter", ())
    graph.meta[_TRACED] = [*graph.graph.initializers.values(), *read, *counted]
    return graph


def watch(graph: ir.Model) -> None:
    """Let `let_go` free the weights that are in a graph now, too, though a fusion may drop them."""
    graph.meta.setdefault(_TRACED, []).extend(graph.graph.initializers.values())


def let_go(graph: ir.Model) -> None:
    """Let a graph that has been written hold its model's weights no longer; it cannot be used again.

    onnxscript's rewrite rules, which live as long as the process, remember the last graph and node that
    they saw, and with them the whole model that was traced (onnxscript 0.7).
    """
    for value in (*graph.meta.pop(_TRACED, ()), *graph.graph.initializers.values()):
        value.const_value = None


def _root_cause(error: BaseException) -> BaseException:
    """Return the first error of a chain, which names the cause; torch wraps it in its own report."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
