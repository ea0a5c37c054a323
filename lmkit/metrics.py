"""Measure: answers against what the data says, as named numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs

from lmkit.errors import MissingExtra, RecordError
from lmkit.validators import FLAG, Check, as_texts
from lmkit.values import value


@runtime_checkable
class Metric(Protocol):
    """A figure over a whole data set."""

    def score(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Return named numbers for N answers and their N references, in order."""


@runtime_checkable
class Ready(Protocol):
    """A metric that can tell before any record is answered what it lacks."""

    def check_ready(self) -> None:
        """Raise what `score` would raise whatever the answers are."""


def check_ready(metrics: Iterable[Metric]) -> None:
    """Raise what keeps a metric from measuring, before a model has answered for it.

    Raises:
        MissingExtra: a package is not installed; the text says what to install.
    """
    for metric in metrics:
        if isinstance(metric, Ready):
            metric.check_ready()


@value(kw_only=True)
class ExactMatch:
    """The share of answers that equal the reference, between 0 and 1.

    Both are compared in composed form (Unicode NFC), so that Hangul written in jamo counts as equal.

    Attributes:
        ignore_case: whether upper and lower case count as equal.

    >>> ExactMatch().score(["네", "no"], ["네", "yes"])
    {'exact_match': 0.5}
    """

    ignore_case: bool = False

    def score(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Return `exact_match`."""
        pairs = _pairs(answers, references)
        hits = sum(self._norm(answer) == self._norm(reference) for answer, reference in pairs)
        return {"exact_match": hits / len(pairs)}

    def _norm(self, answer: str) -> str:
        return answer.casefold() if self.ignore_case else answer


@value(kw_only=True)
class Accuracy:
    """The share of labels that are the reference's, between 0 and 1; compared as `ExactMatch` does.

    >>> Accuracy().score(["긍정", "부정", "긍정"], ["긍정", "긍정", "긍정"])
    {'accuracy': 0.6666666666666666}
    """

    def score(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Return `accuracy`."""
        pairs = _pairs(answers, references)
        return {"accuracy": sum(answer == reference for answer, reference in pairs) / len(pairs)}


@value(kw_only=True)
class MacroF1:
    """The mean of the labels' F1, between 0 and 1; each label counts the same, however rare.

    A label's F1 is 2 TP / (2 TP + FP + FN). The labels are those that an answer or a reference has;
    one that is never answered rightly counts as 0, which is what a model gets that only ever says
    the commonest label.

    Source: scikit-learn's `f1_score(average="macro", zero_division=0)`.

    >>> MacroF1().score(["a", "a", "b", "a"], ["a", "b", "b", "c"])
    {'macro_f1': 0.38888888888888884}
    """

    def score(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Return `macro_f1`."""
        pairs = _pairs(answers, references)
        labels = sorted({label for pair in pairs for label in pair})
        return {"macro_f1": sum(_f1(label, pairs) for label in labels) / len(labels)}


def _are_rouges(given: Any) -> bool:
    known = re.compile(r"rouge([1-9]|L|Lsum)")
    return (
        isinstance(given, tuple)
        and len(given) > 0
        and all(isinstance(name, str) and known.fullmatch(name) for name in given)
    )


@value(kw_only=True)
class Rouge:
    """How much of a reference's wording an answer shares: F-measures from 0 to 1, means over records.

    The counting is the `rouge-score` package's; the words are ours, because the package drops every
    letter outside of a-z, and so all of Korean. On plain English both are the same.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"; Google's rouge_score.

    Attributes:
        types: `rouge1` to `rouge9` (n-grams), `rougeL` (the longest common subsequence) or
            `rougeLsum` (the same, by lines).
        use_stemmer: whether English words are compared by their stems (Porter's), as published
            English figures are.
        by_syllable: whether each Hangul syllable counts as a word; see `words`.
    """

    types: tuple[str, ...] = attrs.field(
        default=("rouge1", "rouge2", "rougeL"),
        converter=as_texts,
        validator=Check("names such as 'rouge1', 'rouge2', 'rougeL' or 'rougeLsum'", _are_rouges),
    )
    use_stemmer: bool = attrs.field(default=False, validator=FLAG)
    by_syllable: bool = attrs.field(default=False, validator=FLAG)

    def score(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        """Return each type's mean F-measure.

        Raises:
            MissingExtra: the package `rouge-score` is not installed.
        """
        pairs = _pairs(answers, references)
        scorer = self._scorer()
        found = [scorer.score(reference, answer) for answer, reference in pairs]
        return {name: sum(one[name].fmeasure for one in found) / len(found) for name in self.types}

    def check_ready(self) -> None:
        """Raise `MissingExtra` if the package `rouge-score` is not installed."""
        self._scorer()

    def _scorer(self) -> Any:
        try:
            from rouge_score.rouge_scorer import RougeScorer
            from rouge_score.tokenizers import DefaultTokenizer
        except ModuleNotFoundError as error:
            raise MissingExtra("the metric Rouge", "metrics", error.name) from error
        english = DefaultTokenizer(use_stemmer=True).tokenize if self.use_stemmer else None
        return RougeScorer(list(self.types), tokenizer=_Words(english, self.by_syllable))


class _Words:
    """What a `RougeScorer` splits texts with.

    Args:
        stems: returns what an English text's words are stemmed to, or None to leave them.
        by_syllable: as in `words`.
    """

    def __init__(self, stems: Callable[[str], list[str]] | None, by_syllable: bool) -> None:
        self._stems = stems
        self._by_syllable = by_syllable

    def tokenize(self, text: str) -> list[str]:
        """Return a text's words."""
        found = words(text, by_syllable=self._by_syllable)
        if self._stems is None:
            return found
        return [
            stem for word in found for stem in (self._stems(word) if word.isascii() else [word])
        ]


def words(text: str, *, by_syllable: bool = False) -> list[str]:
    """Split a text into words: runs of letters, digits and their marks, composed and case-folded.

    A Korean word is what stands between spaces, an eojeol, with its particles: ROUGE is defined on
    words as they are written, other tools count the same, and no morphological analyser (whose
    version would change the figures) is needed. It is strict, since 학교는 and 학교에 are two words.
    By syllable they share two of three, and so do unrelated texts by chance (는, 이, 다): two Korean
    film reviews picked at random have a rouge1 of 0.10 then, and of 0.003 by word.

    >>> words("GPT-4는 '학교에' 갔다."), words("학교에 ok", by_syllable=True)
    (['gpt', '4는', '학교에', '갔다'], ['학', '교', '에', 'ok'])
    """
    composed = unicodedata.normalize("NFC", text).casefold()
    spaced = "".join(
        char if char.isalnum() or unicodedata.category(char).startswith("M") else " "
        for char in composed
    )
    if by_syllable:
        spaced = _SYLLABLE.sub(r" \g<0> ", spaced)
    return spaced.split()


_SYLLABLE = re.compile("[가-힣]")


def _pairs(answers: Sequence[Any], references: Sequence[Any]) -> list[tuple[str, str]]:
    """Return each answer with its reference, both composed and stripped.

    Raises:
        RecordError: there are none, so no share of them is right.
    """
    pairs = zip(answers, references, strict=True)
    found = [(_composed(answer), _composed(reference)) for answer, reference in pairs]
    if not found:
        raise RecordError("", "there are no answers to measure")
    return found


def _composed(answer: Any) -> str:
    return unicodedata.normalize("NFC", str(answer)).strip()


def _f1(label: str, pairs: Iterable[tuple[str, str]]) -> float:
    both = [(answer == label, reference == label) for answer, reference in pairs]
    hits = sum(answered and wanted for answered, wanted in both)
    return 2 * hits / sum(answered + wanted for answered, wanted in both)
