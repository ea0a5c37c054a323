"""A Task: one sentence that says how a record becomes text, ids, a batch, and an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import attrs

from lmkit.collating import Collator
from lmkit.decoding import Chooser, Decoder, Filler
from lmkit.errors import TaskError, UnknownOption
from lmkit.family import Family
from lmkit.formatting import Formatter, Record, Segment, Template, column_text
from lmkit.generation import Generation
from lmkit.losses import LossFunction
from lmkit.metrics import Metric
from lmkit.renaming import bare, renamed
from lmkit.tokenizing import Dialect
from lmkit.transforms import Map, RecordFunction, Transform, Where
from lmkit.values import value

_NAME = re.compile(r"[^\W_][\w.-]*")


def _as_tuple(metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    return tuple(metrics)


def _as_transforms(transforms: Iterable[Transform]) -> tuple[Transform, ...]:
    return tuple(transforms)


@value(kw_only=True)
class Task:
    """How a record becomes text, which part of it is learned, and how an answer is read.

    Attributes:
        name: letters, digits, `-`, `_` and `.`; unique among the installed plugins.
        formatter: record to segments.
        collator: segments to a row, rows to a batch; it owns the family.
        decoder: what the model produced to an answer.
        generation: how answers are drawn unless a call says otherwise.
        loss: what training makes small, where that is not the mean over learned tokens.
        metrics: what `evaluate` measures besides perplexity.
        description: a sentence for `lmkit tasks`.
        transforms: what prepares records that come with their answers; see `map` and `where`.
    Raises:
        TaskError: two parts do not fit together; the text names both.
    """

    name: str = attrs.field()
    formatter: Formatter = attrs.field()
    collator: Collator = attrs.field()
    decoder: Decoder = attrs.field()
    generation: Generation = attrs.field(factory=Generation)
    loss: LossFunction | None = None
    metrics: tuple[Metric, ...] = attrs.field(default=(), converter=_as_tuple)
    description: str = ""
    transforms: tuple[Transform, ...] = attrs.field(default=(), converter=_as_transforms)

    @name.validator
    def _check_name(self, attribute: object, name: object) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise TaskError(
                f"a task's name is {name!r}; expected letters, digits, '-', '_' and '.', "
                "starting with a letter or digit"
            )

    def __attrs_post_init__(self) -> None:
        self._check_parts()
        _check_family(self.formatter, self.collator, self.decoder)
        if isinstance(self.decoder, Chooser):
            _ = self.answer_column
        if self.loss is not None:
            _check_loss(self.loss, self.collator)

    def _check_parts(self) -> None:
        protocols = {"formatter": Formatter, "collator": Collator, "decoder": Decoder}
        if self.loss is not None:
            protocols["loss"] = LossFunction
        for part, protocol in protocols.items():
            found = getattr(self, part)
            if isinstance(found, type) or not isinstance(found, protocol):
                hint = (
                    "; write its parentheses"
                    if isinstance(found, type)
                    else _without(found, protocol)
                )
                kind = found.__name__ if isinstance(found, type) else type(found).__name__
                raise TaskError(f"task '{self.name}': {part} is a {kind}, not a {part}{hint}")
        for metric in self.metrics:
            if not isinstance(metric, Metric):
                raise TaskError(f"task '{self.name}': {metric!r} in metrics is not a metric")
        for transform in self.transforms:
            if not isinstance(transform, Transform):
                raise TaskError(f"task '{self.name}': {transform!r} in transforms is no transform")
        if not isinstance(self.generation, Generation):
            raise TaskError(f"task '{self.name}': generation is not a Generation")

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {self.family})"

    @property
    def family(self) -> Family:
        """How the model reads a row."""
        return self.collator.family

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a training record."""
        return self.formatter.columns

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The columns of a record to be answered."""
        return self.formatter.prompt_columns

    @property
    def answer_column(self) -> str:
        """The one column that a prompt does without: where labels are put in to be scored.

        Raises:
            TaskError: there is none, or there are several.
        """
        found = [column for column in self.columns if column not in self.prompt_columns]
        if len(found) == 1:
            return found[0]
        several = f"{', '.join(found)} stand" if found else "no column stands"
        hint = ", as in target(' {answer}') or Chat.of(assistant='{answer}')"
        raise TaskError(
            f"task '{self.name}': {several} in the answer alone, and a {type(self.decoder).__name__} "
            f"needs exactly one column for its labels{'' if found else hint}"
        )

    @property
    def writes(self) -> bool:
        """Whether answers are written freely, so that fields of `Generation` steer them."""
        return not isinstance(self.decoder, (Chooser, Filler))

    def stop_strings(self, generation: Generation) -> tuple[str, ...]:
        """Return every text that ends an answer: the decoder's and the request's."""
        return tuple(dict.fromkeys((*self.decoder.stop, *generation.stop)))

    def reference(self, record: Record, dialect: Dialect) -> Any:
        """Return the answer that a training record holds, read as a model's answer would be.

        Raises:
            RecordError: the record does not fit, or its answer is none of the task's labels.
        """
        if isinstance(self.decoder, Chooser):
            return self.decoder.read(column_text(record, self.answer_column))
        asked = sum(len(segment.text) for segment in self.formatter.prompt(record, dialect))
        position = 0
        answer: list[Segment] = []
        for segment in self.formatter.segments(record, dialect):
            if segment.learn and position >= asked:
                answer.append(segment)
            position += len(segment.text)
        text = "".join(segment.text for segment in answer)
        if answer and answer[-1].trusted:  # an end token that a record spells out is its answer's
            text = _without_end(text, dialect)
        return self.decoder.read(text)

    def evolve(self, **changes: Any) -> Task:
        """Return a copy with some parts replaced, checked anew.

        Raises:
            UnknownOption: a task has no such part.
        """
        known = [field.name for field in attrs.fields(type(self))]
        for name in changes:
            if name not in known:
                raise UnknownOption("Task", name, known)
        return attrs.evolve(self, **changes)

    def rename(self, /, **columns: str) -> Task:
        """Return a copy that reads some of its columns under the data's names.

        `task.rename(question="prompt")` reads the data's column `question` where the task says
        `prompt`: old to new, as `rename_column` of `datasets`. It holds for training, for the
        prompt and in a bundle. A name that is no identifier goes in as
        `task.rename(**{"answers.text": "completion"})`.

        Raises:
            TaskError: the task has no such column; the text says which it has.
        """
        return self.evolve(formatter=renamed(self.formatter, columns))

    def map(self, function: RecordFunction) -> Task:
        """Return a copy that learns from, and is measured on, what a function makes of each record.

        `function` is given a dictionary of its own and returns the new record. It is not called at
        inference. To be exported with the task it must be one that a plugin's module defines.
        """
        return self.evolve(transforms=(*self.transforms, Map(function)))

    def where(self, function: RecordFunction) -> Task:
        """Return a copy that leaves out the records for which a function returns false.

        Transforms run in the order in which they were added; see `map`.
        """
        return self.evolve(transforms=(*self.transforms, Where(function)))


def _without(found: object, protocol: type) -> str:
    """Say what a part of the user's own does not have of what is asked of it."""
    asked = [name for base in reversed(protocol.__mro__) for name in vars(base) if name[0] != "_"]
    missing = [name for name in asked if not hasattr(found, name)]
    return f": it has no {', '.join(missing)}" if len(missing) < len(asked) else ""


