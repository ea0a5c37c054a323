"""What the typed endpoints take and give: a model for each of a server's tasks, and those they share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import attrs
from pydantic import Field, create_model

from lmkit.decoding import Chooser, Filler
from lmkit.serve.columns import (
    FILL,
    LABEL,
    Column,
    columns_of,
    kind_of,
    model_name,
    record_model,
)
from lmkit.serve.models import Served
from lmkit.serve.schemas import MOST_STOPS, Body, Content, Options, Stop, Usage


class Streams(Body):
    """What can be asked of any task."""

    stream: bool | None = None
    """Send the answer in pieces, as server-sent events."""


class WritingOptions(Options, Streams):
    """What can be asked of a task that writes: the fields of `Generation`."""

    stop: Annotated[list[Stop], Field(max_length=MOST_STOPS, fail_fast=True)] | None = None
    """Texts that end the answer and are not part of it."""


class Fill(Content):
    """A token that could stand in a mask."""

    score: float
    """Its probability."""
    token: int
    """Its id."""
    token_str: str
    sequence: str
    """The whole text with it."""


class Timing(Content):
    """Where the time went, in seconds."""

    queued: float
    """Until its turn came."""
    first_token: float
    """Until the first token was there, the queue included."""
    total: float
    tokens_per_second: float | None
    """Behind the first token; null where there is but one."""


class TaskAnswer(Content):
    """What a task answers."""

    task: str
    value: Any
    """The answer as the task's decoder reads it."""
    text: str
    """The words as the model wrote them."""
    finish_reason: Literal["stop", "length"]
    usage: Usage
    timing: Timing | None = None
    """In the last event of a stream."""


class TaskEvent(Content):
    """An event of a stream: a piece of the text. The last but one is the whole answer."""

    text: str


class PromptToken(Content):
    """A token of a prompt."""

    id: int
    text: str
    """What it adds to the text; a character of several tokens is the last one's."""
    trusted: bool
    """Whether control tokens could act in its text; in what comes from a record they cannot."""
    control: bool
    """Whether it is a control token."""


class Prompt(Content):
    """What a model is given for a record."""

    task: str
    text: str
    tokens: list[PromptToken]


class ColumnCard(Content):
    """A column that a task is asked with."""

    name: str
    type: Literal["text", "messages", "tools", "any"]
    required: bool
    sample: Any


class TaskCard(Content):
    """A task, and how it is asked."""

    name: str
    task: str
    """What the bundle itself calls it."""
    aliases: list[str]
    family: Literal["causal", "masked", "seq2seq"]
    kind: Literal["text", "label", "fill"]
    """Whether it answers with text, with one of its labels, or with what its masks hide."""
    columns: list[ColumnCard]
    labels: list[str] | None
    mask_token: str | None
    """What stands for a hidden word in a text to be filled."""
    generation: dict[str, Any] | None
    """How it writes unless a request says otherwise; null where it writes nothing freely."""
    context_length: int | None
    precision: str
    description: str


class TaskList(Content):
    """The answer of `GET /v1/tasks`."""

    tasks: list[TaskCard]


@attrs.frozen(kw_only=True, eq=False)
class Endpoint:
    """One task's typed endpoint.

    Attributes:
        served: what answers.
        columns: what it is asked with.
        record: what its body must be.
        query: what its query may be.
        answer: what it answers.
    """

    served: Served
    columns: tuple[Column, ...]
    record: type[Body]
    query: type[Streams]
    answer: type[TaskAnswer]

    @classmethod
    def of(cls, served: Served) -> Endpoint:
        """Return the endpoint of a bundle."""
        columns = columns_of(served)
        return cls(
            served=served,
            columns=columns,
            record=record_model(served, columns),
            query=WritingOptions if served.task.writes else Streams,
            answer=_answer_model(served),
        )

    @property
    def card(self) -> TaskCard:
        """What `GET /v1/tasks` tells of it."""
        task = self.served.task
        decoder = task.decoder
        special = self.served.tokenizer.special
        return TaskCard(
            name=self.served.name,
            task=task.name,
            aliases=list(self.served.aliases),
            family=task.family.value,
            kind=kind_of(task),
            columns=[ColumnCard(**attrs.asdict(column, recurse=False)) for column in self.columns],
            labels=list(decoder.labels) if isinstance(decoder, Chooser) else None,
            mask_token=special.get("mask_token") if isinstance(decoder, Filler) else None,
            generation=attrs.asdict(task.generation) if task.writes else None,
            context_length=self.served.context_length,
            precision=self.served.manifest.precision,
            description=task.description,
        )


def _answer_model(served: Served) -> type[TaskAnswer]:
    """Return what a task answers, as exactly as can be said beforehand."""
    task = served.task
    kind = kind_of(task)
    fields: dict[str, Any] = {}
    if kind == LABEL:
        assert isinstance(task.decoder, Chooser)
        says = "What each label got; together they are 1."
        share = Annotated[float, Field(ge=0, le=1)]
        fields["value"] = (Literal[task.decoder.labels], ...)
        fields["probabilities"] = (dict[str, share], Field(description=says))
    elif kind == FILL:
        says = "The likeliest fills of the mask; of several masks, a list for each."
        fields["value"] = (list[Fill] | list[list[Fill]], Field(description=says))
    name = model_name(served, "Answer")
    made: type[TaskAnswer] = create_model(name, __base__=TaskAnswer, **fields)
    return made
