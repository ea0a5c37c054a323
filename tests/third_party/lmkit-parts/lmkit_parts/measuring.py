"""A loss and a metric: what training and evaluation need, and answering does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from lmkit.encoding import IGNORE
from lmkit.family import Family
from lmkit.losses import token_losses
from lmkit.tokenizing import Tokenizer


@attrs.frozen(kw_only=True)
class Focal:
    """Tokens that the model is sure of count less: (1 - p)^gamma times the usual loss."""

    gamma: float = 2.0

    families = frozenset(Family)

    def prepare(self, tokenizer: Tokenizer) -> Focal:
        """Return itself: it needs no ids."""
        return self

    def count(self, labels: Any) -> Any:
        """Return the number of learned tokens."""
        return (labels != IGNORE).sum()

    def total(self, logits: Any, labels: Any, input_ids: Any, attention_mask: Any) -> Any:
        """Return the weighted sum."""
        import torch

        losses = token_losses(logits, labels)
        return ((1 - torch.exp(-losses)) ** self.gamma * losses).sum()


@attrs.frozen
class SharedLines:
    """The share of the references' lines that answers have, too."""

    def score(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Return `shared_lines`."""
        wanted = sum(map(len, references))
        pairs = zip(answers, references, strict=True)
        hits = sum(len(set(answer) & set(reference)) for answer, reference in pairs)
        return {"shared_lines": hits / wanted if wanted else 0.0}
