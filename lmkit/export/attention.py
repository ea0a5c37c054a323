"""How a model's attention becomes one ONNX operator.

transformers lets a caller replace the attention function and the mask function of most models. Here both
are replaced twice: once to `probe` a model, which runs it for real on six tokens and writes down what each
layer asks of its attention, and once inside a trace, where `FusedAttention` emits
`com.microsoft::GroupQueryAttention` with the past keys and values beside the new ones. The probe decides
whether that operator can express the model at all; `lmkit.export.graph` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from attrs import frozen
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Cache,
    PretrainedConfig,
    PreTrainedModel,
)

from lmkit.errors import ExportError

IMPLEMENTATION = "lmkit_gqa"
# Tensors that models pass along to every attention function and that do not enter the scores.
_HARMLESS = frozenset({"position_ids", "cache_position", "s_aux"})
# Tried with onnxruntime 1.31: GroupQueryAttention runs on heads of 8, 16, 24 and so on, and on no
# other size. (With rotary positions of its own it asks for 16; our graphs rotate outside of it.)
_HEAD_SIZE_STEP = 8
_WINDOW_PROBE = 64  # positions of the largest mask that a probe draws, to recognise its pattern


@frozen(kw_only=True)
class AttentionLayer:
    """What one layer asks of its attention.

    Attributes:
        heads: query heads.
        kv_heads: key and value heads, a divisor of `heads`.
        head_size: numbers in one head, the same for queries, keys and values.
        scale: factor of the scores.
        window: how many positions a token sees, itself included; None sees all before it.
        softcap: c in c * tanh(score / c); 0 leaves the scores alone.
    """

    heads: int
    kv_heads: int
    head_size: int
    scale: float
    window: int | None
    softcap: float


def odd_heads(head_size: int) -> str:
    """Return what speaks against heads of a size, as the rest of a sentence, or nothing."""
    if head_size % _HEAD_SIZE_STEP == 0:
        return ""
    return (
        f"has heads of {head_size} numbers, and onnxruntime's attention reads multiples of "
        f"{_HEAD_SIZE_STEP}"
    )


class Attender(Protocol):
    """What stands in for a model's attention and mask functions."""

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Return float [B, S, H, D] from queries [B, H, S, D] and new keys and values [B, KV, S, D]."""
        ...

    def mask(self, mask_function: Callable[..., torch.Tensor], window: int | None) -> Any:
        """Return what the model then hands to each attention call as its mask."""
        ...


_active: ContextVar[Attender] = ContextVar("lmkit_attender")


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    return _active.get().attend(module, query, key, value, attention_mask, options), None


def _mask(
    *, mask_function: Callable[..., torch.Tensor], local_size: int | None = None, **_: Any
) -> Any:
    return _active.get().mask(mask_function, local_size)


@contextmanager
def attention_through(model: PreTrainedModel, attender: Attender) -> Iterator[None]:
    """Let `attender` do the model's attention, and put the model's own back afterwards."""
    AttentionInterface.register(IMPLEMENTATION, _attend)
    AttentionMaskInterface.register(IMPLEMENTATION, _mask)
    # Sub-models and attention modules may hold configs of their own, and all of them are asked.
    found = [getattr(module, "config", None) for module in model.modules()]
    configs = {id(config): config for config in found if isinstance(config, PretrainedConfig)}
    saved = [(config, config._attn_implementation_internal) for config in configs.values()]
    token = _active.set(attender)
    try:
        for config, _ in saved:
            config._attn_implementation_internal = IMPLEMENTATION
        yield
    finally:
        _active.reset(token)
        for config, implementation in saved:
            config._attn_implementation_internal = implementation


class HandingCache(Cache):  # type: ignore[misc]
    """A cache whose `update` keeps nothing and hands the new keys and values straight back.

    The past stays with the operator, which reads and extends it in its own buffer. Every layer is of
    full length here, sliding ones too: the operator skips what is outside the window.

    Args:
        seen: tokens before this step, which may be symbolic in a trace.
    """

    def __init__(self, seen: int | torch.SymInt) -> None:
        super().__init__(layers=[])
        self.seen = seen
        self._handed: tuple[int, torch.Tensor, torch.Tensor] | None = None

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Remember whose keys and values [B, KV, S, D] these are and return them."""
        self._handed = (layer_idx, key_states, value_states)
        return key_states, value_states

    def taken(self, key: torch.Tensor, value: torch.Tensor) -> int | None:
        """Return the layer that `key` and `value` were handed to, once; None if they are others."""
        handed, self._handed = self._handed, None
        if handed is None or handed[1] is not key or handed[2] is not value:
            return None
        return handed[0]

    def get_seq_length(self, layer_idx: int = 0) -> int | torch.SymInt:
        """Return how many tokens came before this step."""
        return self.seen