def _without_end(text: str, dialect: Dialect) -> str:
    body = text.rstrip()
    ends = [token for token in dialect.control_tokens if body.endswith(token)]
    return body.removesuffix(max(ends, key=len)) if ends else text


def _check_loss(loss: LossFunction, collator: Collator) -> None:
    if collator.family not in loss.families:
        measures = ", ".join(sorted(loss.families))
        raise TaskError(
            f"a {type(collator).__name__} makes {collator.family} rows, and a "
            f"{type(loss).__name__} measures {measures} ones; leave the loss out, or choose another"
        )


def _check_family(formatter: Formatter, collator: Collator, decoder: Decoder) -> None:
    family = collator.family
    names = type(collator).__name__, type(decoder).__name__
    if family not in decoder.families:
        reads = ", ".join(sorted(decoder.families))
        raise TaskError(
            f"a {names[0]} makes {family} rows, and a {names[1]} reads {reads} output; "
            "choose a collator and a decoder of one family"
        )
    if family is Family.MASKED and formatter.learns:
        raise TaskError(
            f"a {names[0]} chooses what is learned by hiding tokens, so the {formatter} "
            "cannot have a target; use context(...)"
        )
    if family is not Family.MASKED and not formatter.learns:
        raise TaskError(
            f"the {formatter} has no target(...), so a {names[0]} would find nothing to learn"
        )
    inner = bare(formatter)
    if family is Family.SEQ2SEQ and isinstance(inner, Template) and inner.interrupted:
        raise TaskError(
            f"{Template(inner.interrupted)} stands behind a target, where it is no part of a "
            "seq2seq source; put all context before the target"
        )
    if family is Family.CAUSAL and isinstance(inner, Template) and inner.trailing:
        raise TaskError(
            f"{Template(inner.trailing)} stands after the last target, where a causal model "
            "cannot use it; put it before, or into the target"
        )
