"""Format a conversation: any chat template, with the assistant's words marked as learned.

The template is the tokenizer's own, a built-in one, or the user's. It is rendered in jinja2's
immutable sandbox by the same code in training and in the runtime, with what transformers gives to
a template (`raise_exception`, `strftime_now`, `tojson`, loop controls, `{% generation %}`).

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
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from lmkit.errors import RecordError, TaskError, TemplateError
from lmkit.formatting import PLAIN, Column, Record, Segment, column_text, parse_template
from lmkit.tokenizing import Dialect
from lmkit.values import value

if TYPE_CHECKING:
    import jinja2

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
LEARN = ("assistant", "last", "all")

# Source: ChatML as OpenAI published it, without a default system text.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BUILT_IN = {"chatml": CHATML}

# Plane 15 of Unicode is private use: text that has such a character anyway is escaped as well.
_ESCAPES = range(0xF0100, 0xFFFFD)
_MARKS = re.compile(r"\{%[-+]?\s*generation\b")
_OPEN, _CLOSE = chr(0xF0000), chr(0xF0001)  # where a {% generation %} block begins and ends


@value
class Turn:
    """One message built from columns: a role, and a template for its content."""

    role: str = attrs.field()
    template: str = attrs.field()

    @role.validator
    def _check_role(self, attribute: object, role: str) -> None:
        if role not in ROLES:
            raise TaskError(f"a turn has the role {role!r}; expected one of {', '.join(ROLES)}")

    @template.validator
    def _check_template(self, attribute: object, template: str) -> None:
        parse_template(template)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the content is made of."""
        return tuple(p.name for p in parse_template(self.template) if isinstance(p, Column))

    def render(self, record: Record) -> Message:
        """Return the message for a record."""
        parts = parse_template(self.template)
        content = "".join(
            column_text(record, part.name) if isinstance(part, Column) else part.text
            for part in parts
        )
        return {"role": self.role, "content": content}


