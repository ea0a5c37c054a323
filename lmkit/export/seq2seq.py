"""Export an encoder-decoder: one graph that reads a source, one that writes a token a step.

The encoder's graph ends in every decoder layer's keys and values of the source, so that a step of the
decoder's has only its own token to compute. Both read their weights from one file, in which a tensor
that both need (a shared embedding) lies once.

encoder.onnx:
    input_ids, attention_mask               int64 [G, S]         sources, rows padded on the right
    cross_key_values.N.key / .value         float32 [G, H, S, D]

decoder.onnx:
    input_ids                               int64 [B, 1]         one new token a row
    encoder_attention_mask                  int64 [G, S]
    position                                int64 [1]            how many tokens came before, in every row
    past_key_values.N.key / .value          float32 [B, H, P, D]
    cross_key_values.N.key / .value         float32 [G, H, S, D]
    logits                                  float32 [B, 1, V]
    present.N.key / .value                  float32 [B, H, P, D]

A runtime binds one buffer of P >= position + 1 as both past and present. Each source may have several
rows, all as many and next to each other: B is a multiple of G, so the beams of a source share its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import torch
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from lmkit.errors import ExportError
from lmkit.export.attention import attention_through
from lmkit.export.external import save_together
from lmkit.export.fusing import fuse
from lmkit.export.parity import check_parity as compare
from lmkit.export.source import Source
from lmkit.export.tracing import IR_VERSION, OPSET, inference, port, quiet, root_cause, uncollected
from lmkit.manifest import Ports, Seq2SeqGraph
from lmkit.train.heads import PAIR
from lmkit.train.lengths import context_length, target_length
from lmkit.train.special import start_id

__all__ = ["check", "compare", "write"]

ENCODER_FILE, DECODER_FILE, DATA_FILE = "encoder.onnx", "decoder.onnx", "model.onnx.data"
SUPPORTED = ("t5", "mt5", "bart", "mbart", "marian", "pegasus")
# The score of what must not be seen: less than any, as transformers has it.
HIDDEN = torch.finfo(torch.float32).min

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]


def check(model: PreTrainedModel) -> None:
    """Refuse a model that cannot be exported, before any work.

    Raises:
        ExportError: the architecture and the reason, in one sentence.
    """
    reason = _reason(model)
    if reason:
        raise ExportError(
            f"{type(model).__name__} cannot be exported as a seq2seq model: it {reason}"
        )


def _reason(model: PreTrainedModel) -> str:
    """Return what speaks against an export, as the rest of a sentence, or nothing."""
    config = model.config
    if not config.is_encoder_decoder:
        return "has no encoder and decoder"
    if config.model_type == PAIR:
        kinds = {config.encoder.model_type, config.decoder.model_type}
        if kinds != {"bert"}:
            others = ", ".join(sorted(kinds - {"bert"}))
            return f"pairs models of other kinds than BERT ({others})"
    elif config.model_type not in SUPPORTED:
        return f"is none of the architectures that were tried: {', '.join(SUPPORTED)}"
    if _head_size(model) % 8:
        return (
            f"has heads of {_head_size(model)} numbers, and onnxruntime's attention reads "
            "multiples of 8"
        )
    return ""


def _head_size(model: PreTrainedModel) -> int:
    config = model.config.decoder if model.config.model_type == PAIR else model.config
    found = getattr(config, "d_kv", None)
    if found is not None:
        return int(found)
    heads = getattr(config, "decoder_attention_heads", config.num_attention_heads)
    return int(config.hidden_size // heads)


def write(part: Path, source: Source) -> Seq2SeqGraph:
    """Write both graphs into a bundle that is being made, and return what the runtime must know."""
    model = source.model
    with inference(model), quiet(), uncollected():
        encoder, n_layers = _trace_encoder(model)
        shape = encoder.graph.outputs[0].shape
        assert shape is not None
        n_heads, head_size = int(shape[1]), int(shape[3])
        decoder = _trace_decoder(model, n_layers, n_heads, head_size)
        for graph in (encoder, decoder):
            fuse(graph)
            graph.ir_version = IR_VERSION
        save_together({part / ENCODER_FILE: encoder, part / DECODER_FILE: decoder}, DATA_FILE)
    start = start_id(model, source.tokenizer)
    assert start is not None  # `align` saw to it
    found = Seq2SeqGraph(
        encoder=_ports(ENCODER_FILE, encoder),
        decoder=_ports(DECODER_FILE, decoder),
        n_layers=n_layers,
        n_heads=n_heads,
        head_size=head_size,
        vocab_size=int(decoder.graph.outputs[0].shape[-1]),
        context_length=context_length(model),
        target_length=target_length(model),
        start_id=start,
    )
    _check_axes(model, found)
    return found


class _Encoder(torch.nn.Module):  # type: ignore[misc]
    """The model as the encoder's graph sees it: a source in, the decoder's keys and values of it out."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> KeyValues:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with attention_through(self.model, _ReadingAttention(self.model, attention_mask)):
            # The decoder runs for its projections of the source alone; the rest of it is dead code.
            self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                decoder_input_ids=input_ids[:, :1],
                past_key_values=cache,
                use_cache=True,
            )
        return [(layer.keys, layer.values) for layer in cache.cross_attention_cache.layers]


