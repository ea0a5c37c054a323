"""Scores: how likely a model found the tokens that it wrote, and what it might have written instead."""

from __future__ import annotations

from typing import TypeAlias

import attrs
import numpy as np

from lmkit.answering.logits import Logits
from lmkit.runtime.beams import best_of
from lmkit.tokenizing import Tokenizer
from lmkit.tokenizing.token_bytes import token_bytes

Bytes: TypeAlias = bytes  # a name that a field called so does not hide


@attrs.frozen
class TokenScore:
    """One token that was written.

    Attributes:
        token_id: the token.
        bytes: what it writes, UTF-8; a token may hold a part of a character only.
        logprob: its log-probability, in nats, by the model's own logits: before temperature, penalties
            and biases.
        top: the likeliest tokens in its place, each with its bytes and its log-probability.
    """

    token_id: int
    bytes: Bytes
    logprob: float
    top: tuple[tuple[int, Bytes, float], ...] = ()


def token_score(logits: Logits, token_id: int, n_top: int, tokenizer: Tokenizer) -> TokenScore:
    """Return the score of a token, by the logits that it was chosen from.

    Args:
        logits: float32 [V]; only read.
        token_id: the token.
        n_top: how many of the likeliest tokens are wanted beside it.
        tokenizer: the model's.
    """
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    best = best_of(logits, n_top) if n_top else ()
    top = [(int(one), token_bytes(tokenizer, int(one)), float(scores[one])) for one in best]
    own = token_bytes(tokenizer, token_id)
    return TokenScore(token_id, own, float(scores[token_id]), tuple(top))
