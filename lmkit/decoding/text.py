"""Read free text: the answer is what the model wrote."""

from __future__ import annotations

import attrs

from lmkit.family import Family
from lmkit.validators import TEXTS, as_texts
from lmkit.values import value


@value(kw_only=True)
class TextDecoder:
    r"""The answer is the text itself.

    Attributes:
        stop: texts that end the answer wherever they appear in it; they are cut off.
        strip: whether to drop white space around the answer.

    >>> TextDecoder().read(" 네, 맞아요.\n")
    '네, 맞아요.'
    """

    stop: tuple[str, ...] = attrs.field(default=(), converter=as_texts, validator=TEXTS)
    strip: bool = True

    families = frozenset({Family.CAUSAL, Family.SEQ2SEQ})

    def read(self, text: str) -> str:
        """Return the text, stripped if so asked."""
        return text.strip() if self.strip else text
