"""Run a chat template, and mark what the assistant wrote in it.

It is rendered in jinja2's immutable sandbox by the same code in training and in the runtime, with
what transformers gives to a template (`raise_exception`, `strftime_now`, `tojson`, loop controls,
`{% generation %}`).

Two questions are answered without asking the template's author:

- *What came from the record?* Control tokens in the messages are replaced by private characters
  before rendering and put back afterwards, so a control token in the output is the template's own.
- *What did the assistant write?* Where the template has `{% generation %}` marks, they say it.
  Where not, the conversation is rendered up to each assistant turn with the generation prompt, and
  up to its end: what lies between is what a model would have to write.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from lmkit.errors import TemplateError
from lmkit.formatting import Segment
from lmkit.tokenizing import Dialect

if TYPE_CHECKING:
    import jinja2

Message = dict[str, Any]

# Plane 15 of Unicode is private use: text that has such a character anyway is escaped as well.
_ESCAPES = range(0xF0100, 0xFFFFD)
_MARKS = re.compile(r"\{%[-+]?\s*generation\b")
_OPEN, _CLOSE = chr(0xF0000), chr(0xF0001)  # where a {% generation %} block begins and ends


_CLOCK: ContextVar[datetime | None] = ContextVar("clock", default=None)


@contextmanager
def at_time(moment: str) -> Iterator[None]:
    """Let templates that print the date print this one.

    A run's rows and a bundle's golden prompts must come out the same on another day.

    Args:
        moment: a date and time in ISO 8601 form.
    """
    token = _CLOCK.set(datetime.fromisoformat(moment))
    try:
        yield
    finally:
        _CLOCK.reset(token)


def now() -> str:
    """Return the present moment, to the second, as `at_time` takes it."""
    return datetime.now().isoformat(timespec="seconds")


@attrs.frozen
class Rendering:
    """One template under one tokenizer."""

    source: str
    dialect: Dialect

    def training(
        self, messages: Sequence[Message], answers: Sequence[int], learn: str
    ) -> list[Segment]:
        """Return the whole conversation as segments.

        Args:
            messages: all of them, the answers included.
            answers: which of them are the assistant's, by index; at least one.
            learn: `assistant`, `last` or `all`, as in `Chat`.
        Raises:
            TemplateError: the template fails, or writes a turn otherwise once it is history.
        """
        escape = Escape(self.dialect.control_tokens)
        messages = escape.messages(messages)
        text, marks = _without_marks(self._render(messages))
        if not marks and learn != "all":
            chosen = answers[-1:] if learn == "last" else answers
            return escape.segments(text, self._spans(messages, chosen, text))
        # Where the last answer is asked for is a seam, so that the prompt's ids stay a prefix.
        asked, earlier = self._asked(messages, answers[-1], text)
        if learn == "all":
            return escape.segments(text, [(0, asked), (asked, len(text))])
        return escape.segments(text, _split_at(asked, marks[earlier if learn == "last" else 0 :]))

    def prompt(
        self, messages: Sequence[Message], answers: Sequence[int], learn: str
    ) -> list[Segment]:
        """Return the conversation up to where the next answer begins; see `training`."""
        escape = Escape(self.dialect.control_tokens)
        messages = escape.messages(messages)
        text, marks = _without_marks(self._render(messages, ask=True))
        if learn == "all":
            return escape.segments(text, [(0, len(text))])
        header = self._header(messages, text)
        if learn == "last":
            return escape.segments(text, header)
        return escape.segments(text, [*marks, *header] or self._spans(messages, answers, text))

    def _spans(
        self, messages: Sequence[Message], answers: Sequence[int], text: str
    ) -> list[tuple[int, int]]:
        """Return where each answer stands in the text, as [start, end) in characters."""
        spans = []
        for index in answers:
            before, _ = _without_marks(self._render(messages[:index], ask=True))
            after, _ = _without_marks(self._render(messages[: index + 1]))
            if not (after.startswith(before) and text.startswith(after)):
                raise _drift(index, before, text[: len(after)])
            spans.append((len(before), len(before) + self._answer_length(after[len(before) :])))
        return spans

    def _asked(self, messages: Sequence[Message], index: int, text: str) -> tuple[int, int]:
        """Return how much of the text asks for a turn, and how many marked blocks are in that."""
        if index == 0:
            return 0, 0
        asked, marks = _without_marks(self._render(messages[:index], ask=True))
        if not text.startswith(asked):
            raise _drift(index, asked, text)
        return len(asked), len(marks)

    def _header(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Return where in a prompt a marked block begins that holds the generation prompt too."""
        if not _MARKS.search(self.source):
            return []
        probe = [*messages, {"role": "assistant", "content": "a"}]
        written, marks = _without_marks(self._render(probe))
        if not written.startswith(text):
            return []
        return [(start, len(text)) for start, end in marks if start < len(text) < end]

    def _answer_length(self, written: str) -> int:
        """Return how much of what follows the prompt a model has to write.

        A turn's end token is the last thing that a model writes: white space that the template puts
        behind it belongs to the next turn.
        """
        body = written.rstrip()
        closed = any(body.endswith(token) for token in self.dialect.control_tokens)
        return len(body) if closed else len(written)

    def _render(self, messages: Sequence[Message], *, ask: bool = False) -> str:
        import jinja2

        try:
            return _compiled(self.source).render(
                messages=messages,
                add_generation_prompt=ask,
                tools=None,
                documents=None,
                bos_token=self.dialect.bos_token or "",
                eos_token=self.dialect.eos_token or "",
            )
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template refuses the conversation: {error}") from error
        except Exception as error:  # a template may divide by zero, and so on
            raise TemplateError(f"the chat template fails on the conversation: {error}") from error


