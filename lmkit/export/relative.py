"""T5's position bias in a trace: a table of distances, where torch computes a bucket for every pair.

A bucket is a logarithm of a distance: a dozen operators over every two tokens of a source, and over every
place of the buffer in each step. From some distance on all are in the last one. So what a distance adds
to the scores is worked out once, before the trace, and the graph looks it up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel


@contextmanager
def tabled_bias(model: PreTrainedModel) -> Iterator[None]:
    """Let every attention that has buckets look distances up while a graph is traced."""
    biased = [module for module in model.modules() if hasattr(module, "relative_attention_bias")]
    for module in biased:
        module.compute_bias = DistanceTable(module).looked_up
    try:
        yield
    finally:
        for module in biased:
            del module.compute_bias


class DistanceTable:
    """What each distance between two tokens adds to their scores.

    Args:
        module: an attention of T5's that has buckets.

    Attributes:
        table: float [1, H, K].
    """

    def __init__(self, module: torch.nn.Module) -> None:
        # So far away, in either direction, everything is in one bucket; a decoder looks back only.
        self._behind = module.relative_attention_max_distance
        self._ahead = 0 if module.is_decoder else self._behind
        width = self._behind + 1 + self._ahead
        with torch.no_grad():
            self.table = module.compute_bias(1, width, past_seen_tokens=self._behind)[:, :, 0]

    def places(
        self,
        query_length: int | torch.SymInt,
        key_length: int | torch.SymInt,
        past_seen_tokens: int | torch.Tensor = 0,
    ) -> torch.Tensor:
        """Return where in the table each pair of tokens is, int64 [queries, keys].

        Args:
            query_length: how many tokens look.
            key_length: how many they look at, from the first on.
            past_seen_tokens: how many come before the first that looks, [1] if it is a tensor.
        """
        queries = torch.arange(query_length)[:, None] + past_seen_tokens
        distances = torch.arange(key_length) - queries
        return torch.clamp(distances, -self._behind, self._ahead) + self._behind

    def looked_up(
        self,
        query_length: int | torch.SymInt,
        key_length: int | torch.SymInt,
        device: torch.device | None = None,
        past_seen_tokens: int | torch.Tensor = 0,
    ) -> torch.Tensor:
        """Stand in for `compute_bias` in a trace; float [1, H, queries, keys]."""
        places = self.places(query_length, key_length, past_seen_tokens)
        return torch.onnx.ops.symbolic(
            "Gather",
            (self.table, places.to(device)),
            {"axis": 2},
            dtype=self.table.dtype,
            shape=(*self.table.shape[:2], query_length, key_length),
        )
