"""A causal model becomes one ONNX graph for prefill and decode.

In comes a transformers model whose attention can be replaced; out go `model.onnx` and `model.onnx.data`
and a `GraphContract` that says what the runtime may rely on. The names are those of ONNX Runtime GenAI,
transformers.js and optimum:

    input_ids        int64 [B, S]         new tokens, rows padded on the right
    attention_mask   int64 [B, T]         ones where a row has a token, all at the start; T = longest row
    position_ids     int64 [B, S]         0, 1, ... in each row, its past counted; declared even where
                                          the graph takes them from attention_mask
    past_key_values.N.key / .value        float32 [B, KV, P, D]
    num_logits_to_keep   int64 [1]        may be left out: of how many last positions logits are wanted;
                                          0, the default, stands for all, and so does any n >= S
    logits           float32 [B, K, V]    K = S, or that number where it is smaller
    present.N.key / .value                float32 [B, KV, max(P, T), D]

`num_logits_to_keep` is an initializer with an input's name: onnxruntime lists it in
`get_overridable_initializers()` and not among the inputs, so that callers who do not know it, as GenAI's,
get every position's logits. A row that ends in padding ends in the padding's logits.

A runtime binds one buffer of P >= T as both past and present, so that nothing is copied as it grows.
Where S = T the past is not read (a prefill); where S = 1 any batch may be ragged (a decode); in between
(a chunk of a long prompt) B must be 1, which is the operator's rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import torch
from attrs import frozen
from transformers import PreTrainedModel

from lmkit.errors import ExportError
from lmkit.export.attention import (
    AttentionLayer,
    FusedAttention,
    HandingCache,
    attention_through,
    odd_heads,
    probe,
)
from lmkit.export.external import save_together
from lmkit.export.fusing import finish_causal, fuse
from lmkit.export.fusing.keeping import AXIS, INPUT
from lmkit.export.stamping import TRACED, cut_down, stack_of, stamp
from lmkit.export.tracing import OPSET, inference, port, quiet, traced, uncollected
from lmkit.saving.manifest import Tensor


@frozen(kw_only=True)
class GraphContract:
    """What the runtime must know of the graph.

    Attributes:
        inputs: those that must be given, in the graph's order; the past's keys and values come last,
            by layer.
        outputs: logits first, then the present's keys and values by layer.
        n_layers: layers that hold keys and values.
        heads: query heads of each layer.
        kv_heads: key and value heads of each layer.
        head_size: numbers in one head.
        cache_dtype: of the keys and values.
        hidden_size: width of the model.
        vocab_size: last axis of the logits.
        context_length: the most tokens the model was made for; None where it names no limit.
        opset: version of ONNX's own operators.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    n_layers: int
    heads: int
    kv_heads: int
    head_size: int
    cache_dtype: str
    hidden_size: int
    vocab_size: int
    context_length: int | None
    opset: int


def check_exportable(model: PreTrainedModel) -> None:
    """Refuse a model that cannot become one fused causal graph, before any work.

    The facts come from the classes and the config first, then from one real step over six tokens in
    which every layer's attention is asked what it needs (`lmkit.export.attention.probe`).

    Raises:
        ExportError: the architecture and the reason, in one sentence.
    """
    _layers(model)


def _layers(model: PreTrainedModel) -> tuple[AttentionLayer, ...]:
    architecture = type(model).__name__
    reason = _static_reason(model)
    if reason:
        raise ExportError(f"{architecture} cannot be exported as a causal model: it {reason}")
    try:
        with inference(model):
            layers = probe(model)
    except ExportError as error:
        raise ExportError(
            f"{architecture} cannot be exported as a causal model: it {error}"
        ) from error
    except Exception as error:
        raise ExportError(
            f"{architecture} cannot be exported as a causal model: it does not run on a cache "
            f"of keys and values alone ({type(error).__name__}: {error})"
        ) from error
    if len({(layer.heads, layer.kv_heads, layer.head_size) for layer in layers}) != 1:
        raise ExportError(
            f"{architecture} cannot be exported as a causal model: its layers differ in the number "
            "or size of their heads, and runtimes expect one shape"
        )
    if reason := odd_heads(layers[0].head_size):
        raise ExportError(f"{architecture} cannot be exported as a causal model: it {reason}")
    return layers


