"""What a model's products multiply, measured on a few inputs: the second moments of their rows.

Rounding a weight W [out, in] to V changes a product by (W - V) x. Over inputs x its mean square is
tr((W - V) H (W - V)^T) with H = E[x x^T]; with H a rounding can be chosen for what the model computes and not
for the weights alone (Frantar et al. 2022, "GPTQ", arXiv:2210.17323, equation 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from lmkit.export.quantizing.weights import weights

SPAN = 1024  # inputs of a product that are measured against each other


def second_moments(
    model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, tuple[np.ndarray, ...]]:
    """Return for each weight the mean of x x^T over all x that its products multiply.

    Args:
        model: a fused graph in float32; it stays as it is.
        feeds: inputs of the graph by name, a step each. Rows of padding would be measured, too.
    Returns:
        by the weight's name, float32 [span, span] for each span of at most `SPAN` inputs, which are measured
        against those of their own span alone, so that wide products take little memory. Weights that read
        the same inputs share the arrays.
    """
    probed = model.clone()
    read: dict[str, tuple[str, ...]] = {}
    for weight in weights(probed.graph):
        sources = [node.inputs[0] for node in weight.products]
        named = [value for value in sources if value is not None and not value.is_graph_input()]
        read[weight.name] = tuple(sorted({str(value.name) for value in named}))
        for value in named:
            value.dtype = value.dtype or ir.DataType.FLOAT
            if not value.is_graph_output():
                probed.graph.outputs.append(value)
    wanted = sorted({name for names in read.values() for name in names})
    session = _session(probed)
    totals: dict[str, list[np.ndarray]] = {}
    counts = dict.fromkeys(wanted, 0)
    for feed in feeds:
        for name, found in zip(wanted, session.run(wanted, dict(feed)), strict=True):
            flat = found.reshape(-1, found.shape[-1])
            own = [
                flat[:, start : start + SPAN].T @ flat[:, start : start + SPAN]
                for start in range(0, flat.shape[1], SPAN)
            ]
            kept = totals.setdefault(name, own)
            if kept is not own:
                for total, more in zip(kept, own, strict=True):
                    total += more
            counts[name] += len(flat)
    means: dict[tuple[str, ...], tuple[np.ndarray, ...]] = {}
    for names in read.values():
        count = sum(counts[name] for name in names)
        if names not in means and count:
            spans = zip(*(totals[name] for name in names), strict=True)
            means[names] = tuple(sum(parts[1:], parts[0]) / np.float32(count) for parts in spans)
    return {weight: means[names] for weight, names in read.items() if names in means}


def _session(model: ir.Model) -> ort.InferenceSession:
    """Open a graph whose weights stay where they are in memory."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Its threads must not spin while numpy adds up what it found.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Packed copies of the weights would take as much memory again, for a few runs.
    options.add_session_config_entry("session.disable_prepacking", "1")
    names, values = [], []
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < 1024:
            continue
        names.append(name)
        values.append(ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy())))
        value.const_value = ir.ExternalTensor(
            "memory", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape), name=name
        )
    options.add_external_initializers(names, values)
    return ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
