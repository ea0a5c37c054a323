"""Attention in an encoder-decoder's two traces: operators of onnxruntime's, and who keeps what.

Each class here stands in for a model's attention, and for its cache, while `lmkit.export.seq2seq`
traces the graph that it is named after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from transformers import Cache, EncoderDecoderCache, PreTrainedModel

from lmkit.errors import ExportError

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]

# The score of what must not be seen: less than any, as transformers has it.
HIDDEN = torch.finfo(torch.float32).min


class ReadingAttention:
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


class StepAttention:
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
