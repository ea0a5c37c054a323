"""Cut conversations of one shape as the first of them was cut.

Where an answer begins and ends in a text follows from texts that begin alike. Texts that begin alike
whatever the words are do so for every conversation of that shape: so the conversation is cut once with a
private character in the place of each word, and the cuts hold for others with the same shape.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from lmkit.chat.escaping import Escape, Span
from lmkit.chat.rendering import Rendering, Written, without_marks
from lmkit.chat.tracing import Call, Guard, Place, Replay, put_in
from lmkit.chat.unrolling import Unroller, common_length
from lmkit.formatting import Segment

_FIRST, _LAST = 0x100000, 0x10EFFF  # characters that stand for words, in plane 16 of Unicode
_PLACE = re.compile(f"([{chr(_FIRST)}-{chr(_LAST)}])")
_MOST = 4096  # shapes whose cuts are remembered


@attrs.frozen
class Plan:
    """The one training text of a shape: pieces of text with places for words, and its conditions.

    Attributes:
        cuts: for each segment its literals, the places between those, and whether it is learned.
        replay: a text that has every place, with all that the template asked.
    """

    cuts: tuple[tuple[tuple[str, ...], tuple[Place, ...], bool], ...]
    replay: Replay

    def segments(
        self, words: Sequence[str], rendering: Rendering, escape: Escape
    ) -> list[Segment] | None:
        """Return the text with these words; None if they need another."""
        if any(map(str.isspace, words)) or not rendering.replays.fits(self.replay, words):
            return None
        segments: list[Segment] = []
        for literals, places, learn in self.cuts:
            pieces = [*literals]
            pieces[1::2] = put_in(places, words)
            text = "".join(pieces)
            segments += escape.restored_segments(text, learn)
        return segments


class Sketch(Unroller):
    """A conversation with characters in the place of its words."""

    def __init__(self, whole: Unroller, written: dict[tuple[int, bool], Written]) -> None:
        vars(self).update(vars(whole))
        self.escape = Escape(())
        self._written = written
        self._mended = {}

    def _render(self, length: int, *, ask: bool = False) -> Written:
        return self._written[length, ask]  # a KeyError if that was not rendered

    def _spans(self, text: Written, length: int, index: int) -> list[Span]:
        found = super()._spans(text, length, index)
        if found is None:
            raise KeyError("texts that differ here may be alike with other words")
        return found

    def _agreed(self, own: str, text: str) -> int:
        same = common_length(own, text)
        if same < len(own) and _PLACE.match(text, same):
            raise KeyError("the word may begin as the other text goes on")
        return super()._agreed(own, text)

    def _everything(self) -> list[Segment]:
        if self._answers[-1] + 1 < len(self._messages):
            raise KeyError("which text begins as asked may depend on the words")
        return super()._everything()

    def _behind_the_prompt(self, index: int, asked: str, own: str) -> str | None:
        raise KeyError("the words decide")


def training_texts(conversation: Unroller, learn: str) -> list[list[Segment]]:
    """Return a conversation's training texts; see `Unroller.texts`, which it spares where it can."""
    rendering = conversation.rendering
    plans = rendering.plans
    key = conversation.key(learn)
    plan = plans.get(key)
    if plan is not None:
        segments = plan.segments(conversation.words, rendering, conversation.escape)
        if segments is not None:
            return [segments]
    texts = conversation.texts(learn)
    if key not in plans and len(texts) == 1:
        replays = conversation.replays()
        if replays is not None:
            if len(plans) >= _MOST:
                plans.clear()
            plan = _planned(conversation, replays, learn)
            fits = plan is not None and plan.segments(
                conversation.words, rendering, conversation.escape
            )
            plans[key] = plan if fits == texts[0] else None
    return texts


def _planned(
    conversation: Unroller, replays: dict[tuple[int, bool], Replay], learn: str
) -> Plan | None:
    """Return how a conversation is cut; None if that depends on its words."""
    places: dict[Place, str] = {}
    try:
        written = {which: without_marks(_sketched(r, places)) for which, r in replays.items()}
        [segments] = Sketch(conversation, written).texts(learn)
    except (KeyError, TypeError, ValueError):  # not all was known, or it is cut otherwise
        return None
    characters = {character: place for place, character in places.items()}
    cuts = []
    for segment in segments:
        pieces = _PLACE.split(segment.text)
        found = tuple(characters[piece] for piece in pieces[1::2])
        cuts.append(
            (tuple(p if at % 2 == 0 else "" for at, p in enumerate(pieces)), found, segment.learn)
        )
    # What is made of a word must have more than white space in it, as every word has.
    stripped = [Call((place,), "strip", ()) for place in places if isinstance(place, Call)]
    made = [Guard(Call((text,), "__eq__", ("",)), False) for text in stripped]
    asked = [guard for replay in replays.values() for guard in replay.guards]
    moments = [moment for replay in replays.values() for moment in replay.moments]
    unlike = [guard for at, guard in enumerate(asked) if guard not in asked[:at]]
    return Plan(tuple(cuts), Replay((), (*unlike, *made), tuple(dict.fromkeys(moments))))


def _sketched(replay: Replay, places: dict[Place, str]) -> str:
    literals, found = replay.template
    if any(_PLACE.search(literal) for literal in literals):
        raise ValueError("a literal has a private character")
    pieces = [*literals]
    for at, place in enumerate(found):
        pieces[2 * at + 1] = places.setdefault(place, chr(_FIRST + len(places)))
    if len(places) > _LAST - _FIRST:
        raise ValueError("too many words")
    return "".join(pieces)