def _drift(index: int, asked: str, trained: str) -> TemplateError:
    return TemplateError(
        f"the chat template writes turn {index} (an assistant's) differently when the "
        "model is asked for it and when it is history, so what the model would learn "
        "is not what it will be asked; use Chat(learn='last')\n"
        f"  asked:   ...{asked[-80:]!r}\n  trained: ...{trained[-80:]!r}"
    )


def _split_at(position: int, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Make a seam at a position: cut the span that holds it, or put an empty one before the next.

    >>> _split_at(3, [(1, 5), (7, 9)]), _split_at(6, [(1, 5), (7, 9)])
    ([(1, 3), (3, 5), (7, 9)], [(1, 5), (6, 6), (7, 9)])
    """
    before = [(start, min(end, position)) for start, end in spans if start < position]
    after = [(max(start, position), end) for start, end in spans if max(start, end - 1) >= position]
    seam = [(position, position)] if after and after[0][0] > position else []
    return before + seam + after


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
                self._deep(key): str.__str__(part) if key == "role" else self._deep(part)
                for key, part in message.items()
            }
            for message in messages
        ]

    def _deep(self, part: Any) -> Any:
        """Return plain JSON with its words hidden; of anything else, a template sees the type only.

        Objects have methods, such as an array's `tofile`, that a sandbox does not know to be unsafe.
        """
        if isinstance(part, str):
            return self._text(str.__str__(part))
        if part is None or type(part) in (bool, int, float):
            return part
        if isinstance(part, Mapping):
            return {self._deep(key): self._deep(inner) for key, inner in part.items()}
        if isinstance(part, (list, tuple)):
            return [self._deep(inner) for inner in part]
        return f"<{type(part).__name__}>"

    def segments(self, text: str, spans: Sequence[tuple[int, int]]) -> list[Segment]:
        """Cut a rendered text at the spans' edges, and put the hidden words back, not trusted."""
        segments = []
        position = 0
        for start, end in spans:
            segments += self._restored(text[position:start], learn=False)
            segments += self._restored(text[start:end], learn=True)
            position = end
        return segments + self._restored(text[position:], learn=False, seam=False)

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


def _without_marks(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Take the `{% generation %}` marks out of a text and return where they stood."""
    spans = []
    plain = ""
    for part in re.split(f"({_OPEN}[^{_CLOSE}]*{_CLOSE})", text):
        if part.startswith(_OPEN):
            part = part[1:-1]
            spans.append((len(plain), len(plain) + len(part)))
        plain += part
    return plain, spans


@functools.lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}...{% endgeneration %}`, as transformers has it."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body)
            return call.set_lineno(line)

        def _mark(self, caller: Any) -> str:
            return f"{_OPEN}{caller()}{_CLOSE}"

    # Source: transformers/utils/chat_template_utils.py, _compile_jinja_template: the same switches
    # and helpers, so that a template renders here as it does there.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: (_CLOCK.get() or datetime.now()).strftime(
        form
    )
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise TemplateError(f"the chat template is not valid jinja: {error}") from error


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _tojson(
    data: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        data, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


_PRINTED = re.compile(r"strftime_now\(\s*(?:'([^']*)'|\"([^\"]*)\")\s*\)")


def printed_dates(source: str) -> tuple[str, ...]:
    """Return the dates that a template prints at this moment, as far as its text tells their form.

    A form that is not written out is taken for one to the second.

    >>> with at_time("2026-01-02T03:04:05"):
    ...     printed_dates("{{ strftime_now('%d %b %Y') }}")
    ('02 Jan 2026',)
    """
    forms = [single or double for single, double in _PRINTED.findall(source)]
    if "strftime_now" in re.sub(r"strftime_now\s+is\b", "", _PRINTED.sub("", source)):
        forms.append("%Y-%m-%dT%H:%M:%S")
    moment = _CLOCK.get() or datetime.now()
    return tuple(dict.fromkeys(moment.strftime(form) for form in forms))
