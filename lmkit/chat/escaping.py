"""Hide control tokens that a record spells out while a chat template runs.

A template's own control tokens are trusted and those of a record are not. In the rendered text they
look alike, so the record's are replaced by private characters before rendering, and put back behind.

So are pieces of a control token at a text's edges, and names that are the inside of one: templates put
texts side by side, trimmed or in brackets. Marks such as `<think>` are hidden too, but for an
assistant's words: those a template takes apart, and a model learns to write.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from lmkit.formatting import Segment

Message = dict[str, Any]
Span = tuple[int, int]

# Plane 15 of Unicode is private use: text that has such a character anyway is escaped as well.
_ESCAPES = range(0xF0100, 0xFFFFD)


class Escape:
    """Stands private characters in for control tokens while a template runs.

    Args:
        control_tokens: what nobody may write but the template.
        marks: what an assistant may write, too.
    """

    def __init__(self, control_tokens: Sequence[str], marks: Sequence[str] = ()) -> None:
        self._said = _hidden_words(tuple(control_tokens))
        self._read = _hidden_words((*control_tokens, *marks))
        self._stand_in: dict[str, str] = {}
        self._meant: dict[str, str] = {}

    def _hide(self, text: str) -> str:
        if text not in self._stand_in:
            character = chr(_ESCAPES[len(self._stand_in)])
            self._stand_in[text] = character
            self._meant[character] = text
        return self._stand_in[text]

    def _text(self, text: str, words: _HiddenWords) -> str:
        if words.edge.search(text) is None:
            return text
        text = words.anywhere.sub(lambda match: self._hide(match.group()), text)
        body = text.rstrip()  # a template may trim it
        if body.endswith(words.heads):
            head = next(head for head in words.heads if body.endswith(head))
            text = body[: -len(head)] + self._hide(head) + text[len(body) :]
        body = text.lstrip()
        if body.startswith(words.tails):
            tail = next(tail for tail in words.tails if body.startswith(tail))
            text = text[: -len(body)] + self._hide(tail) + body[len(tail) :]
        return text

    def _name(self, text: str, words: _HiddenWords) -> str:
        if text and any(text in token for token in words.tokens):
            return self._hide(text)
        return self._text(text, words)

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with what the template must not take for its own hidden."""
        return [self._message(message) for message in messages]

    def _message(self, message: Message) -> Message:
        words = self._said if message.get("role") == "assistant" else self._read
        return {
            self._plain(key, words): str.__str__(part)
            if key == "role"
            else self._field(key, part, words)
            for key, part in message.items()
        }

    def plain(self, part: Any) -> Any:
        """Return plain JSON with its words hidden; of anything else, a template sees the type only.

        Objects have methods, such as an array's `tofile`, that a sandbox does not know to be unsafe.
        """
        return self._plain(part, self._read)

    def _plain(self, part: Any, words: _HiddenWords) -> Any:
        if isinstance(part, str):
            return self._text(str.__str__(part), words)
        if part is None or type(part) in (bool, int, float):
            return part
        if isinstance(part, Mapping):
            return {
                self._plain(key, words): self._field(key, inner, words)
                for key, inner in part.items()
            }
        if isinstance(part, (list, tuple)):
            return [self._plain(inner, words) for inner in part]
        return f"<{type(part).__name__}>"

    def _field(self, key: Any, part: Any, words: _HiddenWords) -> Any:
        if key == "name" and isinstance(part, str):
            return self._name(str.__str__(part), words)
        return self._plain(part, words)

    def segments(self, text: str, spans: Sequence[Span]) -> list[Segment]:
        """Cut a rendered text at the spans' edges, and put the hidden words back, not trusted."""
        segments = []
        position = 0
        for start, end in spans:
            segments += self.restored_segments(text[position:start], learn=False)
            segments += self.restored_segments(text[start:end], learn=True)
            position = end
        return segments + self.restored_segments(text[position:], learn=False, seam=False)

    def restored(self, text: str) -> str:
        """Return a text with the hidden words put back."""
        return "".join(self._meant.get(character, character) for character in text)

    def restored_segments(self, text: str, learn: bool, *, seam: bool = True) -> list[Segment]:
        """Return a piece of a text as segments, the hidden words apart and not trusted.

        Args:
            text: what was rendered.
            learn: whether it is learned.
            seam: whether a piece without text is a segment too.
        """
        if not text:
            return [Segment("", learn)] if seam else []
        if not self._meant:
            return [Segment(text, learn, trusted=True)]
        pattern = f"([{''.join(self._meant)}])"
        return [
            Segment(self._meant[part], learn, quoted=True)
            if part in self._meant
            else Segment(part, learn, trusted=True)
            for part in re.split(pattern, text)
            if part
        ]


@attrs.frozen
class _HiddenWords:
    """What is to be hidden: whole tokens anywhere, and pieces of them at a text's edges."""

    tokens: tuple[str, ...]
    edge: re.Pattern[str]  # a character that every text has in which something is to be hidden
    anywhere: re.Pattern[str]
    heads: tuple[str, ...]
    tails: tuple[str, ...]


@functools.lru_cache(maxsize=64)
def _hidden_words(tokens: tuple[str, ...]) -> _HiddenWords:
    """Return what is to be hidden of some tokens.

    A text that ends with the beginning of a token could be completed by what follows, and one that
    begins with the end of a token by what stands before.
    """
    words = [re.escape(token) for token in sorted(tokens, key=len, reverse=True)]
    private = f"[{chr(0xF0000)}-{chr(0xFFFFD)}]"
    heads = {token[:n] for token in tokens for n in range(1, len(token))}
    tails = {token[n:] for token in tokens for n in range(1, len(token))}
    edges = "".join({re.escape(edge) for token in tokens for edge in (token[0], token[-1])})
    return _HiddenWords(
        tokens,
        re.compile(f"[{edges}{private[1:]}"),
        re.compile("|".join([*words, private])),
        tuple(sorted(heads, key=len, reverse=True)),
        tuple(sorted(tails, key=len, reverse=True)),
    )
