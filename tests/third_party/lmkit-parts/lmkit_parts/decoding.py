"""Two decoders: one reads what is written as lines, the other what a masked model would fill in."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from lmkit.family import Family
from lmkit.tokenizing import Tokenizer


@attrs.frozen(kw_only=True)
class Lines:
    """The answer is a list of lines."""

    most: int = 3

    families = frozenset({Family.CAUSAL, Family.SEQ2SEQ})
    stop = ("\n\n",)

    def read(self, text: str) -> list[str]:
        """Return the lines that are not blank."""
        return [line.strip() for line in text.splitlines() if line.strip()][: self.most]


@attrs.frozen(kw_only=True)
class Longest:
    """The answer is the longest of the likeliest words of each gap."""

    among: int = 5

    families = frozenset({Family.MASKED})
    stop: tuple[str, ...] = ()

    def read(self, text: str) -> str:
        """Return the text."""
        return text

    def fill(
        self, input_ids: np.ndarray[Any, Any], logits: np.ndarray[Any, Any], tokenizer: Tokenizer
    ) -> list[str]:
        """Return a word for each gap."""
        gaps = np.flatnonzero(input_ids == tokenizer.mask_id)
        likeliest = np.argsort(-logits[gaps], axis=1)[:, : self.among]
        return [
            max((tokenizer.decode([token]) for token in row.tolist()), key=len) for row in likeliest
        ]
