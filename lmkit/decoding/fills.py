"""Read what a masked model would put in place of its mask tokens, as ranked fills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from lmkit.family import Family
from lmkit.validators import as_int, at_least
from lmkit.values import value

if TYPE_CHECKING:
    from lmkit.tokenizing import Tokenizer


@value
class FillMaskDecoder:
    """The likeliest tokens for each mask of a text.

    A fill is what transformers' fill-mask pipeline gives: its `score` (the token's probability), the
    `token`'s id, the token as `token_str`, and the whole text with it as `sequence`. One mask gives
    a list of fills, several give a list for each, in which the other masks stay as they are.

    Source: transformers.pipelines.fill_mask.FillMaskPipeline.postprocess.

    Attributes:
        top_k: how many fills each mask gets.
    """

    top_k: int = attrs.field(default=5, converter=as_int, validator=at_least(1))

    families = frozenset({Family.MASKED})
    stop = ()

    def read(self, text: str) -> str:
        """Return the text as it is."""
        return text

    def fill(
        self, input_ids: NDArray[np.int64], logits: NDArray[np.float32], tokenizer: Tokenizer
    ) -> list[Any]:
        """Return the fills of one text.

        Args:
            input_ids: int64 [T], with M mask tokens in it.
            logits: float32 [T, V]; only those of mask tokens are looked at.
            tokenizer: the model's.
        Returns:
            The fills, likeliest first; a list of such lists if M is more than one.
        """
        places = np.flatnonzero(input_ids == tokenizer.mask_id)
        single = len(places) == 1
        found = [
            [
                {
                    "score": float(probability),
                    "token": int(token),
                    "token_str": tokenizer.decode([token], skip_control=False),
                    "sequence": _sequence(input_ids, place, token, tokenizer, plain=single),
                }
                for token, probability in self._likeliest(logits[place])
            ]
            for place in places.tolist()
        ]
        return found[0] if single else found

    def _likeliest(self, logits: NDArray[np.float32]) -> list[tuple[int, float]]:
        """Return tokens and their probabilities, for logits float32 [V]."""
        shifted = np.exp(logits.astype(np.float64) - logits.max())
        probabilities = shifted / shifted.sum()
        order = np.argsort(-probabilities, kind="stable")[: self.top_k].tolist()
        return [(token, probabilities[token]) for token in order]


def _sequence(
    input_ids: NDArray[np.int64], place: int, token: int, tokenizer: Tokenizer, *, plain: bool
) -> str:
    """Return the text with a token in place of a mask; `plain` leaves control tokens out."""
    ids = input_ids.copy()
    ids[place] = token
    if tokenizer.pad_id is not None:
        ids = ids[ids != tokenizer.pad_id]
    return tokenizer.decode(ids.tolist(), skip_control=plain)
