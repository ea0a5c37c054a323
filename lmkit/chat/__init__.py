"""Format a conversation: the messages of a record, as a chat template writes them.

The template is the tokenizer's own, a built-in one, or the user's. A conversation goes through this
package so: `messages` checks what the record holds, `forms` gives it the form that the template reads,
`escaping` hides the record's control tokens, `rendering` runs the template, and `unrolling` finds out
which part of the text the assistant wrote. Conversations of one shape go the short way: `tracing` and
`replaying` render them without running the template, `sketching` cuts them without looking.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from lmkit.chat.messages import (
    ROLES,
    SYSTEM_ROLES,
    Message,
    before_the_user,
    check_messages,
    check_tools,
    texts_of,
)
from lmkit.chat.rendering import Rendering
from lmkit.chat.sketching import training_texts
from lmkit.chat.unrolling import Unroller, endings
from lmkit.errors import RecordError, TaskError, TemplateError
from lmkit.formatting import PLAIN, Column, Record, Segment, column_text, parse_template
from lmkit.tokenizing import Dialect
from lmkit.values import value

LEARN = ("assistant", "last", "all")
SYSTEM_AS = ("system", "user")
OURS = ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token")

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


def _as_dict(variables: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(variables, Mapping):
        raise TaskError(f"Chat variables is {variables!r}; expected names with their values")
    return dict(variables)


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
        tools: the column that holds the tools' definitions, a list or JSON of one; a record without
            it has none. None to read none.
        variables: what else the template is given, such as `{"enable_thinking": False}`.
        system_as: `system`, or `user` to put a system message in front of the first user's, for a
            template that knows no system message.
    """

    messages: str = "messages"
    system: str | None = None
    learn: str = attrs.field(default="assistant")
    template: str | None = attrs.field(default=None)
    turns: tuple[Turn, ...] = attrs.field(default=(), converter=_as_turns)
    tools: str | None = "tools"
    variables: Mapping[str, Any] = attrs.field(factory=dict, converter=_as_dict, hash=False)
    system_as: str = attrs.field(default="system")

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

    @variables.validator
    def _check_variables(self, attribute: object, variables: Mapping[str, Any]) -> None:
        for name in variables:
            if not isinstance(name, str) or not name.isidentifier() or name in OURS:
                raise TaskError(
                    f"Chat variables has {name!r}; expected names of a template's own variables, "
                    f"and none of {', '.join(OURS)}"
                )
        try:
            json.dumps(variables, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TaskError(f"Chat variables cannot become JSON: {error}") from error

    @system_as.validator
    def _check_system_as(self, attribute: object, system_as: str) -> None:
        if system_as not in SYSTEM_AS:
            raise TaskError(
                f"Chat system_as is {system_as!r}; expected one of {', '.join(SYSTEM_AS)}"
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
        return cls(turns=tuple(turns), learn=learn, template=template, tools=None)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads when training."""
        return self._columns(self.turns)

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The columns it reads at inference."""
        return self._columns(self.turns[:-1])

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
        """Return the text of the whole conversation, the assistant's words learned.

        Where the template rewrites history, it teaches some answers only; see `unrolled`.
        """
        return self.unrolled(record, dialect)[-1]

    def unrolled(self, record: Record, dialect: Dialect = PLAIN) -> list[list[Segment]]:
        """Return the training texts of a conversation, in which every answer is learned once.

        It is one text, unless the template writes an earlier answer otherwise than the last one.
        Then the conversation up to that answer is a text too.

        Raises:
            RecordError: the record has no fit messages, or none of the assistant's.
            TemplateError: the template refuses the conversation, or asks for an answer with another
                text than the training text has before it.
        """
        messages = self._conversation(record)
        if not any(message["role"] == "assistant" for message in messages):
            raise RecordError("", f"column '{self.messages}' has no assistant turn to learn")
        return training_texts(self._unroller(messages, record, dialect), self.learn)

    def dropped(self, record: Record, dialect: Dialect = PLAIN) -> list[str]:
        """Return what the messages say and no training text has, such as earlier reasoning."""
        texts = [
            "".join(segment.text for segment in text) for text in self.unrolled(record, dialect)
        ]
        said = [text for message in self._conversation(record) for text in texts_of(message)]
        return [piece for part in said for piece in _pieces(part) if not _has_words(texts, piece)]

    def prompt(self, record: Record, dialect: Dialect = PLAIN) -> list[Segment]:
        """Return the conversation up to where the next assistant turn begins.

        If the last message is the assistant's, it is the answer and left out.
        """
        messages = self._conversation(record, asked=True)
        if not messages:
            raise RecordError("", f"column '{self.messages}' has no turn to answer")
        return self._unroller(messages, record, dialect).prompt(self.learn)

    def stop_tokens(self, dialect: Dialect) -> tuple[str, ...]:
        """Return the control tokens with which the template ends an assistant turn, if any."""
        found = endings(self._rendering(dialect))
        # Where a template closes no turn, the tokenizer's EOS stays what ends a conversation.
        eos = (dialect.eos_token,) if found.following and dialect.eos_token else ()
        return tuple(dict.fromkeys((*found.final, *found.closing, *eos, *found.following)))

    def _columns(self, turns: tuple[Turn, ...]) -> tuple[str, ...]:
        written = [name for turn in turns for name in turn.columns]
        read = written if self.turns else [self.messages]
        return tuple(dict.fromkeys([*read, *([self.tools] if self.tools else [])]))

    def _rendering(self, dialect: Dialect) -> Rendering:
        source = self.chat_template(dialect)
        assert source is not None
        return _rendering(source, dialect, json.dumps(self.variables, sort_keys=True))

    def _unroller(self, messages: list[Message], record: Record, dialect: Dialect) -> Unroller:
        tools = check_tools(record, self.tools) if self.tools else None
        return Unroller(self._rendering(dialect), messages, tools)

    def _conversation(self, record: Record, *, asked: bool = False) -> list[Message]:
        """Return the messages, without the answer if it is to be asked for."""
        if self.turns:
            messages = [turn.render(record) for turn in self.turns[: -1 if asked else None]]
        else:
            messages = check_messages(record, self.messages)
            if asked and messages[-1]["role"] == "assistant":
                messages = messages[:-1]
            if self.system is not None and not (messages and messages[0]["role"] in SYSTEM_ROLES):
                messages.insert(0, {"role": "system", "content": self.system})
        if self.system_as == "user" and messages:
            messages = before_the_user(messages, self.messages)
        return messages


@functools.lru_cache(maxsize=64)
def _rendering(source: str, dialect: Dialect, variables: str) -> Rendering:
    return Rendering(source, dialect, variables)


def _pieces(text: str) -> Iterator[str]:
    """Yield the parts of a text that a template may write apart: lines, and what tags enclose."""
    for piece in re.split(r"\n|</?\w+>", text):
        if piece.strip():
            yield piece.strip()


def _has_words(texts: Iterable[str], piece: str) -> bool:
    quoted = json.dumps(piece, ensure_ascii=False)[1:-1]
    return any(piece in text or quoted in text for text in texts)


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"the chat template '{path}' cannot be read: {error}") from error