class FusedAttention:
    """Emits one GroupQueryAttention for each layer of a trace and collects the presents.

    Args:
        layers: what `probe` found.
        cache: the cache that the model updates in this trace.
        past: float [B, KV, P, D] key and value of every layer; P is the buffer's capacity.
        attention_mask: int64 [B, T], ones where a row has a token, all of them at its start.
    """

    def __init__(
        self,
        layers: Sequence[AttentionLayer],
        cache: HandingCache,
        past: Sequence[tuple[torch.Tensor, torch.Tensor]],
        attention_mask: torch.Tensor,
    ) -> None:
        self._layers = layers
        self._cache = cache
        self._past = past
        self.presents: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        # The operator wants the index of each row's last token and the longest row's length.
        self._last = (attention_mask.sum(1) - 1).to(torch.int32)
        length = torch.onnx.ops.symbolic(
            "Shape", (attention_mask,), {"start": 1, "end": 2}, dtype=torch.int64, shape=(1,)
        )
        self._total = length.to(torch.int32)

    def mask(self, mask_function: Callable[..., torch.Tensor], window: int | None) -> None:
        """Return nothing: the operator knows causality, windows and lengths itself."""

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        """Return float [B, S, H, D] from queries [B, H, S, D] and new keys and values [B, KV, S, D]."""
        index = self._cache.taken(key, value)
        if index is None:
            raise ExportError("an attention took other keys than in the probe")
        layer = self._layers[index]
        batch, _, new, _ = query.shape
        inputs = [_merge_heads(x) for x in (query, key, value)] + [*self._past[index]]
        inputs += [self._last, self._total]
        sinks = options.get("s_aux")
        if sinks is not None:
            # cos, sin, position_ids and attention_bias come before head_sink and are not used here
            inputs += [None, None, None, None, sinks.to(query.dtype)]
        shape = self._past[index][0].shape
        output, present_key, present_value = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            inputs,
            _attributes(layer),
            dtypes=(query.dtype, key.dtype, value.dtype),
            shapes=((batch, new, layer.heads * layer.head_size), shape, shape),
            version=1,
        )
        self.presents[index] = (present_key, present_value)
        return output.view(batch, new, layer.heads, layer.head_size)


def _merge_heads(states: torch.Tensor) -> torch.Tensor:
    """Turn [B, H, S, D] into [B, S, H * D]."""
    return states.transpose(1, 2).flatten(2)


def _attributes(layer: AttentionLayer) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "num_heads": layer.heads,
        "kv_num_heads": layer.kv_heads,
        "scale": layer.scale,
    }
    if layer.window is not None:
        attributes["local_window_size"] = layer.window
    if layer.softcap:
        attributes["softcap"] = layer.softcap
    return attributes


def probe(model: PreTrainedModel) -> tuple[AttentionLayer, ...]:
    """Run the model on two rows of three tokens and return what each layer asks of its attention.

    Raises:
        ExportError: a layer's attention is more than GroupQueryAttention can express; the message is
            the second half of a sentence that starts with the architecture's name.
    """
    attender = _Probe()
    device = model.device
    positions = torch.arange(3, device=device).expand(2, 3)
    with attention_through(model, attender), torch.no_grad():
        model(
            input_ids=positions % model.config.get_text_config().vocab_size,
            attention_mask=torch.ones_like(positions),
            position_ids=positions,
            past_key_values=attender.cache,
            use_cache=True,
        )
    layers = attender.layers
    if sorted(layers) != list(range(model.config.get_text_config().num_hidden_layers)):
        raise ExportError("has layers that keep no keys and values of their own")
    return tuple(layers[index] for index in sorted(layers))


class _Probe:
    """Answers attention with zeros and writes down the questions."""

    def __init__(self) -> None:
        self.cache = HandingCache(seen=0)
        self.layers: dict[int, AttentionLayer] = {}
        # The masks stay alive here, so that an id names one mask.
        self._windows: dict[int, tuple[torch.Tensor, int | None]] = {}

    def mask(self, mask_function: Callable[..., torch.Tensor], window: int | None) -> torch.Tensor:
        """Return a mask that `attend` recognises, if the pattern is causal, windowed or not."""
        rows = torch.arange(_WINDOW_PROBE)[:, None] + (window or 0)
        columns = torch.arange(_WINDOW_PROBE + (window or 0))[None, :]
        expected = columns <= rows
        if window is not None:
            expected &= columns > rows - window
        zero = torch.tensor(0)
        try:
            drawn = mask_function(zero, zero, rows, columns).expand_as(expected)
        except (IndexError, RuntimeError) as error:  # it looks positions up in a tensor of its own
            raise ExportError("masks its attention by more than position") from error
        if not torch.equal(drawn, expected):
            raise ExportError("has an attention mask that is neither causal nor a sliding window")
        marker = torch.zeros(())
        self._windows[id(marker)] = (marker, window)
        return marker

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
        index = self.cache.taken(key, value)
        if index is None or index in self.layers:
            raise ExportError("attends to keys and values that its cache does not hold")
        self._refuse_options(module, options)
        heads, kv_heads, head_size = query.shape[1], key.shape[1], query.shape[3]
        if {key.shape[3], value.shape[3]} != {head_size} or heads % kv_heads:
            raise ExportError("has queries, keys and values whose heads differ in size")
        if mask is not None and id(mask) not in self._windows:
            raise ExportError("changes its attention mask on the way to the attention")
        window = options.get("sliding_window") if mask is None else self._windows[id(mask)][1]
        self.layers[index] = AttentionLayer(
            heads=heads,
            kv_heads=kv_heads,
            head_size=head_size,
            scale=float(options.get("scaling") or head_size**-0.5),
            window=window,
            softcap=float(options.get("softcap") or 0.0),
        )
        return query.new_zeros(query.shape[0], query.shape[2], heads, head_size)

    @staticmethod
    def _refuse_options(module: torch.nn.Module, options: dict[str, Any]) -> None:
        causal = options.get("is_causal")
        if not (getattr(module, "is_causal", True) if causal is None else causal):
            raise ExportError("lets tokens see the ones after them")
        tensors = {name for name, option in options.items() if isinstance(option, torch.Tensor)}
        if tensors - _HARMLESS:
            raise ExportError(
                f"gives its attention more than queries, keys and values ({sorted(tensors - _HARMLESS)[0]})"
            )
