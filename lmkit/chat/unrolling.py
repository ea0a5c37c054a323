"""Find what an assistant wrote in a rendered conversation, and unroll it where history is rewritten.

In comes a conversation, out go one or more training texts as segments. For each answer there is the
*asked* text, the conversation before it with the generation prompt, and its *own* text, the
conversation up to its end: what its own text has behind the asked one is what a model must write. Where
the template has `{% generation %}` marks, they say what of it is learned.

Many templates write an earlier answer otherwise than the last one, its reasoning left out, say. A
text teaches only the answers that it writes just as they will be asked for; for the others the
conversation up to there becomes a training text of its own.

Some do not even begin an answer's own text as they ask for it: DeepSeek-R1's begins the reasoning, which it
then leaves out, and Mistral's writes the system message into the last question only while that is
unanswered. Then what was asked stands before what the template writes for the answer.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import attrs

from lmkit.chat.escaping import Escape, Message, Span
from lmkit.chat.forms import in_form
from lmkit.chat.messages import SYSTEM_ROLES, said
from lmkit.chat.rendering import Rendering, Written
from lmkit.chat.tracing import Replay
from lmkit.errors import ConversationError
from lmkit.formatting import Segment

_SHOWN = 60  # characters of a text, before and behind a difference, in an error
_ANSWER = chr(0xF0002)  # stands in for an answer, to be found again; `Escape` hides it in records


class Unroller:
    """One conversation under one template.

    Args:
        rendering: the template.
        messages: all messages, as the record has them.
        tools: the tools' definitions, or None.
    """

    def __init__(self, rendering: Rendering, messages: Sequence[Message], tools: Any) -> None:
        self.rendering = rendering
        self.escape = Escape(rendering.dialect.control_tokens, rendering.dialect.marks)
        self._messages = self.escape.messages(in_form(messages, rendering))
        self._tools = self.escape.plain(tools)
        shapes = [rendering.replays.shape(message) for message in self._messages]
        self._shapes = tuple(number for number, _ in shapes)
        self.words = [word for _, words in shapes for word in words]
        self._n_words = [0, *itertools.accumulate(len(words) for _, words in shapes)]
        self._tools_key = None if tools is None else json.dumps(self._tools)
        self._answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        self._written: dict[tuple[int, bool], Written] = {}
        self._mended: dict[int, str | None] = {}

    def key(self, learn: str) -> Any:
        """Return what the cuts depend on besides the words."""
        return self._shapes, self._tools_key, learn

    def _render_key(self, length: int, ask: bool) -> Any:
        return self._shapes[:length], self._tools_key, ask

    def replays(self) -> dict[tuple[int, bool], Replay] | None:
        """Return what was replayed; None if something had to be rendered anew and still has."""
        found = {}
        for length, ask in self._written:
            words = self.words[: self._n_words[length]]
            replay = self.rendering.replays.way(self._render_key(length, ask), words)
            if replay is None:
                return None
            found[length, ask] = replay
        return found

    def texts(self, learn: str) -> list[list[Segment]]:
        """Return the training texts; the last one is that of the whole conversation.

        Args:
            learn: `assistant`, `last` or `all`, as in `Chat`.
        Raises:
            ConversationError: the template fails, or writes an answer's own text otherwise than asked.
        """
        if learn == "all":
            return [self._everything()]
        wanted = self._answers[-1:] if learn == "last" else self._answers
        taught: set[int] = set()
        texts: list[list[Segment]] = []
        for length in [len(self._messages), *(index + 1 for index in reversed(wanted))]:
            if texts and length - 1 in taught:
                continue
            text = self._trained(length)
            found = {i: self._spans(text, length, i) for i in wanted if i < length}
            fresh = {i for i, spans in found.items() if spans is not None} - taught
            if length - 1 in found and found[length - 1] is None:
                raise self._drift(length - 1, text)
            if fresh:
                texts.append(self._segments(text, found, fresh))
                taught |= fresh
        return texts[::-1]

    def prompt(self, learn: str) -> list[Segment]:
        """Return the text that asks for the next answer, cut into segments as `texts` cuts it."""
        length = len(self._messages)
        text = self._render(length, ask=True)
        if learn == "all":
            return self.escape.segments(text.text, [(0, len(text.text))])
        earlier = self._answers if learn == "assistant" else []
        found = {i: self._spans(text, length, i) for i in earlier}
        return self._segments(text, found, set(earlier), self._header(text))

    def _everything(self) -> list[Segment]:
        """Return the whole text, all of it learned, with a seam where the last answer is asked for."""
        index = self._answers[-1]
        asked = "" if index == 0 else self._render(index, ask=True).text
        for length in (len(self._messages), index + 1):
            text = self._trained(length)
            if text.text.startswith(asked):
                spans = [(0, len(asked)), (len(asked), len(text.text))]
                return self.escape.segments(text.text, spans)
        raise self._drift(index, text)

    def _spans(self, text: Written, length: int, index: int) -> list[Span] | None:
        """Return where a text writes an answer as it will be asked for; None where it does not.

        Args:
            text: of some messages, or what asks for the next one.
            length: how many those are.
            index: which message is the answer.
        """
        asked, own = self._asked(index), self._trained(index + 1)
        if asked is None or not (
            own.text.startswith(asked.text) and text.text.startswith(asked.text)
        ):
            return None
        start, agreed = len(asked.text), self._agreed(own.text, text.text)
        if agreed < start:
            return None
        if self.rendering.marked:
            marks = [(a, b) for a, b in own.marks[len(asked.marks) :] if a < b <= agreed]
            return split_at(start, marks) if set(marks) <= set(text.marks) else None
        end = start + self._answer_length(own.text[start:agreed])
        return [(start, end + self._following_end(text.text, end, length, index))]

    def _agreed(self, own: str, text: str) -> int:
        """Return how much of an answer's own text another text has; -1 where words are unlike.

        What a template puts behind the end of a whole conversation, an EOS, may be missing.
        """
        if text.startswith(own):
            return len(own)
        same = _alike(own, text, self.rendering)
        rest = _pattern(self.rendering.dialect.control_tokens).sub("", own[same:])
        ended = own[:same].rstrip().endswith(self._endings.closing)
        return same if ended and not rest.strip() else -1

    def _answer_length(self, written: str) -> int:
        """Return how much of what follows the prompt a model has to write.

        A turn's end token is the last thing that a model writes: white space that the template puts
        behind it belongs to the next turn.
        """
        body = written.rstrip()
        closed = body.endswith(self.rendering.dialect.control_tokens)
        return len(body) if closed else len(written)

    def _following_end(self, text: str, end: int, length: int, index: int) -> int:
        """Return the length of the token with which the next turn begins, if it ends this one.

        Some templates close no turn. Then a model stops where the next one would begin.
        """
        if index + 1 >= length or self._messages[index + 1]["role"] == "assistant":
            return 0
        if not self._endings.following:
            return 0
        token = _pattern(self.rendering.dialect.control_tokens).match(text, end)
        return len(token.group()) if token else 0

    def _asked(self, index: int) -> Written | None:
        """Return what asks for an answer; None where nothing can ask for it."""
        if index > 0:
            return self._render(index, ask=True)
        if self.rendering.marked:
            return Written("")
        try:
            return self._render(0, ask=True)
        except ConversationError:
            return None

    def _trained(self, length: int) -> Written:
        """Return the text of some messages; behind an answer, one that begins as it is asked for."""
        own, index = self._render(length), length - 1
        if self.rendering.marked or self._messages[index]["role"] != "assistant":
            return own
        asked = self._asked(index)
        if asked is None or own.text.startswith(asked.text):
            return own
        if length not in self._mended:
            self._mended[length] = self._behind_the_prompt(index, asked.text, own.text)
        return Written(self._mended[length] or own.text)

    def _behind_the_prompt(self, index: int, asked: str, own: str) -> str | None:
        """Return what asks for an answer, and behind it what the template writes for the answer.

        None if it cannot be told what that is.
        """
        answer, before = self._messages[index], self._messages[index - 1 : index]
        probe = [*self._messages[:index], {**answer, "content": _ANSWER}]
        try:
            written = self.rendering.render(in_form(probe, self.rendering), self._tools).text
        except ConversationError:
            return None
        if written.count(_ANSWER) != 1:
            return None
        head, tail = written.split(_ANSWER)
        content, begun = said(answer), asked[len(head) :].strip()
        if asked.startswith(head) and own.endswith(tail) and begun:
            # The prompt begins the answer, and the answer begins so too.
            if not content.lstrip().startswith(begun):
                return None
            return asked + content.lstrip()[len(begun) :].lstrip("\n") + tail
        last = said(before[0]).strip() if before else ""
        question = asked[asked.rfind(last) :] if last else ""
        if not question.startswith(last) or not last or head.count(question) != 1:
            return None
        start = head.index(question) + len(question)
        if any(
            (words := said(m).strip()) and words in head[start:] for m in self._messages[:index]
        ):
            return None
        return asked + own[start:] if own.startswith(head[:start]) else None

    def _header(self, text: Written) -> list[Span]:
        """Return where in a prompt a marked block begins that holds the generation prompt too."""
        if not self.rendering.marked:
            return []
        probe = [*self._messages, {"role": "assistant", "content": "a"}]
        written = self.rendering.render(in_form(probe, self.rendering), self._tools)
        if not written.text.startswith(text.text):
            return []
        asked = len(text.text)
        return [(start, asked) for start, end in written.marks if start < asked < end]

    def _segments(
        self,
        text: Written,
        found: dict[int, list[Span] | None],
        learned: set[int],
        more: Sequence[Span] = (),
    ) -> list[Segment]:
        """Cut a text: the spans of some answers are learned, those of the others are seams only.

        So a prompt is cut as every training text is that begins with it.
        """
        spans: list[Span] = []
        for index, here in found.items():
            if here is not None:
                spans += here if index in learned else _edges(here)
        return self.escape.segments(text.text, [*spans, *more])

    def _render(self, length: int, *, ask: bool = False) -> Written:
        if (length, ask) not in self._written:
            try:
                found = self.rendering.again(
                    self._messages[:length],
                    self._tools,
                    ask=ask,
                    key=self._render_key(length, ask),
                    words=self.words[: self._n_words[length]],
                )
            except ConversationError as error:
                raise self._refusal(error, length, ask) from error
            self._written[length, ask] = found
        return self._written[length, ask]

    def _refusal(self, error: ConversationError, length: int, ask: bool) -> ConversationError:
        """Return an error that says so where it is the system message that a template refuses."""
        if not self._messages or self._messages[0]["role"] not in SYSTEM_ROLES:
            return error
        try:
            self.rendering.render(self._messages[1:length], self._tools, ask=ask)
        except ConversationError:
            return error
        return ConversationError(
            "",
            f"{error}; without the system message it does not: Chat(system_as='user') puts that in "
            "front of the user's first message",
        )

    def _drift(self, index: int, text: Written) -> ConversationError:
        asked = self._asked(index)
        if asked is None:
            return ConversationError(
                "",
                f"turn {index} is the assistant's, and the chat template cannot ask for an answer to "
                "nothing; let a user's or a system message stand before it",
            )
        at = common_length(asked.text, text.text)
        shown = slice(max(0, at - _SHOWN), at + _SHOWN)
        return ConversationError(
            "",
            f"the chat template asks for turn {index} (an assistant's) with a text that the training "
            "text does not begin with, so what the model would learn is not what it will be asked; "
            "give the template what makes them agree, as in "
            "Chat(variables={'enable_thinking': False}), or another one, with Chat(template=...)\n"
            f"  asked:   ...{self.escape.restored(asked.text[shown])!r}\n"
            f"  trained: ...{self.escape.restored(text.text[shown])!r}",
        )

    @property
    def _endings(self) -> Endings:
        try:
            return endings(self.rendering)
        except ConversationError:  # of words that are not the record's
            return Endings()


@attrs.frozen
class Endings:
    """The control tokens with which a template lets an answer end.

    Attributes:
        final: the one at a conversation's end.
        closing: the one behind every answer, whatever follows.
        following: the one of the next turn, where no answer has an end of its own.
    """

    final: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()
    following: tuple[str, ...] = ()


@functools.lru_cache(maxsize=64)
def endings(rendering: Rendering) -> Endings:
    """Find out how a template ends answers, from two made-up exchanges.

    Raises:
        ConversationError: the template fails on them.
    """
    chat: list[Message] = [
        {"role": role, "content": word}
        for role, word in zip(("user", "assistant") * 2, "wxyz", strict=True)
    ]
    chat = in_form(chat, rendering)
    asked = rendering.render(chat[:1], ask=True).text
    own, whole = rendering.render(chat[:2]).text, rendering.render(chat).text
    if not own.startswith(asked):
        return Endings(final=_last(own, rendering))
    answer = own[len(asked) :]
    final = _last(answer, rendering)
    if not whole.startswith(asked):
        return Endings(final=final)
    said = asked + answer[: answer.find("x") + 1]
    if not whole.startswith(said):
        return Endings(final=final)
    same = _alike(own, whole, rendering)
    closing = _last(own[len(said) : same], rendering)
    behind = whole[len(said) :]
    if final or closing:
        return Endings(final=final, closing=closing)
    following = _pattern(rendering.dialect.control_tokens).match(behind)
    return Endings(following=(following.group(),) if following else ())


def split_at(position: int, spans: Sequence[Span]) -> list[Span]:
    """Make a seam at a position: cut the span that holds it, or put an empty one before the next.

    >>> split_at(3, [(1, 5), (7, 9)]), split_at(6, [(1, 5), (7, 9)])
    ([(1, 3), (3, 5), (7, 9)], [(1, 5), (6, 6), (7, 9)])
    """
    before = [(start, min(end, position)) for start, end in spans if start < position]
    after = [(max(start, position), end) for start, end in spans if max(start, end - 1) >= position]
    seam = [(position, position)] if not after or after[0][0] > position else []
    return before + seam + after


def _edges(spans: Sequence[Span]) -> list[Span]:
    """Return seams where spans begin and end, in place of the spans.

    >>> _edges([(1, 3), (3, 5)])
    [(1, 1), (3, 3), (5, 5)]
    """
    return [(edge, edge) for edge in sorted({edge for span in spans for edge in span})]


def _last(answer: str, rendering: Rendering) -> tuple[str, ...]:
    body = answer.rstrip()
    return tuple(token for token in _by_length(rendering) if body.endswith(token))[:1]


def _by_length(rendering: Rendering) -> list[str]:
    return sorted(rendering.dialect.control_tokens, key=len, reverse=True)


def common_length(one: str, other: str) -> int:
    """Return how many characters two texts begin alike with.

    >>> common_length("abcd", "abxd")
    2
    """
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _alike(one: str, other: str, rendering: Rendering) -> int:
    """Return how much two texts begin alike with, whole control tokens only."""
    same = common_length(one, other)
    tokens = rendering.dialect.control_tokens
    longest = max(map(len, tokens), default=0)
    for text in (one, other):
        for token in _pattern(tokens).finditer(text, max(0, same - longest)):
            if token.start() < same < token.end():
                same = token.start()
                break
    return same


@functools.lru_cache(maxsize=32)
def _pattern(control_tokens: tuple[str, ...]) -> re.Pattern[str]:
    words = sorted(control_tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words)) or r"(?!)")
