"""Choose a label: every label's tokens are scored, and the answer is the likeliest one."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from lmkit.errors import RecordError
from lmkit.family import Family
from lmkit.validators import FLAG, Check, as_texts
from lmkit.values import value


def _are_labels(given: Any) -> bool:
    if not isinstance(given, tuple) or not all(isinstance(label, str) for label in given):
        return False
    names = [_composed(label) for label in given]
    stripped = all(label and label == label.strip() for label in given)
    return stripped and len(set(names)) == len(names) >= 2


_LABELS = Check(
    "two labels or more, no two alike, none blank or with white space around it "
    "(that belongs into the target)",
    _are_labels,
)


@value(kw_only=True)
class LabelDecoder:
    """The answer is one of a few labels; the model scores each of them and writes nothing freely.

    A label's score is the log-probability of its tokens behind the prompt, and the probabilities
    are the softmax of the scores: how the labels share what the model gives to all of them.

    Source: the multiple-choice evaluation of GPT-3 (Brown et al. 2020, arXiv:2005.14165, 2.4),
    which also divides by the number of tokens.

    Attributes:
        labels: what the answer's column may hold, two or more.
        normalize: whether to score by the mean of a label's tokens in place of their sum, so that
            a long label is not the less likely for its length. Summed, the scores compare the
            labels' whole probabilities.

    >>> decoder = LabelDecoder(labels=("긍정", "부정"))
    >>> shares = decoder.choose([np.log([0.5, 0.6]), np.log([0.2, 0.5])])
    >>> {label: round(share, 3) for label, share in shares.items()}
    {'긍정': 0.75, '부정': 0.25}
    """

    labels: tuple[str, ...] = attrs.field(
        default=("Yes", "No"), converter=as_texts, validator=_LABELS
    )
    normalize: bool = attrs.field(default=False, validator=FLAG)

    families = frozenset({Family.CAUSAL, Family.SEQ2SEQ})
    stop = ()

    def choose(self, scores: Sequence[NDArray[np.float64]]) -> dict[str, float]:
        """Return each label's probability.

        Args:
            scores: for each label, the log-probabilities of its tokens, float64 [L].
        """
        totals = np.array([row.mean() if self.normalize else row.sum() for row in scores])
        shares = np.exp(totals - totals.max())
        found = (shares / shares.sum()).tolist()
        return dict(zip(self.labels, found, strict=True))

    def read(self, text: str) -> str:
        """Return the label that a record's answer is, white space around it left out.

        Raises:
            RecordError: it is none of the labels.
        """
        names = {_composed(label): label for label in self.labels}
        found = names.get(_composed(text))
        if found is None:
            known = ", ".join(map(repr, self.labels))
            raise RecordError("", f"the answer is {text!r}; expected one of the labels {known}")
        return found


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()