class _Decoder(torch.nn.Module):  # type: ignore[misc]
    """The model as the decoder's graph sees it: one token a row, and all keys and values, in."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        position: torch.Tensor,
        past_key_values: KeyValues,
        cross_key_values: KeyValues,
    ) -> tuple[torch.Tensor, KeyValues]:
        attender = _StepAttention(
            encoder_attention_mask, position, past_key_values, cross_key_values
        )
        # A pair's decoder would cut its positions out of a table, which a trace cannot.
        pair = self.model.config.model_type == PAIR
        placed = {"decoder_position_ids": position[None]} if pair else {}
        unread = torch.zeros(1, 1, _encoder_width(self.model), device=self.model.device)
        with attention_through(self.model, attender):
            logits = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=unread),
                attention_mask=encoder_attention_mask,
                decoder_input_ids=input_ids,
                decoder_attention_mask=torch.ones_like(input_ids),
                past_key_values=attender.cache,
                use_cache=True,
                **placed,
            ).logits
        return logits, [attender.presents[index] for index in range(len(past_key_values))]


def _encoder_width(model: PreTrainedModel) -> int:
    config = model.config.encoder if model.config.model_type == PAIR else model.config
    return int(config.hidden_size)


class _ReadingAttention:
    """Attention in the encoder's trace: one operator for the encoder's, none for the decoder's."""

    def __init__(self, model: PreTrainedModel, attention_mask: torch.Tensor) -> None:
        self._dead = set(model.get_decoder().modules())
        self._mask = attention_mask.to(torch.int32)

    def mask(self, mask_function: Callable[..., torch.Tensor], window: int | None) -> None:
        """Return nothing: the operator takes the padding mask itself."""

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Return float [B, S, H, D] from queries, keys and values [B, H, S, D]."""
        batch, heads, length, head_size = query.shape
        if module in self._dead:
            return query.new_zeros(batch, length, heads, head_size)
        states = [_merge_heads(x) for x in (query, key, value)]
        found = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            [*states, None, self._mask, options.get("position_bias")],
            _attributes(heads, options, head_size),
            dtype=query.dtype,
            shape=(batch, length, heads * head_size),
            version=1,
        )
        return found.view(batch, length, heads, head_size)


class _StepAttention:
    """Attention in the decoder's trace: an operator that extends its keys, and one over the source's.

    Args:
        source_mask: int64 [G, S].
        position: int64 [1].
        past: float [B, H, P, D] keys and values of every layer.
        cross: float [G, H, S, D] keys and values of every layer.
    """

    def __init__(
        self, source_mask: torch.Tensor, position: torch.Tensor, past: KeyValues, cross: KeyValues
    ) -> None:
        self.cache = EncoderDecoderCache(_StepCache(position, past), _cross_cache(cross))
        self.cache.is_updated = dict.fromkeys(range(len(cross)), True)
        self.presents: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._past = past
        self._cross = cross
        self._mask = source_mask.to(torch.int32)
        self._last = position.to(torch.int32).expand(past[0][0].shape[0])
        self._total = _axis(past[0][0], 2).to(torch.int32)
        self._n_sources = _axis(source_mask, 0)

    def mask(self, mask_function: Callable[..., torch.Tensor], window: int | None) -> None:
        """Return nothing: the operators know lengths and padding themselves."""

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Return float [B, 1, H, D] from queries [B, H, 1, D]."""
        handed = self.cache.self_attention_cache.taken(key)
        if handed is not None:
            return self._over_own(query, handed, options)
        layer = next((kept for kept in self._cross if kept[0] is key), None)
        if layer is None:
            raise ExportError("an attention took keys that are no cache's")
        return self._over_source(query, *layer, options)

    def _over_own(
        self,
        query: torch.Tensor,
        handed: tuple[int, torch.Tensor, torch.Tensor],
        options: dict[str, Any],
    ) -> torch.Tensor:
        index, key, value = handed
        batch, heads, _, head_size = query.shape
        bias = options.get("position_bias")
        inputs = [_merge_heads(x) for x in (query, key, value)] + [*self._past[index]]
        inputs += [self._last, self._total]
        if bias is not None:  # cos, sin and position_ids come before it
            inputs += [None, None, None, bias]
        kept = self._past[index][0].shape
        output, *present = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            inputs,
            {
                "num_heads": heads,
                "kv_num_heads": heads,
                "scale": _scale(options, head_size),
            },
            dtypes=(query.dtype, key.dtype, value.dtype),
            shapes=((batch, 1, heads * head_size), kept, kept),
            version=1,
        )
        self.presents[index] = (present[0], present[1])
        return output.view(batch, 1, heads, head_size)

    def _over_source(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        """Attend to a source; its rows are so many queries of it, so its keys are never repeated.

        T5 passes a position bias here too, which is nothing but zeros in cross-attention.
        """
        batch, heads, _, head_size = query.shape
        sources, width = key.shape[0], heads * head_size
        sizes = torch.tensor([-1, width], device=query.device)
        grouped = _reshaped(
            _merge_heads(query),
            torch.cat([self._n_sources, sizes]),
            (sources, batch // sources, width),
        )
        found = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            [grouped, key, value, None, self._mask],
            _attributes(heads, options, head_size),
            dtype=query.dtype,
            shape=(sources, batch // sources, width),
            version=1,
        )
        rows = torch.tensor([-1, 1, width], device=query.device)
        return _reshaped(found, rows, (batch, 1, width)).view(batch, 1, heads, head_size)


class _StepCache(Cache):  # type: ignore[misc]
    """A cache that keeps nothing: it hands new keys on, and says how many came before.

    The keys are shown as long as the buffer is, because T5 makes its position bias of their length.
    """

    def __init__(self, position: torch.Tensor, past: KeyValues) -> None:
        super().__init__(layers=[])
        self._position = position
        self._capacity = past[0][0].shape[2]
        self._handed: tuple[torch.Tensor, int, torch.Tensor, torch.Tensor] | None = None

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Remember whose keys and values [B, H, 1, D] these are, and show them [B, H, P, D]."""
        shown = key_states.expand(-1, -1, self._capacity, -1)
        self._handed = (shown, layer_idx, key_states, value_states)
        return shown, value_states

    def taken(self, key: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor] | None:
        """Return the layer, keys and values behind a shown key, once; None if it is another."""
        handed, self._handed = self._handed, None
        return handed[1:] if handed is not None and handed[0] is key else None

    def get_seq_length(self, layer_idx: int = 0) -> torch.Tensor:
        """Return how many tokens came before this step, int64 [1]."""
        return self._position


def _cross_cache(cross: KeyValues) -> Cache:
    """Return a cache whose layers have the source's keys and values already."""
    cache = Cache(layers=[])
    cache.layers = [SimpleNamespace(keys=key, values=value) for key, value in cross]
    cache.get_seq_length = lambda layer_idx=0: 1
    return cache


def _merge_heads(states: torch.Tensor) -> torch.Tensor:
    """Turn [B, H, S, D] into [B, S, H * D]."""
    return states.transpose(1, 2).flatten(2)


def _axis(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the size of an axis, int64 [1]."""
    return torch.onnx.ops.symbolic(
        "Shape", (tensor,), {"start": axis, "end": axis + 1}, dtype=torch.int64, shape=(1,)
    )


def _reshaped(
    tensor: torch.Tensor, sizes: torch.Tensor, shape: Sequence[int | torch.SymInt]
) -> torch.Tensor:
    """Reshape without asking the tracer to prove that the sizes go together."""
    return torch.onnx.ops.symbolic("Reshape", (tensor, sizes), dtype=tensor.dtype, shape=shape)


def _scale(options: dict[str, Any], head_size: int) -> float:
    scaling = options.get("scaling")
    return float(head_size**-0.5 if scaling is None else scaling)


def _attributes(heads: int, options: dict[str, Any], head_size: int) -> dict[str, Any]:
    return {
        "num_heads": heads,
        "scale": _scale(options, head_size),
        "mask_filter_value": HIDDEN,
    }


def _trace_encoder(model: PreTrainedModel) -> tuple[ir.Model, int]:
    """Trace two sources of unequal length; return the graph and the number of decoder layers."""
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], device=model.device)
    ids = torch.tensor([[2, 3, 4, 0, 0], [4, 5, 6, 7, 8]], device=model.device)
    n_layers = _n_layers(model)
    axes = {0: "source_batch_size", 1: "source_length"}
    names = [f"cross_key_values.{name}" for name in _key_value_names(n_layers)]
    graph = _traced(
        model,
        _Encoder(model),
        (ids, mask),
        ["input_ids", "attention_mask"],
        names,
        (axes, axes),
    )
    return graph, n_layers


def _n_layers(model: PreTrainedModel) -> int:
    config = model.config.decoder if model.config.model_type == PAIR else model.config
    for name in ("num_decoder_layers", "decoder_layers"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    return int(config.num_hidden_layers)


def _trace_decoder(model: PreTrainedModel, n_layers: int, n_heads: int, head_size: int) -> ir.Model:
    """Trace one step of two rows for each of two sources, no two sizes alike by accident."""
    capacity, length = 11, 5

    def kept(rows: int, tokens: int) -> KeyValues:
        shape = (rows, n_heads, tokens, head_size)
        zeros = [torch.zeros(shape, device=model.device) for _ in range(2 * n_layers)]
        return list(zip(zeros[::2], zeros[1::2], strict=True))

    inputs = (
        torch.tensor([[2], [3], [4], [5]], device=model.device),
        torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], device=model.device),
        torch.tensor([3], device=model.device),
        kept(4, capacity),
        kept(2, length),
    )
    past = {0: "batch_size", 2: "past_sequence_length"}
    cross = {0: "source_batch_size", 2: "source_length"}
    names = _key_value_names(n_layers)
    return _traced(
        model,
        _Decoder(model),
        inputs,
        [
            "input_ids",
            "encoder_attention_mask",
            "position",
            *(f"past_key_values.{name}" for name in names),
            *(f"cross_key_values.{name}" for name in names),
        ],
        ["logits", *(f"present.{name}" for name in names)],
        (
            {0: "batch_size"},
            {0: "source_batch_size", 1: "source_length"},
            None,
            [(past, past)] * n_layers,
            [(cross, cross)] * n_layers,
        ),
    )


def _key_value_names(n_layers: int) -> list[str]:
    return [f"{layer}.{part}" for layer in range(n_layers) for part in ("key", "value")]


def _traced(
    model: PreTrainedModel,
    step: torch.nn.Module,
    inputs: tuple[Any, ...],
    input_names: list[str],
    output_names: list[str],
    dynamic_shapes: tuple[Any, ...],
) -> ir.Model:
    try:
        program = torch.onnx.export(
            step.eval(),
            inputs,
            dynamo=True,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    except Exception as error:
        cause = root_cause(error)
        raise ExportError(
            f"{type(model).__name__} cannot be traced into a graph: {type(cause).__name__}: {cause}"
        ) from error
    assert program is not None
    graph: ir.Model = program.model
    return graph


def _ports(file: str, graph: ir.Model) -> Ports:
    return Ports(
        file=file,
        inputs=tuple(port(value) for value in graph.graph.inputs),
        outputs=tuple(port(value) for value in graph.graph.outputs),
    )


def _check_axes(model: PreTrainedModel, graph: Seq2SeqGraph) -> None:
    """Refuse graphs whose axes a caller could not choose."""
    source = ("source_batch_size", "source_length")
    cross = ("source_batch_size", graph.n_heads, "source_length", graph.head_size)
    past = ("batch_size", graph.n_heads, "past_sequence_length", graph.head_size)
    names = _key_value_names(graph.n_layers)
    crosses = {f"cross_key_values.{name}": cross for name in names}
    wanted: list[tuple[Ports, dict[str, tuple[str | int, ...]]]] = [
        (graph.encoder, {"input_ids": source, "attention_mask": source, **crosses}),
        (
            graph.decoder,
            {
                "input_ids": ("batch_size", 1),
                "encoder_attention_mask": source,
                "position": (1,),
                **{f"past_key_values.{name}": past for name in names},
                **crosses,
                "logits": ("batch_size", 1, graph.vocab_size),
                **{f"present.{name}": past for name in names},
            },
        ),
    ]
    for ports, axes in wanted:
        found = {tensor.name: tensor.axes for tensor in (*ports.inputs, *ports.outputs)}
        if found != axes:
            lost = next(n for n in (*axes, *found) if found.get(n) != axes.get(n))
            raise ExportError(
                f"{type(model).__name__} cannot be exported: in {ports.file} '{lost}' is "
                f"{found.get(lost, 'missing')} where {axes.get(lost, 'nothing')} was expected"
            )
