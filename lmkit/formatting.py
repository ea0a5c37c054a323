"""Format: a record becomes segments of text, each marked as learned or only read.

In comes a record (a mapping from column to value), out goes a list of `Segment`; encoding is next.
The same formatter renders the training text and, without the answer, the prompt: that is why the
two cannot drift apart.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs

from lmkit.errors import RecordError, TemplateError
from lmkit.tokenizing import Dialect
from lmkit.values import value

Record = Mapping[str, Any]

PLAIN = Dialect()

FIRST = -1  # the order of what is said to be cut, before what says nothing of itself


SIDES = ("left", "right", "whole", "never")


@value
class Cut:
    """What a row that is too long may lose of a segment.

    Attributes:
        side: `left` or `right`, from which ids go one by one; `whole`, all of it or nothing; or
            `never`.
        order: what is of a lower order goes first. What says nothing of itself is of order 0.
    """

    side: str = attrs.field()
    order: int = attrs.field(default=0)

    @side.validator
    def _check_side(self, attribute: object, side: str) -> None:
        if side not in SIDES:
            raise TemplateError(f"cut is {side!r}; expected one of {', '.join(SIDES)}")

    @order.validator
    def _check_order(self, attribute: object, order: int) -> None:
        if isinstance(order, bool) or not isinstance(order, int):
            raise TemplateError(f"cut order is {order!r}; expected a whole number")


@value
class Segment:
    """A piece of text.

    Two neighbours of unlike `learn` are encoded apart, so an empty segment works as a seam.

    Attributes:
        text: the piece itself.
        learn: whether the loss sees it.
        trusted: whether control tokens in it act as such; text from a record is not trusted.
        cut: what of it goes where the row is too long; None leaves it to the collator.
        quoted: whether somebody typed it, so that marks such as `<think>` are plain text in it even
            where it is learned.
    """

    text: str
    learn: bool = False
    trusted: bool = False
    cut: Cut | None = None
    quoted: bool = False


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


@runtime_checkable
class Unrolling(Protocol):
    """A formatter of which one record may become several training texts."""

    def unrolled(self, record: Record, dialect: Dialect = PLAIN) -> list[list[Segment]]:
        """Return each training text of a record, the last one being the whole record's."""


@runtime_checkable
class Dropping(Protocol):
    """A formatter that may leave a record's words out, as some chat templates do."""

    def dropped(self, record: Record, dialect: Dialect = PLAIN) -> list[str]:
        """Return the pieces of a record's text that none of its training texts has."""


def training_texts(
    formatter: Formatter, record: Record, dialect: Dialect = PLAIN
) -> list[list[Segment]]:
    """Return the segments of each training text of a record: one, unless the formatter unrolls it."""
    unrolled = getattr(formatter, "unrolled", None)  # a protocol's isinstance takes 10 us a record
    if unrolled is None:
        return [formatter.segments(record, dialect)]
    texts: list[list[Segment]] = unrolled(record, dialect)
    return texts


_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@attrs.frozen
class Literal:
    """Text that a template writes as it stands."""

    text: str


@attrs.frozen
class Column:
    """A place where a template writes a column's value."""

    name: str


@functools.lru_cache(maxsize=256)
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
    """One template with the choice whether it is learned, and the columns it depends on.

    Attributes:
        template: text with `{column}` places.
        learn: whether it is learned.
        when: columns without which it is not written.
        cut: what of it goes where a row is too long. From the left or the right, it is the columns'
            text that goes, and what the template writes around them stays as if nothing was said.
    """

    template: str = attrs.field()
    learn: bool = False
    when: tuple[str, ...] = ()
    cut: Cut | None = None

    @template.validator
    def _check(self, attribute: object, template: str) -> None:
        parse_template(template)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads, and those it depends on."""
        named = [part.name for part in parse_template(self.template) if isinstance(part, Column)]
        return tuple(dict.fromkeys([*self.when, *named]))

    def __str__(self) -> str:
        kind = "target" if self.learn else "context"
        return f"{kind}({self.template!r}){_condition(self.when)}{_written_cut(self.cut)}"

    def applies(self, record: Record) -> bool:
        """Say whether every column it depends on is present and not blank."""
        return _all_there(self.when, record)

    def render(self, record: Record) -> list[Segment]:
        """Return the piece's text for a record; what comes from the record is not trusted."""
        around = None if self.cut is None or self.cut.side in ("left", "right") else self.cut
        return [
            Segment(part.text, self.learn, trusted=True, cut=around)
            if isinstance(part, Literal)
            else Segment(column_text(record, part.name), self.learn, cut=self.cut)
            for part in parse_template(self.template)
        ]


@value
class Choice:
    """Alternatives, of which a record gets the first that fits: what `a | b` builds.

    An alternative fits a record in which every column that it names, in its text or in a `when`, is
    present and not blank. So one that needs less than another stands behind it, and one without columns
    last of all.

    Attributes:
        alternatives: each is one or more pieces, all of them read or all of them learned.
        when: columns without which nothing of it is written.
    """

    alternatives: tuple[tuple[Piece, ...], ...] = attrs.field()
    when: tuple[str, ...] = ()

    @alternatives.validator
    def _check(self, attribute: object, alternatives: tuple[tuple[Piece, ...], ...]) -> None:
        if len(alternatives) < 2 or not all(alternatives):
            raise TemplateError("a choice has fewer than two alternatives, or one without a text")
        if len({piece.learn for pieces in alternatives for piece in pieces}) > 1:
            raise TemplateError(
                f"{self} has a context and a target to choose from, but the prompt must end at one "
                "place in every record; choose among contexts or among targets, and set the choice "
                "in parentheses where it is joined with '+'"
            )
        for before, pieces in itertools.combinations(alternatives, 2):
            if set(_columns(before)) <= set(_columns(pieces)):
                raise TemplateError(
                    f"{_written(pieces)} is never written: every record that it fits gets "
                    f"{_written(before)}, which stands before it and needs no other column; put the "
                    "one that needs more first"
                )

    def __str__(self) -> str:
        return f"({' | '.join(map(_written, self.alternatives))}){_condition(self.when)}"

    @property
    def learn(self) -> bool:
        """Whether what it writes is learned."""
        return self.alternatives[0][0].learn

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it may read or depend on."""
        return tuple(
            dict.fromkeys(
                [*self.when, *(c for pieces in self.alternatives for c in _columns(pieces))]
            )
        )

    def applies(self, record: Record) -> bool:
        """Say whether every column that the whole choice depends on is present and not blank."""
        return _all_there(self.when, record)

    def render(self, record: Record) -> list[Segment]:
        """Return the text of the first alternative that fits.

        Raises:
            RecordError: none fits; the text says what each one needs.
        """
        for pieces in self.alternatives:
            if _all_there(_columns(pieces), record):
                return _render(pieces, record)
        needs = "; ".join(
            f"{_written(pieces)} needs {' and '.join(_columns(pieces))}"
            for pieces in self.alternatives
        )
        have = ", ".join(str(column) for column in record if _all_there([column], record))
        raise RecordError(
            "",
            f"no alternative fits: {needs}; the record has {have or 'nothing that is not blank'}",
        )


Part = Piece | Choice


@value
class Template:
    r"""Pieces of text in order: the formatter that `context(...) + target(...)` builds.

    `a | b` is a choice: each record gets the first alternative whose columns it has.

    >>> qa = context("Q: {question}\nA:") + target(" {answer}")
    >>> qa.prompt_columns
    ('question',)
    >>> [segment.text for segment in qa.segments({"question": "1+1?", "answer": "2"})]
    ['Q: ', '1+1?', '\nA:', ' ', '2']
    """

    pieces: tuple[Part, ...]

    delimited = False

    def __add__(self, other: Template) -> Template:
        if not isinstance(other, Template):
            return NotImplemented
        return Template(self.pieces + other.pieces)

    def __or__(self, other: Template) -> Template:
        if not isinstance(other, Template):
            return NotImplemented
        return Template((Choice(_alternatives(self) + _alternatives(other)),))

    def __str__(self) -> str:
        return _written(self.pieces)

    def when(self, *columns: str) -> Template:
        """Return these pieces, kept only in records where the columns are present and not blank."""
        if not columns:
            raise TemplateError("when() needs the name of a column")
        return Template(
            tuple(attrs.evolve(piece, when=(*piece.when, *columns)) for piece in self.pieces)
        )

    def cut(self, side: str, *, order: int = FIRST) -> Template:
        r"""Return these pieces, of which a row that is too long loses ids as is said here.

        Args:
            side: `left` or `right`, from which the columns' text goes token by token; `whole`, all or
                nothing of it; or `never`.
            order: what is of a lower order goes first. The default goes before all that says nothing
                of itself, which is of order 0.

        >>> template = context("Sum up:\n") + context("{document}\n").cut("right")
        >>> print(template)
        context('Sum up:\n') + context('{document}\n').cut('right')
        """
        chosen = Cut(side, order)
        return Template(tuple(_cut(piece, chosen) for piece in self.pieces))

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
    def trailing(self) -> tuple[Part, ...]:
        """The context pieces after the last target, which no answer can depend on."""
        last = max((i for i, piece in enumerate(self.pieces) if piece.learn), default=-1)
        return self.pieces[last + 1 :] if last >= 0 else ()

    @property
    def interrupted(self) -> tuple[Part, ...]:
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

    def _prompt_pieces(self) -> tuple[Part, ...]:
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
    """Return a column's value as text; a list of sentences is joined with spaces.

    Raises:
        RecordError: the column is missing, null, or neither text nor a number.

    >>> column_text({"abstract": ["One.", "Two."]}, "abstract")
    'One. Two.'
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
    if isinstance(content, (list, tuple)):
        return _joined(content, column)
    found = "null" if content is None else f"a {type(content).__name__}"
    raise RecordError("", f"column '{column}' is {found}, expected text")


