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

from pathlib import Path

import onnx_ir as ir
import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from lmkit.errors import ExportError
from lmkit.export.attention import attention_through, odd_heads
from lmkit.export.cross_attention import KeyValues, ReadingAttention, StepAttention
from lmkit.export.fusing import fuse
from lmkit.export.parity import agree, compare
from lmkit.export.reference import refer
from lmkit.export.relative import tabled_bias
from lmkit.export.source import Source
from lmkit.export.tracing import inference, port, quiet, traced, uncollected
from lmkit.export.writing import Save
from lmkit.saving.manifest import Ports, Seq2SeqGraph
from lmkit.train.heads import PAIR
from lmkit.train.lengths import context_length, target_length
from lmkit.train.special import start_id

__all__ = ["agree", "check", "compare", "refer", "write"]

ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"
SUPPORTED = ("t5", "mt5", "bart", "mbart", "marian", "pegasus")


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
    if config.model_type in ("t5", "mt5") and _n_layers(model) > config.num_layers:
        # transformers 5.23 makes T5's cache as deep as the encoder; delete this when it does not.
        return (
            f"has {_n_layers(model)} layers in its decoder and {config.num_layers} in its encoder, "
            "and transformers' generate() fails where a T5's decoder is the deeper one"
        )
    return odd_heads(_head_size(model))


def _head_size(model: PreTrainedModel) -> int:
    config = model.config.decoder if model.config.model_type == PAIR else model.config
    found = getattr(config, "d_kv", None)
    if found is not None:
        return int(found)
    heads = getattr(config, "decoder_attention_heads", config.num_attention_heads)
    return int(config.hidden_size // heads)


def write(part: Path, source: Source, save: Save) -> Seq2SeqGraph:
    """Have both graphs saved, and return what the runtime must know."""
    model = source.model
    with inference(model), quiet(), uncollected(), tabled_bias(model):
        encoder, n_layers = _trace_encoder(model)
        shape = encoder.graph.outputs[0].shape
        assert shape is not None
        n_heads, head_size = int(shape[1]), int(shape[3])
        decoder = _trace_decoder(model, n_layers, n_heads, head_size)
        for graph in (encoder, decoder):
            fuse(graph)
        save({ENCODER_FILE: encoder, DECODER_FILE: decoder})
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
        with attention_through(self.model, ReadingAttention(self.model, attention_mask)):
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
        attender = StepAttention(
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


def _trace_encoder(model: PreTrainedModel) -> tuple[ir.Model, int]:
    """Trace two sources of unequal length; return the graph and the number of decoder layers."""
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], device=model.device)
    ids = torch.tensor([[2, 3, 4, 0, 0], [4, 5, 6, 7, 8]], device=model.device)
    n_layers = _n_layers(model)
    axes = {0: "source_batch_size", 1: "source_length"}
    names = [f"cross_key_values.{name}" for name in _key_value_names(n_layers)]
    graph = traced(
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
    return traced(
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
