"""What OpenAI's requests may ask for beside a task's own generation settings."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from lmkit.encoding import Ids
from lmkit.errors import TaskError
from lmkit.runtime.filters import Floats
from lmkit.runtime.sampling import Penalty


@attrs.frozen(eq=False)
class LogitBias:
    """Add a number to some tokens' logits.

    Attributes:
        token_ids: int64 [K].
        biases: float32 [K].
    """

    token_ids: Ids
    biases: Floats

    def __call__(self, scores: Floats, history: Ids, n_new: int) -> None:
        """Change `scores`, float32 [V], in place; see `Penalty`."""
        scores[self.token_ids] += self.biases

    def spares(self, token: int, history: Ids, n_new: int) -> bool:
        """Say whether it stays the best for certain; see `Penalty`."""
        return not bool((self.biases > 0).any() or (self.token_ids == token).any())


@attrs.frozen
class CountPenalty:
    """Take something from the logits of tokens that the answer has already.

    A token that the answer has n times, n above 0, loses `presence + n * frequency`.

    Source: OpenAI's API reference, "Frequency and presence penalties"; of what was sampled before, so
    the prompt does not count.
    """

    presence: float
    frequency: float

    def __call__(self, scores: Floats, history: Ids, n_new: int) -> None:
        """Change `scores`, float32 [V], in place; see `Penalty`."""
        if n_new:
            seen, counts = np.unique(history[len(history) - n_new :], return_counts=True)
            scores[seen] -= (self.presence + self.frequency * counts).astype(np.float32)

    def spares(self, token: int, history: Ids, n_new: int) -> bool:
        """Say whether it stays the best for certain; see `Penalty`."""
        if min(self.presence, self.frequency) < 0:
            return n_new == 0
        return not bool((history[len(history) - n_new :] == token).any())


def asked(
    logit_bias: Mapping[int, float],
    presence_penalty: float,
    frequency_penalty: float,
    vocab_size: int,
) -> tuple[Penalty, ...]:
    """Return the steps that are asked for; often none.

    Raises:
        TaskError: a biased id is none of the model's, or a number is none.
    """
    found: list[Penalty] = []
    if presence_penalty or frequency_penalty:
        for name, value in (("presence", presence_penalty), ("frequency", frequency_penalty)):
            if not np.isfinite(value):
                raise TaskError(f"{name}_penalty is {value}; expected a finite number")
        found.append(CountPenalty(presence_penalty, frequency_penalty))
    if logit_bias:
        for token, bias in logit_bias.items():
            if not 0 <= token < vocab_size:
                raise TaskError(
                    f"logit_bias names token {token}; expected ids from 0 to {vocab_size - 1}"
                )
            if not np.isfinite(bias):
                raise TaskError(f"logit_bias of token {token} is {bias}; expected a finite number")
        ids = np.array(list(logit_bias), dtype=np.int64)
        found.append(LogitBias(ids, np.array(list(logit_bias.values()), dtype=np.float32)))
    return tuple(found)
