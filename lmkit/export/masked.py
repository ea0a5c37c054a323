"""Export a masked model: ids in, the logits of every token out, in one graph.

    input_ids        int64 [B, T]         rows padded on the right
    attention_mask   int64 [B, T]         ones where a row has a token, all at the start
    logits_mask      bool [B, T]          optional: whose logits are wanted, as many in each row
    logits           float32 [B, T, V]    or [B, K, V], those of the K that are wanted

Every layer's attention becomes one `com.microsoft::MultiHeadAttention`, which knows the rows' lengths.
Token types, where a model has them, are those of a single text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import onnx_ir as ir
import torch
from transformers import PreTrainedModel

from lmkit.answering.filling import MaskAnswerer
from lmkit.answering.logits import Logits
from lmkit.encoding import Ids, prompt_ids
from lmkit.errors import ExportError, ParityError
from lmkit.export.attention import attention_through
from lmkit.export.fusing import fuse, share_contents
from lmkit.export.fusing.keeping import keep_marked_logits
from lmkit.export.parity import (
    CLEAR_LEAD,
    ROUNDED_LEAD,
    Compared,
    clear_tokens,
    logit_difference,
)
from lmkit.export.source import Source
from lmkit.export.tracing import inference, port, quiet, traced, uncollected
from lmkit.export.writing import Save
from lmkit.saving.manifest import Manifest, MaskedGraph
from lmkit.tokenizing import Tokenizer
from lmkit.train.answering import masked_logits
from lmkit.train.lengths import context_length

GRAPH_FILE = "model.onnx"

_SEEN = 8  # tokens of the mask that is drawn to see whether all of them see each other


def check(model: PreTrainedModel) -> None:
    """Refuse a model that cannot be exported, before any work.

    The facts come from the classes and the config first, then from a real pass in which every
    layer's attention is asked what it needs.

    Raises:
        ExportError: the architecture and the reason, in one sentence.
    """
    reason = _static_reason(model) or _probed_reason(model)
    if reason:
        raise ExportError(
            f"{type(model).__name__} cannot be exported as a masked model: it {reason}"
        )


def write(part: Path, source: Source, save: Save) -> MaskedGraph:
    """Have the graph saved, and return what the runtime must know."""
    model = source.model
    with inference(model), quiet(), uncollected():
        graph = _trace(model)
        fuse(graph)
        share_contents(graph.graph)
        inputs = tuple(port(value) for value in graph.graph.inputs)
        outputs = tuple(port(value) for value in graph.graph.outputs)
        cells = ("batch_size", "sequence_length")
        found = {tensor.name: tensor.axes for tensor in (*inputs, *outputs)}
        size = outputs[0].axes[-1]
        if found != {"input_ids": cells, "attention_mask": cells, "logits": (*cells, size)}:
            raise ExportError(f"{type(model).__name__} cannot be exported: its graph has {found}")
        keep_marked_logits(graph.graph)
        save({GRAPH_FILE: graph})
    return MaskedGraph(
        file=GRAPH_FILE,
        inputs=inputs,
        outputs=outputs,
        vocab_size=int(size),
        context_length=context_length(model),
    )


@attrs.frozen(kw_only=True, eq=False)
class Reference:
    """What torch says of prompts that it reads alone and unpadded.

    Attributes:
        prompts: each int64 [P].
        logits: each float32 [P, V].
        masks: which of a prompt's tokens are mask tokens, each bool [P].
        golden: the records whose prompts were cut nowhere, by their place.
    """

    prompts: Sequence[Ids]
    logits: Sequence[Logits]
    masks: Sequence[np.ndarray]
    golden: Mapping[int, Mapping[str, Any]]


def refer(
    model: PreTrainedModel,
    manifest: Manifest,
    tokenizer: Tokenizer,
    records: Sequence[Mapping[str, Any]],
) -> Reference:
    """Ask torch.

    Args:
        model: the torch model.
        manifest: what the bundle says of the task and the lengths.
        tokenizer: the bundle's.
        records: real records, with a mask token in each; their prompts are used.
    """
    mask_id, most = tokenizer.mask_id, manifest.graph.context_length
    found = [prompt_ids(manifest.task, record, tokenizer) for record in records]
    prompts = [_short_enough(prompt, mask_id, most) for prompt in found]
    return Reference(
        prompts=prompts,
        logits=[_alone(model, prompt) for prompt in prompts],
        masks=[prompt == mask_id for prompt in prompts],
        golden={
            place: record
            for place, (record, whole) in enumerate(zip(records, found, strict=True))
            if len(whole) == len(prompts[place])
        },
    )


def compare(reference: Reference, filler: MaskAnswerer) -> Compared:
    """Compare the float32 graph's fills and logits, each prompt alone and all as one padded batch.

    Returns:
        The figures for the manifest, and the likeliest fills of each golden prompt.
    Raises:
        ParityError: a fill or a logit differs beyond rounding; the text has the figures.
    """
    differences, equal = [], []
    for place, case, ours in _read(reference, filler):
        theirs, masks = reference.logits[place], reference.masks[place]
        differences.append(logit_difference(theirs, ours, case))
        equal += (theirs[masks].argmax(axis=1) == ours[masks].argmax(axis=1)).tolist()
    figures = {
        "fills_equal": all(equal),
        "fills_compared": len(equal),
        # Logits agree, so where the likeliest token differs torch itself is undecided.
        "ties": equal.count(False),
        "max_logit_difference": max(differences),
        "prompts": len(reference.prompts),
    }
    golden = [
        _clear_fills(reference.logits[place][reference.masks[place]], CLEAR_LEAD)
        for place in reference.golden
    ]
    return figures, tuple(golden)


def agree(reference: Reference, filler: MaskAnswerer) -> Compared:
    """Measure how often a graph of rounded weights fills as torch does, as float32 does.

    Returns:
        The figures for the manifest, and the likeliest fills of each golden prompt: the graph's own.
    Raises:
        ParityError: a logit is not a number.
    """
    differences, equal = [], []
    own: dict[int, Logits] = {}
    for place, case, ours in _read(reference, filler):
        if not np.isfinite(ours).all():
            raise ParityError(f"{case}: a logit is not a number; no bundle was written")
        theirs, masks = reference.logits[place], reference.masks[place]
        differences.append(float(np.abs(ours - theirs).max()))
        equal += (theirs[masks].argmax(axis=1) == ours[masks].argmax(axis=1)).tolist()
        own.setdefault(place, ours[masks])
    figures = {
        "greedy_agreement": sum(equal) / max(1, len(equal)),
        "fills_compared": len(equal),
        "max_logit_difference": max(differences),
        "prompts": len(reference.prompts),
    }
    return figures, tuple(_clear_fills(own[place], ROUNDED_LEAD) for place in reference.golden)


def _read(reference: Reference, filler: MaskAnswerer) -> Iterator[tuple[int, str, Logits]]:
    """Yield each prompt's place, the case's name and the bundle's logits, float32 [P, V]."""
    prompts = reference.prompts
    for place, prompt in enumerate(prompts):
        ((_, logits),) = filler.logits([prompt], batch_size=1)
        yield place, "a single prompt", logits
    for place, logits in filler.logits(prompts, batch_size=len(prompts)):
        yield place, "a padded batch", logits


