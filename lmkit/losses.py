"""Losses that a task can name in place of the mean over learned tokens.

A loss is a value, as light as the task that holds it; torch is met only inside the functions that
training calls. It says of a batch what it adds up to and how many equal parts that is the sum of,
so that batches of any sizes, accumulated or not, have one mean.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import attrs

from lmkit.encoding import IGNORE
from lmkit.errors import TaskError
from lmkit.family import Family
from lmkit.tokenizing import Tokenizer
from lmkit.validators import TEXTS, as_float, as_texts, number
from lmkit.values import value

Tensor = Any  # torch's; this module is imported where torch is not installed


class BatchLoss(Protocol):
    """A loss that knows its tokenizer's ids. Arguments are torch tensors on the model's device."""

    def count(self, labels: Tensor) -> Tensor:
        """Return how many equal parts a batch's mean is over, an int64 scalar.

        Args:
            labels: int64 [B, L], `IGNORE` where nothing is learned.
        """

    def total(
        self, logits: Tensor, labels: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """Return the sum over a batch's parts, a float scalar that gradients flow from.

        Args:
            logits: float [B, L, V]; those at a place predict the label at the same place, whatever
                the family.
            labels: int64 [B, L]; a causal row's first label, which nothing predicts, is left out.
            input_ids: int64 [B, T], whole rows.
            attention_mask: int64 [B, T], one where a row has a token.
        """


@runtime_checkable
class LossFunction(Protocol):
    """What a task names as its loss."""

    @property
    def families(self) -> frozenset[Family]:
        """The families whose output it can measure."""

    def prepare(self, tokenizer: Tokenizer) -> BatchLoss:
        """Return the loss for a tokenizer; raise `TaskError` if it lacks a token that is named."""


@value
class KeytokenWeighted:
    """Weighs each row by how often key tokens occur in it.

    A row's loss is the mean over its learned tokens, times `alpha * (1 + n)`, where n counts the key
    tokens anywhere in the row, its prompt included and its padding not. The batch's loss is the mean
    over rows.

    Source: the `keytoken_weighted_loss` of the Hugging Face NLP course, chapter 7.6 ("Training a
    causal language model from scratch"), https://huggingface.co/learn/nlp-course/chapter7/6. There
    the mean is over every token, prompt and padding too; where every token is learned, and nothing
    is padded, the two are equal.

    Attributes:
        tokens: the key tokens, each a text that is one token behind other text (` fit`), or a token
            as the vocabulary writes it (`Ġfit`, `▁fit`).
        alpha: what every weight is multiplied by.
    Raises:
        TaskError: a field is out of its range; when training starts, a key token is not one token.
    """

    tokens: tuple[str, ...] = attrs.field(converter=as_texts, validator=TEXTS)
    alpha: float = attrs.field(
        default=1.0,
        converter=as_float,
        validator=number("a number above 0", lambda given: given > 0),
    )

    families = frozenset({Family.CAUSAL})

    @tokens.validator
    def _check_some(self, attribute: object, tokens: tuple[str, ...]) -> None:
        if not tokens:
            raise TaskError("tokens is empty; expected at least one key token")

    def prepare(self, tokenizer: Tokenizer) -> BatchLoss:
        """Return the loss for a tokenizer; raise `TaskError` for a text that is not one token."""
        ids = {_id_of(token, tokenizer) for token in self.tokens}  # spelt twice is meant once
        return _Keytokens(tuple(sorted(ids)), self.alpha)


keytoken_weighted = KeytokenWeighted


@attrs.frozen
class _Keytokens:
    """`KeytokenWeighted` over one tokenizer's ids."""

    ids: tuple[int, ...]
    alpha: float

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of rows in which something is learned."""
        return (labels != IGNORE).any(dim=1).sum()

    def total(
        self, logits: Tensor, labels: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """Return the sum of the rows' weighted losses."""
        import torch

        losses, learned = row_losses(logits, labels)
        keys = torch.tensor(self.ids, device=input_ids.device)
        n_keys = (torch.isin(input_ids, keys) & (attention_mask != 0)).sum(dim=1)
        return (losses / learned.clamp(min=1) * self.alpha * (1.0 + n_keys)).sum()


def row_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's summed token losses, float32 [B], and their number, int64 [B].

    Args:
        logits: float [B, L, V], each for the label at its own place.
        labels: int64 [B, L].
    """
    return token_losses(logits, labels).sum(dim=1), (labels != IGNORE).sum(dim=1)


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each token's loss, float32 [B, L], 0 where nothing is learned; see `row_losses`."""
    import torch

    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return losses.view_as(labels)


def _id_of(text: str, tokenizer: Tokenizer) -> int:
    """Return the id of a key token."""
    found = tokenizer.token_to_id(text)
    if found is not None:
        return found
    ids = tokenizer.encode(text, opens=False)
    if not ids or any(map(tokenizer.is_unknown, ids)):
        raise TaskError(
            f"the key token {text!r} is not in the tokenizer's vocabulary; name tokens that it has"
        )
    if len(ids) > 1:
        parts = ", ".join(repr(tokenizer.decode([token])) for token in ids)
        raise TaskError(
            f"the key token {text!r} is not in the vocabulary as one token, it is {len(ids)} "
            f"({parts}); name tokens that are one, with the space that stands before them in a text"
        )
    return ids[0]
