"""Format a conversation: the messages of a record, as a chat template writes them.

The template is the tokenizer's own, a built-in one, or the user's; `lmkit.rendering` runs it and
finds out which part of the text the assistant wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from lmkit.errors import RecordError, TaskError, TemplateError
from lmkit.formatting import PLAIN, Column, Record, Segment, column_text, parse_template
from lmkit.rendering import Message, Rendering
from lmkit.tokenizing import Dialect
from lmkit.values import value

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

    def _rendering(self, dialect: Dialect) -> Rendering:
        source = self.chat_template(dialect)
        assert source is not None
        return Rendering(source, dialect)

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


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"the chat template '{path}' cannot be read: {error}") from error


def _kind(found: Any) -> str:
    if found is None:
        return "null"
    if isinstance(found, (str, list)) and not found:
        return "empty"
    return f"a {type(found).__name__}"