def _clear_fills(masked: Logits, least: float) -> tuple[int, ...]:
    """Return the likeliest fills, given the masks' logits, float32 [M, V]."""
    return clear_tokens(masked.argmax(axis=1).tolist(), masked, least)


def _static_reason(model: PreTrainedModel) -> str:
    """Return what the classes and the config say against an export, or nothing."""
    checks = (
        (model.config.is_encoder_decoder, "is an encoder-decoder"),
        (model.get_output_embeddings() is None, "has no head that predicts tokens"),
        (
            not model._supports_attention_backend,
            "computes its attention in code of its own, which cannot be replaced",
        ),
    )
    return next((reason for refused, reason in checks if refused), "")


def _probed_reason(model: PreTrainedModel) -> str:
    """Return what a pass over two rows of three tokens says against an export, or nothing."""
    ids = torch.arange(3, device=model.device).expand(2, 3)
    ids = ids % model.config.get_text_config().vocab_size
    probe = _Probe()
    try:
        with inference(model), attention_through(model, probe), torch.no_grad():
            model(**_inputs(model, ids, torch.ones_like(ids)))
    except ExportError as error:
        return str(error)
    return "" if probe.n_layers else "attends through no function that could be replaced"


class _Probe:
    """Answers attention with zeros and refuses what the operator cannot do."""

    def __init__(self) -> None:
        self.n_layers = 0

    def mask(self, mask_function: Callable[..., torch.Tensor], window: int | None) -> None:
        """Refuse a mask in which a token does not see all others."""
        zero, places = torch.tensor(0), torch.arange(_SEEN)
        if window is not None or not bool(
            torch.as_tensor(mask_function(zero, zero, places[:, None], places[None, :])).all()
        ):
            raise ExportError("does not let every token see all others")

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Note the layer and return zeros [B, S, H, D]."""
        causal = options.get("is_causal")
        if getattr(module, "is_causal", False) if causal is None else causal:
            raise ExportError("hides from tokens the ones after them")
        if mask is not None or any(isinstance(x, torch.Tensor) for x in options.values()):
            raise ExportError("gives its attention more than queries, keys and values")
        if query.shape != key.shape or options.get("softcap"):
            raise ExportError("has an attention of another kind than multi-head attention")
        self.n_layers += 1
        return query.new_zeros(*query.shape[:1], query.shape[2], query.shape[1], value.shape[3])


class _Attention:
    """Emits one MultiHeadAttention for each layer of a trace.

    Args:
        attention_mask: int64 [B, T], ones where a row has a token.
    """

    def __init__(self, attention_mask: torch.Tensor) -> None:
        self._mask = attention_mask.to(torch.int32)

    def mask(self, mask_function: Callable[..., torch.Tensor], window: int | None) -> None:
        """Return nothing: the operator is given the rows' own mask."""

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
        flat = [states.transpose(1, 2).flatten(2) for states in (query, key, value)]
        found = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            [*flat, None, self._mask],
            {"num_heads": heads, "scale": float(options.get("scaling") or head_size**-0.5)},
            dtype=query.dtype,
            shape=(batch, length, heads * value.shape[3]),
            version=1,
        )
        return found.view(batch, length, heads, value.shape[3])


