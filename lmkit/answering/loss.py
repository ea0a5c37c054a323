"""A loss as a sum over tokens, so that parts of any size add up to the right mean."""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs

from lmkit.answering.logits import LogProbs


@attrs.frozen
class Loss:
    """A sum of token losses.

    Attributes:
        total: the sum of the negative log-likelihoods, in nats.
        count: how many learned tokens it is over.
    """

    total: float = 0.0
    count: int = 0

    @classmethod
    def over(cls, log_probs: Iterable[LogProbs]) -> Loss:
        """Return the loss of rows, given the log-probabilities of their learned tokens."""
        rows = list(log_probs)
        return cls(-float(sum(row.sum() for row in rows)), sum(map(len, rows)))

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.total + other.total, self.count + other.count)

    def figures(self) -> dict[str, float]:
        """Return the mean loss, its exponential (perplexity), and the number of tokens.

        Perplexity is exp of the mean over tokens, not a mean over batches.

        >>> Loss(2.0, 2).figures()
        {'loss': 1.0, 'perplexity': 2.718281828459045, 'tokens': 2}
        """
        mean = self.total / self.count if self.count else math.nan
        return {"loss": mean, "perplexity": _exp(mean), "tokens": self.count}


def _exp(mean: float) -> float:
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf
