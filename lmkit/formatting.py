"""Format: a record becomes segments of text, each marked as learned or only read.

In comes a record (a mapping from column to value), out goes a list of `Segment`; encoding is next.
The same formatter renders the training text and, without the answer, the prompt: that is why the
two cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import attrs

from lmkit.errors import RecordError, TemplateError
from lmkit.tokenizing import Dialect
from lmkit.values import value

Record = Mapping[str, Any]

PLAIN = Dialect()


@value
class Segment:
    """A piece of text.

    Two neighbours of unlike `learn` are encoded apart, so an empty segment works as a seam.

    Attributes:
        text: the piece itself.
        learn: whether the loss sees it.
        trusted: whether control tokens in it act as such; text from a record is not trusted.
    """

    text: str
    learn: bool = False
    trusted: bool = False


@runtime_checkable
class Formatter(Protocol):
    """What turns a record into segments; it runs in training and in the torch-free runtime."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it may read when training."""

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The columns it may read at inference."""

    @property
    def learns(self) -> bool:
        """Whether any of its text is to be learned."""

    @property
    def delimited(self) -> bool:
        """Whether its text brings its own start and end tokens, as a chat template's does."""

    def segments(self, record: Record, dialect: Dialect = PLAIN) -> list[Segment]:
        """Return the whole training text; raise `RecordError` for an unfit record."""

    def prompt(self, record: Record, dialect: Dialect = PLAIN) -> list[Segment]:
        """Return the text up to where the answer begins, exactly as `segments` writes it."""

    def stop_tokens(self, dialect: Dialect) -> tuple[str, ...]:
        """Return the control tokens, besides the tokenizer's EOS, that end an answer."""

    def chat_template(self, dialect: Dialect) -> str | None:
        """Return the chat template that a run or a bundle must carry, or None."""


_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@attrs.frozen
class Literal:
    """Text that a template writes as it stands."""

    text: str


@attrs.frozen
class Column:
    """A place where a template writes a column's value."""

    name: str


def parse_template(template: str) -> tuple[Literal | Column, ...]:
    """Split a template into literal text and columns.

    `{column}` and nothing cleverer; `{{` and `}}` are braces. A template is data: it can reach
    nothing but the record's columns, so it is safe to load from a stranger's bundle.

    Raises:
        TemplateError: a brace without its partner, or something else than a column's name in braces.

    >>> parse_template("Q: {question} {{sic}}")
    (Literal(text='Q: '), Column(name='question'), Literal(text=' {sic}'))
    """
    if not isinstance(template, str):
        raise TemplateError(f"a template is a string, not a {type(template).__name__}")
    parts: list[Literal | Column] = []
    literal, position = "", 0
    for match in _TOKEN.finditer(template):
        literal += template[position : match.start()]
        position = match.end()
        if match.group() in ("{{", "}}"):
            literal += match.group()[0]
            continue
        name = match.group(1)
        if name is None:
            raise TemplateError(
                f"{template!r} has a lone '{match.group()}' at character {match.start()}; "
                "write '{{' or '}}' for a brace"
            )
        if not name.isidentifier():
            raise TemplateError(
                f"{template!r} has '{{{name}}}', but only a column's name may stand in braces: no "
                "attributes, indexing, conversions or format specs; rename the column if its name "
                "is no identifier, or write '{{' for a brace"
            )
        if literal:
            parts.append(Literal(literal))
        parts.append(Column(name))
        literal = ""
    literal += template[position:]
    if literal:
        parts.append(Literal(literal))
    return tuple(parts)


@value
class Piece:
    """One template with the choice whether it is learned, and the columns it depends on."""

    template: str = attrs.field()
    learn: bool = False
    when: tuple[str, ...] = ()

    @template.validator
    def _check(self, attribute: object, template: str) -> None:
        parse_template(template)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads, and those it depends on."""
        named = [part.name for part in parse_template(self.template) if isinstance(part, Column)]
        return tuple(dict.fromkeys([*self.when, *named]))

    def applies(self, record: Record) -> bool:
        """Say whether every column it depends on is present and not blank."""
        return all(not _blank(record.get(column)) for column in self.when)

    def render(self, record: Record) -> list[Segment]:
        """Return the piece's text for a record; what comes from the record is not trusted."""
        return [
            Segment(part.text, self.learn, trusted=True)
            if isinstance(part, Literal)
            else Segment(column_text(record, part.name), self.learn)
            for part in parse_template(self.template)
        ]


@value
class Template:
    r"""Pieces of text in order: the formatter that `context(...) + target(...)` builds.

    >>> qa = context("Q: {question}\nA:") + target(" {answer}")
    >>> qa.prompt_columns
    ('question',)
    >>> [segment.text for segment in qa.segments({"question": "1+1?", "answer": "2"})]
    ['Q: ', '1+1?', '\nA:', ' ', '2']
    """

    pieces: tuple[Piece, ...]

    delimited = False

    def __add__(self, other: Template) -> Template:
        if not isinstance(other, Template):
            return NotImplemented
        return Template(self.pieces + other.pieces)

    def __str__(self) -> str:
        return " + ".join(
            f"{'target' if piece.learn else 'context'}({piece.template!r})"
            + (f".when({', '.join(map(repr, piece.when))})" if piece.when else "")
            for piece in self.pieces
        )

    def when(self, *columns: str) -> Template:
        """Return these pieces, kept only in records where the columns are present and not blank."""
        if not columns:
            raise TemplateError("when() needs the name of a column")
        return Template(
            tuple(attrs.evolve(piece, when=(*piece.when, *columns)) for piece in self.pieces)
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column, in the order of first use."""
        return _columns(self.pieces)

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The columns before the first target."""
        return _columns(self._prompt_pieces())

    @property
    def learns(self) -> bool:
        """Whether there is a target."""
        return any(piece.learn for piece in self.pieces)

    @property
    def trailing(self) -> tuple[Piece, ...]:
        """The context pieces after the last target, which no answer can depend on."""
        last = max((i for i, piece in enumerate(self.pieces) if piece.learn), default=-1)
        return self.pieces[last + 1 :] if last >= 0 else ()

    @property
    def interrupted(self) -> tuple[Piece, ...]:
        """The context pieces after the first target, which no prompt has."""
        return tuple(p for p in self.pieces[len(self._prompt_pieces()) :] if not p.learn)

    def segments(self, record: Record, dialect: Dialect = PLAIN) -> list[Segment]:
        """Return the whole training text of a record."""
        asked = self._prompt_pieces()
        answer = _render(self.pieces[len(asked) :], record)
        if any(segment.learn for segment in answer) and not answer[0].learn:
            # The first target is left out: the prompt still ends where it would have stood.
            answer.insert(0, Segment("", learn=True))
        return _render(asked, record) + answer

    def prompt(self, record: Record, dialect: Dialect = PLAIN) -> list[Segment]:
        """Return the text before the first target."""
        return _render(self._prompt_pieces(), record)

    def stop_tokens(self, dialect: Dialect) -> tuple[str, ...]:
        """Return nothing: the tokenizer's own EOS ends the answer."""
        return ()

    def chat_template(self, dialect: Dialect) -> str | None:
        """Return None: plain text needs no chat template."""
        return None

    def _prompt_pieces(self) -> tuple[Piece, ...]:
        first = next((i for i, piece in enumerate(self.pieces) if piece.learn), len(self.pieces))
        return self.pieces[:first]


def context(template: str) -> Template:
    """Return text that the model reads.

    Args:
        template: text with `{column}` places; `{{` and `}}` are braces.
    Raises:
        TemplateError: the template is malformed.
    """
    return Template((Piece(template),))


def target(template: str) -> Template:
    """Return text that the model learns to write; see `context` for the template's form."""
    return Template((Piece(template, learn=True),))


def column_text(record: Record, column: str) -> str:
    """Return a column's value as text.

    Raises:
        RecordError: the column is missing, null, or neither text nor a number.
    """
    if column not in record:
        have = ", ".join(map(str, record)) or "no columns"
        raise RecordError("", f"column '{column}' is missing; the record has {have}")
    content = record[column]
    if isinstance(content, str):
        return content
    if isinstance(content, (int, float)) and not isinstance(content, bool):
        if content != content:  # NaN is how tables write an empty cell
            raise RecordError("", f"column '{column}' is empty (NaN), expected text")
        return str(content)
    found = "null" if content is None else f"a {type(content).__name__}"
    raise RecordError("", f"column '{column}' is {found}, expected text")


def _blank(content: Any) -> bool:
    if isinstance(content, float):
        return content != content  # NaN is how tables write an empty cell
    return content is None or (isinstance(content, str) and not content.strip())


def _render(pieces: Iterable[Piece], record: Record) -> list[Segment]:
    return [
        segment for piece in pieces if piece.applies(record) for segment in piece.render(record)
    ]


def _columns(pieces: Iterable[Piece]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for piece in pieces for column in piece.columns))