class _Pass(torch.nn.Module):  # type: ignore[misc]
    """The model as the graph sees it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        with attention_through(self.model, _Attention(attention_mask)):
            return self.model(**_inputs(self.model, input_ids, attention_mask)).logits


def _inputs(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return what the model is called with; the types of a single text are zeros."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        inputs["token_type_ids"] = torch.zeros_like(input_ids)
    return inputs


def _trace(model: PreTrainedModel) -> ir.Model:
    """Trace one pass over two rows of unequal length."""
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]], device=model.device)
    ids = torch.arange(14, device=model.device).view(2, 7)
    axes = {0: "batch_size", 1: "sequence_length"}
    return traced(
        model,
        _Pass(model),
        (ids % model.config.get_text_config().vocab_size, mask),
        ["input_ids", "attention_mask"],
        ["logits"],
        (axes, axes),
    )


def _short_enough(prompt: Ids, mask_id: int | None, most: int | None) -> Ids:
    """Return a prompt, cut to what the model can hold around its first mask token."""
    if most is None or len(prompt) <= most:
        return prompt
    first = int(np.flatnonzero(prompt == mask_id)[0])
    start = max(0, min(first - most // 2, len(prompt) - most))
    return prompt[start : start + most]


def _alone(model: PreTrainedModel, prompt: Ids) -> Logits:
    """Return torch's logits for one prompt, float32 [T, V]."""
    with inference(model):
        logits: Logits = masked_logits(model, prompt[None], np.ones_like(prompt)[None])[0]
    return logits