def _as_turns(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    return tuple(turns)


@value(kw_only=True)
class Chat:
    """A conversation, rendered with a chat template.

    Attributes:
        messages: the column that holds the messages, a list of `{"role": ..., "content": ...}`.
        system: a system message for conversations that have none.
        learn: `assistant` (every assistant turn), `last` (the last one) or `all` (the whole text).
        template: None for the tokenizer's own; else `chatml`, a path to a `.jinja` file, or the
            template's text.
        turns: messages built from flat columns instead; see `Chat.of`.
    """

    messages: str = "messages"
    system: str | None = None
    learn: str = attrs.field(default="assistant")
    template: str | None = attrs.field(default=None)
    turns: tuple[Turn, ...] = attrs.field(default=(), converter=_as_turns)

    @turns.validator
    def _check_turns(self, attribute: object, turns: tuple[Turn, ...]) -> None:
        if turns and turns[-1].role != "assistant":
            raise TaskError(
                f"Chat turns end with the {turns[-1].role}'s; expected the assistant's, the answer"
            )

    delimited = True
    learns = True

    @learn.validator
    def _check_learn(self, attribute: object, learn: str) -> None:
        if learn not in LEARN:
            raise TaskError(f"Chat learn is {learn!r}; expected one of {', '.join(LEARN)}")

    @template.validator
    def _check_template(self, attribute: object, template: str | None) -> None:
        if template is not None and not (
            template in BUILT_IN or template.endswith(".jinja") or "{" in template
        ):
            raise TaskError(
                f"Chat template is {template!r}; expected a built-in name "
                f"({', '.join(BUILT_IN)}), a path that ends in .jinja, or a template's text"
            )

    @classmethod
    def of(
        cls,
        *,
        user: str,
        assistant: str,
        system: str | None = None,
        learn: str = "assistant",
        template: str | None = None,
    ) -> Chat:
        """Return a chat of one exchange, built from flat columns.

        Args:
            user: a template such as `"{question}"`.
            assistant: a template for the answer.
            system: a template for the system message, if there is to be one.
            learn: as in `Chat`.
            template: as in `Chat`.
        """
        turns = [Turn("user", user), Turn("assistant", assistant)]
        if system is not None:
            turns.insert(0, Turn("system", system))
        return cls(turns=tuple(turns), learn=learn, template=template)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads when training."""
        if not self.turns:
            return (self.messages,)
        return tuple(dict.fromkeys(name for turn in self.turns for name in turn.columns))

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The columns it reads at inference."""
        if not self.turns:
            return (self.messages,)
        asked = self.turns[:-1]
        return tuple(dict.fromkeys(name for turn in asked for name in turn.columns))

    def portable(self) -> Chat:
        """Return this chat with a template file's text in place of its path."""
        if self.template is None or not self.template.endswith(".jinja"):
            return self
        return attrs.evolve(self, template=_read_template(self.template))

    def chat_template(self, dialect: Dialect) -> str | None:
        """Return the template's text: ours if one was chosen, else the tokenizer's."""
        chosen = self.portable().template
        if chosen is not None:
            return BUILT_IN.get(chosen, chosen)
        if dialect.chat_template is None:
            raise TemplateError(
                "the tokenizer has no chat template, and the task names none; "
                "give one, as in Chat(template='chatml') or Chat(template='my.jinja')"
            )
        return dialect.chat_template

    def segments(self, record: Record, dialect: Dialect = PLAIN) -> list[Segment]:
        """Return the rendered conversation, the assistant's words learned."""
        messages = self._conversation(record)
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            raise RecordError("", f"column '{self.messages}' has no assistant turn to learn")
        return self._rendering(dialect).training(messages, answers, self.learn)

    def prompt(self, record: Record, dialect: Dialect = PLAIN) -> list[Segment]:
        """Return the conversation up to where the next assistant turn begins.

        If the last message is the assistant's, it is the answer and left out.
        """
        if self.turns:
            messages = [turn.render(record) for turn in self.turns[:-1]]
        else:
            messages = self._conversation(record)
            if messages[-1]["role"] == "assistant":
                messages = messages[:-1]
        if not messages:
            raise RecordError("", f"column '{self.messages}' has no turn to answer")
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        return self._rendering(dialect).prompt(messages, answers, self.learn)

    def stop_tokens(self, dialect: Dialect) -> tuple[str, ...]:
        """Return the control token with which the template ends an assistant turn, if any."""
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        segments = self._rendering(dialect).training(probe, [1], "last")
        last = max((i for i, segment in enumerate(segments) if segment.learn), default=-1)
        answer = "".join(segment.text for segment in segments[: last + 1]).rstrip()
        behind = "".join(segment.text for segment in segments[last + 1 :])
        tokens = sorted(dialect.control_tokens, key=len, reverse=True)
        ends = [token for token in tokens if answer.endswith(token)] or [
            token for token in tokens if behind.startswith(token)
        ]
        return tuple(ends[:1])

    def _rendering(self, dialect: Dialect) -> _Rendering:
        source = self.chat_template(dialect)
        assert source is not None
        return _Rendering(source, dialect)

    def _conversation(self, record: Record) -> list[Message]:
        if self.turns:
            return [turn.render(record) for turn in self.turns]
        messages = check_messages(record, self.messages)
        if self.system is not None and messages[0]["role"] not in ("system", "developer"):
            messages.insert(0, {"role": "system", "content": self.system})
        return messages


def check_messages(record: Record, column: str) -> list[Message]:
    """Return a record's messages, each checked.

    Raises:
        RecordError: the column is missing or is no list of messages; the text names the message.
    """
    if column not in record:
        have = ", ".join(map(str, record)) or "no columns"
        raise RecordError("", f"column '{column}' is missing; the record has {have}")
    found = record[column]
    if isinstance(found, str) or not isinstance(found, Sequence) or not found:
        raise RecordError(
            "",
            f"column '{column}' is {_kind(found)}, expected a list of messages such as "
            '[{"role": "user", "content": "..."}]',
        )
    messages = []
    for index, message in enumerate(found):
        place = f"$.{column}[{index}]"
        if not isinstance(message, Mapping):
            raise RecordError("", f"{place} is {_kind(message)}, expected a role and a content")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise RecordError("", f"{place}.role is {role!r}, expected one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise RecordError("", f"{place}.content is {_kind(content)}, expected text")
        # Arrow gives a key that other rows have as None: to a template, that is an absent key.
        messages.append({key: part for key, part in message.items() if part is not None})
    return messages


@attrs.frozen
class _Rendering:
    """One template under one tokenizer."""

    source: str
    dialect: Dialect

    def training(
        self, messages: Sequence[Message], answers: Sequence[int], learn: str
    ) -> list[Segment]:
        escape = _Escape(self.dialect.control_tokens)
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
        escape = _Escape(self.dialect.control_tokens)
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


class _Escape:
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


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"the chat template '{path}' cannot be read: {error}") from error


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
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
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


def _kind(found: Any) -> str:
    if found is None:
        return "null"
    if isinstance(found, (str, list)) and not found:
        return "empty"
    return f"a {type(found).__name__}"
