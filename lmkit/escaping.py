"""Hide control tokens that a record spells out while a chat template runs.

A template's own control tokens are trusted and those of a record are not. In the rendered text they
look alike, so the record's are replaced by private characters before rendering, and put back behind.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmkit.formatting import Segment

Message = dict[str, Any]
Span = tuple[int, int]

# Plane 15 of Unicode is private use: text that has such a character anyway is escaped as well.
_ESCAPES = range(0xF0100, 0xFFFFD)


class Escape:
    """Stands private characters in for control tokens while a template runs."""

    def __init__(self, control_tokens: Sequence[str]) -> None:
        self._pattern, self._heads = _hidden_words(tuple(control_tokens))
        self._stand_in: dict[str, str] = {}
        self._meant: dict[str, str] = {}

    def _hide(self, text: str) -> str:
        if text not in self._stand_in:
            character = chr(_ESCAPES[len(self._stand_in)])
            self._stand_in[text] = character
            self._meant[character] = text
        return self._stand_in[text]

    def _text(self, text: str) -> str:
        text = self._pattern.sub(lambda match: self._hide(match.group()), text)
        if not text.endswith(self._heads):
            return text
        head = next(head for head in self._heads if text.endswith(head))
        return text[: -len(head)] + self._hide(head)

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with what the template must not take for its own hidden."""
        return [
            {
                self.plain(key): str.__str__(part) if key == "role" else self.plain(part)
                for key, part in message.items()
            }
            for message in messages
        ]

    def plain(self, part: Any) -> Any:
        """Return plain JSON with its words hidden; of anything else, a template sees the type only.

        Objects have methods, such as an array's `tofile`, that a sandbox does not know to be unsafe.
        """
        if isinstance(part, str):
            return self._text(str.__str__(part))
        if part is None or type(part) in (bool, int, float):
            return part
        if isinstance(part, Mapping):
            return {self.plain(key): self.plain(inner) for key, inner in part.items()}
        if isinstance(part, (list, tuple)):
            return [self.plain(inner) for inner in part]
        return f"<{type(part).__name__}>"

    def segments(self, text: str, spans: Sequence[Span]) -> list[Segment]:
        """Cut a rendered text at the spans' edges, and put the hidden words back, not trusted."""
        segments = []
        position = 0
        for start, end in spans:
            segments += self._restored(text[position:start], learn=False)
            segments += self._restored(text[start:end], learn=True)
            position = end
        return segments + self._restored(text[position:], learn=False, seam=False)

    def restored(self, text: str) -> str:
        """Return a text with the hidden words put back."""
        return "".join(self._meant.get(character, character) for character in text)

    def _restored(self, text: str, *, learn: bool, seam: bool = True) -> list[Segment]:
        if not text:
            return [Segment("", learn)] if seam else []
        if not self._meant:
            return [Segment(text, learn, trusted=True)]
        pattern = f"([{''.join(self._meant)}])"
        return [
            Segment(self._meant.get(part, part), learn, trusted=part not in self._meant)
            for part in re.split(pattern, text)
            if part
        ]


@functools.lru_cache(maxsize=32)
def _hidden_words(control_tokens: tuple[str, ...]) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """Return what is to be hidden: whole control tokens, and their beginnings at a text's end.

    A message that ends with half a control token could be completed by the one that follows it.
    """
    words = [re.escape(token) for token in sorted(control_tokens, key=len, reverse=True)]
    private = f"[{chr(0xF0000)}-{chr(0xFFFFD)}]"
    halves = {token[:n] for token in control_tokens for n in range(1, len(token))}
    return re.compile("|".join([*words, private])), tuple(sorted(halves, key=len, reverse=True))