def _joined(parts: Sequence[Any], column: str) -> str:
    for index, part in enumerate(parts):
        if not isinstance(part, str):
            found = "null" if part is None else f"a {type(part).__name__}"
            raise RecordError("", f"column '{column}'[{index}] is {found}, expected text")
    return " ".join(parts)


def _blank(content: Any) -> bool:
    if isinstance(content, float):
        return content != content  # NaN is how tables write an empty cell
    if isinstance(content, (list, tuple)):
        return all(isinstance(part, str) and not part.strip() for part in content)
    return content is None or (isinstance(content, str) and not content.strip())


def _all_there(columns: Iterable[str], record: Record) -> bool:
    return all(not _blank(record.get(column)) for column in columns)


def _alternatives(template: Template) -> tuple[tuple[Piece, ...], ...]:
    """Return what a template adds to a choice: itself, or the alternatives that it is made of."""
    pieces = tuple(part for part in template.pieces if isinstance(part, Piece))
    if len(pieces) == len(template.pieces):
        return (pieces,)
    if len(template.pieces) > 1:
        raise TemplateError(
            f"{template} has a choice inside, so it cannot be an alternative of another one; write "
            "its cases side by side, or set the choice in parentheses: '+' is joined before '|'"
        )
    (choice,) = template.pieces
    assert isinstance(choice, Choice)
    return tuple(
        tuple(attrs.evolve(piece, when=(*choice.when, *piece.when)) for piece in alternative)
        for alternative in choice.alternatives
    )


def _written(pieces: Iterable[Part]) -> str:
    """Return pieces as they are written in Python."""
    return " + ".join(map(str, pieces))


def _condition(columns: Sequence[str]) -> str:
    return f".when({', '.join(map(repr, columns))})" if columns else ""


def _cut(part: Part, cut: Cut) -> Part:
    if isinstance(part, Piece):
        return attrs.evolve(part, cut=cut)
    alternatives = (
        tuple(attrs.evolve(piece, cut=cut) for piece in pieces) for pieces in part.alternatives
    )
    return attrs.evolve(part, alternatives=tuple(alternatives))


def _written_cut(cut: Cut | None) -> str:
    if cut is None:
        return ""
    order = "" if cut.order == FIRST else f", order={cut.order}"
    return f".cut({cut.side!r}{order})"


def _render(pieces: Iterable[Part], record: Record) -> list[Segment]:
    return [
        segment for piece in pieces if piece.applies(record) for segment in piece.render(record)
    ]


def _columns(pieces: Iterable[Part]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for piece in pieces for column in piece.columns))
