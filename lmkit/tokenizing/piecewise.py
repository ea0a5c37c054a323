"""Encode text piece by piece, so that a piece which was seen before costs a look-up.

A tokenizer cuts a text before it looks for tokens, and what it makes of a piece does not depend on
the pieces around it. The `tokenizers` library cuts and looks anew each time, which takes most of what
preparing data takes. Here a text is cut by a regular expression; the library reads each piece once.

A way to cut is used where it is known to give what the library gives, which holds for some
definitions and, of their texts, for those made of characters that all versions of Unicode see alike.
For everything else there is the library.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import attrs

from lmkit.tokenizing.tokenizer_json import stages

if TYPE_CHECKING:
    import tokenizers

MOST_REMEMBERED = 1 << 22  # characters of pieces, each counted with what else it takes
_EXTRA = 24
_REFUSED = (-1,)  # stands for the ids of what only the library can read

# Characters of which it is certain what they are: Latin, Cyrillic, kana, Han, and Hangul syllables;
# digits; marks. None composes with a neighbour. U+017F is left out: it is an s to a pattern that
# ignores case.
_HAN = "一-龥"
_LETTERS = "A-Za-zÀ-ÖØ-öø-žƀ-ɏЀ-ҁぁ-ゖァ-ヺ가-힣"
_PUNCTUATION = r"!-/:-@\[-`{-~‘’“”–—…•·。、「」『』【】《》〈〉（）！？，：；"
_SYMBOLS = "°§©®™€£¥→←↑↓×÷±≤≥≠\U0001f300-\U0001faff\ufe0f\u200d"
_SPACES = " \t\n\r"
# Python takes these for white space or line ends, other libraries see some of them otherwise.
_UNSURE = "\x0b\x0c\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# Source: GPT-2's encoder.py, and the tokenizer.json of Qwen 2 and of Llama 3.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
# GPT-2's behind a step that sets each digit apart, which is then an end for what stands before it.
_GPT2_DIGITS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"

# None of these patterns has a piece that goes over the place between a word and the space behind it,
# or looks back from there. Qwen's and Llama's have some that end with line ends.
_BEFORE_WHITE = r"\s*\S+|\s+"
_BEFORE_SPACE = r"\s*\S+(?:[^\S ]\s*\S*)*|\s+"


@attrs.frozen
class Way:
    """A way to cut a text.

    Attributes:
        fits: matches the whole of a text for which it holds.
        piece: matches each piece in turn; what lies between pieces has no tokens.
    """

    fits: re.Pattern[str]
    piece: re.Pattern[str]


class Pieces:
    """What a tokenizer makes of texts, and of the pieces that it has seen.

    Args:
        backend: what reads text.
        data: its definition.
        forgeable: ids with what they spell, which a text that spells it must not give.
        harmless: those of them that rightly stand for other text.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        data: Mapping[str, Any],
        forgeable: Mapping[int, str],
        harmless: Set[int | None],
    ) -> None:
        self._backend = backend
        self.ways = ways(data)
        self._matched = _matched_in_text(data)
        self._forgeable = forgeable
        self._harmless = harmless
        self._known: dict[str, tuple[int, ...]] = {}
        self._room = MOST_REMEMBERED
        self._ahead: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int] | None:
        """Return a text's ids, or None where only the library can tell."""
        if not self.ways:
            return self._ahead.get(text)
        pieces = self._cut(text)
        if pieces is None:
            return None
        try:
            ids = _joined(pieces, self._known)
        except KeyError:
            ids = _joined(pieces, self._knowing(set(pieces)))
        return None if _REFUSED[0] in ids else ids

    def read_ahead(self, texts: Iterable[str]) -> None:
        """Read texts at once that will be asked for, in place of those that were read ahead before.

        It does nothing where texts are read by pieces: then one costs no more than its share of many.
        """
        if not self.ways:
            wanted = list(dict.fromkeys(texts))
            found = zip(wanted, self._read(wanted), strict=True)
            self._ahead = {text: list(ids) for text, ids in found if ids is not _REFUSED}

    def _cut(self, text: str) -> list[str] | None:
        if self._matched is None or not self._matched.search(text):
            for way in self.ways:
                if way.fits.fullmatch(text):
                    return way.piece.findall(text)
        return None

    def _knowing(self, pieces: set[str]) -> Mapping[str, tuple[int, ...]]:
        """Return the ids of pieces, and of others that are remembered."""
        fresh = list(pieces.difference(self._known))
        if fresh and self._room < 0:
            self._known, self._room, fresh = {}, MOST_REMEMBERED, list(pieces)
        known = self._known
        known.update(zip(fresh, self._read(fresh), strict=True))
        self._room -= sum(map(len, fresh)) + _EXTRA * len(fresh)
        return known

    def _read(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        if not texts:
            return []
        try:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except Exception:  # the library raises a bare Exception, and of one text for all
            if len(texts) == 1:
                return [_REFUSED]
            return [ids for text in texts for ids in self._read([text])]
        return [
            self._plain(text, tuple(encoding.ids))
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _plain(self, text: str, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return ids, or `_REFUSED` where the text may spell out what it must not give."""
        if self._forgeable.keys().isdisjoint(ids):
            return ids
        given = self._forgeable.keys() & set(ids)
        if given <= self._harmless and not any(self._forgeable[token] in text for token in given):
            return ids
        return _REFUSED


def _joined(pieces: Sequence[str], known: Mapping[str, tuple[int, ...]]) -> list[int]:
    return list(itertools.chain.from_iterable(map(known.__getitem__, pieces)))


def ways(data: Mapping[str, Any]) -> tuple[Way, ...]:
    """Return the ways to cut texts for a definition, the first that fits being the best; often none."""
    if data["model"].get("dropout") or (_matched_in_text(data) and data.get("normalizer")):
        return ()
    normalizers = stages(data.get("normalizer"), "normalizers")
    splitters = stages(data.get("pre_tokenizer"), "pretokenizers")
    kinds = [step["type"] for step in splitters]
    if normalizers in ([], [{"type": "NFC"}]):
        if kinds == ["WhitespaceSplit"]:
            return (Way(_made_of(f"^{_UNSURE}"), re.compile(f"[^{_SPACES}]+")),)
        return _byte_level(splitters)
    if [step["type"] for step in normalizers] == ["Precompiled"] and _spaced_words(splitters):
        sure = _LETTERS + _HAN + "0-9" + _PUNCTUATION + _SPACES
        return (Way(_made_of(sure), re.compile(f"[^{_SPACES}]+")),)
    if _bert(normalizers) and kinds == ["BertPreTokenizer"]:
        sure = _LETTERS + _HAN + "0-9" + _PUNCTUATION + _SPACES
        return (Way(_made_of(sure), re.compile(f"[{_LETTERS}0-9]+|[{_PUNCTUATION}{_HAN}]")),)
    return ()


def _byte_level(splitters: Sequence[Mapping[str, Any]]) -> tuple[Way, ...]:
    """Return the ways of tokenizers that cut a text and then spell it in bytes, and of `char`."""
    steps = [
        {key: step.get(key) for key in _DECIDING[step["type"]]} if step["type"] in _DECIDING else {}
        for step in splitters
    ]
    bytes_alone = {"add_prefix_space": False, "use_regex": False}
    gpt2 = {"add_prefix_space": False, "use_regex": True}
    if steps == [gpt2]:
        return _cut_by(_GPT2, _BEFORE_WHITE)
    if steps == [{"individual_digits": True}, gpt2]:
        return _cut_by(_GPT2_DIGITS, _BEFORE_WHITE)
    for pattern in (_GPT2, _QWEN2, _LLAMA3):
        if steps == [_split(pattern), bytes_alone]:
            return _cut_by(pattern, _BEFORE_SPACE)
    if steps == [_split(r"[\s\S]")]:
        return (Way(re.compile(r"[\s\S]*"), re.compile(r"[\s\S]")),)
    return ()


_DECIDING = {
    "ByteLevel": ("add_prefix_space", "use_regex"),
    "Digits": ("individual_digits",),
    "Split": ("pattern", "behavior", "invert"),
}


def _split(pattern: str) -> dict[str, Any]:
    return {"pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _cut_by(pattern: str, other: str) -> tuple[Way, ...]:
    """Return the way of a tokenizer's own pattern, and behind it a coarser one for any characters."""
    letters = _LETTERS + _HAN
    within = re.sub(
        r"\[[^\]]*\]",
        lambda found: found.group().replace(r"\p{L}", letters).replace(r"\p{N}", "0-9"),
        pattern,
    )
    own = within.replace(r"\p{L}", f"[{letters}]").replace(r"\p{N}", "[0-9]")
    sure = letters + "0-9" + _PUNCTUATION + _SYMBOLS + _SPACES
    return (
        Way(_made_of(sure), re.compile(own)),
        Way(_made_of("^\x1c-\x1f"), re.compile(other)),
    )


def _made_of(characters: str) -> re.Pattern[str]:
    return re.compile(f"[{characters}]*")


def _spaced_words(splitters: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether a text is cut at white space, and a space put before every word or before none."""
    if [step["type"] for step in splitters] != ["WhitespaceSplit", "Metaspace"]:
        return False
    space = splitters[1]
    return space.get("prepend_scheme", "always") in ("always", "never")


def _bert(normalizers: Sequence[Mapping[str, Any]]) -> bool:
    return (
        len(normalizers) == 1
        and normalizers[0]["type"] == "BertNormalizer"
        and bool(normalizers[0]["clean_text"])
        and bool(normalizers[0]["handle_chinese_chars"])
    )


def _matched_in_text(data: Mapping[str, Any]) -> re.Pattern[str] | None:
    """Return what finds the added tokens that act in any text; None if there is none."""
    texts = [token["content"] for token in data.get("added_tokens", ()) if not token["special"]]
    return re.compile("|".join(map(re.escape, texts))) if texts else None