def _static_reason(model: PreTrainedModel) -> str:
    """Return what the classes and the config say against an export, or nothing."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {
        "full_attention",
        "sliding_attention",
    }
    ropes = _rope_types(getattr(config, "rope_parameters", None)) & {"dynamic", "longrope"}
    checks = (
        (model.config.is_encoder_decoder, "is an encoder-decoder"),
        (model.get_output_embeddings() is None, "has no head that predicts the next token"),
        (getattr(model, "_is_stateful", False), "keeps a state other than keys and values"),
        (
            kinds,
            "has layers of another kind than attention over all or recent tokens "
            f"({_listed(kinds)})",
        ),
        (
            not model._supports_attention_backend,
            "computes its attention in code of its own, which cannot be replaced",
        ),
        (
            not getattr(config, "is_causal", True)
            or getattr(config, "use_bidirectional_attention", None) in (True, "all"),
            "lets tokens see the ones after them",
        ),
        (
            # transformers sets this on every module that sends each token to some of its experts
            any(hasattr(module, "_is_expert_parallel") for module in model.modules()),
            "sends each token to some of its experts only, and the graph would have to run all",
        ),
        (ropes, f"rescales its positions with the text's length (rope type {_listed(ropes)})"),
    )
    return next((reason for refused, reason in checks if refused), "")


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _rope_types(parameters: object) -> set[str]:
    """Return the rope types in a config's parameters, which may be nested by layer type."""
    if not isinstance(parameters, dict):
        return set()
    nested = [_rope_types(value) for value in parameters.values()]
    own = parameters.get("rope_type")
    return set().union(*nested) | ({own} if isinstance(own, str) else set())


@contextmanager
def traced_causal(model: PreTrainedModel) -> Iterator[tuple[ir.Model, GraphContract]]:
    """Give the model as a fused graph, whose weights are the model's memory until this ends.

    Args:
        model: a causal model; it is as it was when this ends. Other dtypes than float32 are widened,
            because the CPU's operators compute in float32.
    Raises:
        ExportError: the model is refused, cannot be traced, or lost an input in the trace.
    """
    layers = _layers(model)
    with inference(model), quiet(), uncollected():
        graph = _fused(model, layers)
        finish_causal(graph, _context_length(model))
        yield graph, _contract(model, layers, graph)


def export_causal(model: PreTrainedModel, path: Path) -> GraphContract:
    """Write `model` to `path` with its weights beside it, in `path` + ".data".

    Args:
        model: a causal model; see `traced_causal`.
        path: the graph's file; its folder exists.
    Returns:
        what a runtime may rely on.
    Raises:
        ExportError: the model is refused, cannot be traced, or lost an input in the trace.
    """
    with traced_causal(model) as (graph, contract):
        save_together({path: graph}, f"{path.name}.data")
    return contract


class _Step(torch.nn.Module):  # type: ignore[misc]
    """The model as the graph sees it: flat tensors in, logits and presents out."""

    def __init__(self, model: PreTrainedModel, layers: tuple[AttentionLayer, ...]) -> None:
        super().__init__()
        self.model = model
        self._layers = layers

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        cache = HandingCache(seen=attention_mask.shape[1] - input_ids.shape[1])
        attender = FusedAttention(self._layers, cache, past_key_values, attention_mask)
        with attention_through(self.model, attender):
            logits = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            ).logits
        return logits, [attender.presents[index] for index in range(len(self._layers))]


def _fused(model: PreTrainedModel, layers: tuple[AttentionLayer, ...]) -> ir.Model:
    """Trace and fuse a model, of many layers that are alike only the first few."""
    stack = stack_of(model, len(layers)) if len(set(layers)) == 1 else None
    if stack is not None:
        with cut_down(model, stack):
            graph = _trace(model, layers[:TRACED])
        fuse(graph, pack=False)
        if stamp(graph.graph, model, stack, len(layers)):
            return graph
    graph = _trace(model, layers)
    fuse(graph, pack=False)
    return graph


def _trace(model: PreTrainedModel, layers: tuple[AttentionLayer, ...]) -> ir.Model:
    """Trace one step over two rows of unequal length that already have a past."""
    past_names = [f"{index}.{part}" for index in range(len(layers)) for part in ("key", "value")]
    new = {0: "batch_size", 1: "sequence_length"}
    past = {0: "batch_size", 2: "past_sequence_length"}
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]], device=model.device)
    position_ids = torch.tensor([[2, 3, 4], [4, 5, 6]], device=model.device)
    capacity = 11  # unlike any other size here, so that no axis is taken for another one
    caches = [
        tuple(
            torch.zeros(2, layer.kv_heads, capacity, layer.head_size, device=model.device)
            for _ in ("key", "value")
        )
        for layer in layers
    ]
    return traced(
        model,
        _Step(model, layers),
        (position_ids % model.config.get_text_config().vocab_size, mask, position_ids, caches),
        [
            "input_ids",
            "attention_mask",
            "position_ids",
            *(f"past_key_values.{name}" for name in past_names),
        ],
        ["logits", *(f"present.{name}" for name in past_names)],
        (
            new,
            {0: "batch_size", 1: "total_sequence_length"},
            new,
            [(past, past)] * len(layers),
        ),
    )


def _context_length(model: PreTrainedModel) -> int | None:
    """Return the most tokens the model was made for, or None."""
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def _contract(
    model: PreTrainedModel, layers: tuple[AttentionLayer, ...], graph: ir.Model
) -> GraphContract:
    """Read the graph's ports, and refuse a graph whose axes a caller could not choose."""
    first = layers[0]
    config = model.config.get_text_config()
    for value in graph.graph.outputs[1:]:
        # The operator returns a longer buffer than it got where the past is not the present's buffer.
        assert value.shape is not None
        value.shape = ir.Shape(
            [value.shape[0], value.shape[1], "present_sequence_length", value.shape[3]]
        )
    inputs = tuple(port(value) for value in graph.graph.inputs if value.name != INPUT)
    outputs = tuple(port(value) for value in graph.graph.outputs)
    names = [f"{index}.{part}" for index in range(len(layers)) for part in ("key", "value")]
    new = ("batch_size", "sequence_length")
    kept = ("batch_size", first.kv_heads)
    wanted = {
        "input_ids": new,
        "attention_mask": ("batch_size", "total_sequence_length"),
        "position_ids": new,
        **{f"past_key_values.{n}": (*kept, "past_sequence_length", first.head_size) for n in names},
        "logits": ("batch_size", AXIS, outputs[0].axes[-1]),
        **{f"present.{n}": (*kept, "present_sequence_length", first.head_size) for n in names},
    }
    found = {port.name: port.axes for port in (*inputs, *outputs)}
    if found != wanted:
        lost = next(name for name in (*wanted, *found) if found.get(name) != wanted.get(name))
        raise ExportError(
            f"{type(model).__name__} cannot be exported: in its graph '{lost}' is "
            f"{found.get(lost, 'missing')} where {wanted.get(lost, 'nothing')} was expected"
        )
    return GraphContract(
        inputs=inputs,
        outputs=outputs,
        n_layers=len(layers),
        heads=first.heads,
        kv_heads=first.kv_heads,
        head_size=first.head_size,
        cache_dtype="float32",
        hidden_size=config.hidden_size,
        vocab_size=int(outputs[0].axes[-1]),
        context_length=_context_length(model),
        opset=OPSET,
    )
