"""What a task is asked with: its prompt columns, found out from its formatter, as a pydantic model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import attrs
from pydantic import Field, create_model

from lmkit.chat import Chat
from lmkit.decoding import Chooser, Filler
from lmkit.errors import LmkitError
from lmkit.renaming import bare, messages_column
from lmkit.serve.models import Served
from lmkit.serve.openai_schemas import Message
from lmkit.serve.schemas import Body
from lmkit.task import Task

TEXT, MESSAGES, TOOLS, ANY = "text", "messages", "tools", "any"
LABEL, FILL = "label", "fill"

_TYPES: dict[str, Any] = {
    TEXT: str | int | float | Annotated[list[str], Field(fail_fast=True)],
    MESSAGES: Annotated[list[Message], Field(min_length=1, fail_fast=True)],
    TOOLS: Annotated[list[dict[str, Any]], Field(fail_fast=True)],
    ANY: Any,
}
_SAYS = {
    TEXT: "Text; a list of sentences is joined with spaces.",
    MESSAGES: "A conversation, up to the turn that is to be answered.",
    TOOLS: "Definitions of tools, for a chat template that reads them.",
    ANY: "As the task's formatter reads it.",
}


@attrs.frozen(kw_only=True)
class Column:
    """One of a task's prompt columns.

    Attributes:
        name: as a record has it.
        type: `text`, `messages`, `tools`, or `any` where a formatter of its own kind reads it.
        required: whether a record must have it.
        sample: what one may hold, from the bundle's own golden prompts; None where they have nothing.
    """

    name: str
    type: str
    required: bool
    sample: Any = None


def kind_of(task: Task) -> str:
    """Return what a task answers with: `text`, `label` or `fill`."""
    if isinstance(task.decoder, Chooser):
        return LABEL
    return FILL if isinstance(task.decoder, Filler) else TEXT


def columns_of(served: Served) -> tuple[Column, ...]:
    """Return the columns that a bundle is asked with.

    A column is required if no prompt can be made of the bundle's own sample without it.
    """
    task = served.task
    sample = sample_of(served)
    whole = {name: f"<{name}>" for name in task.prompt_columns} | sample
    return tuple(
        Column(
            name=name,
            type=_type_of(served, name),
            required=not _makes_prompt(served, {n: c for n, c in whole.items() if n != name}),
            sample=sample.get(name),
        )
        for name in task.prompt_columns
    )


def sample_of(served: Served) -> dict[str, Any]:
    """Return a record that can be asked: of the bundle's golden prompts the first, without its answer."""
    task = served.task
    golden = served.manifest.golden
    record = golden[0].record if golden else {}
    sample = {name: record[name] for name in task.prompt_columns if record.get(name) is not None}
    messages = messages_column(task.formatter)
    if messages in sample:
        turns = list(sample[messages])
        while len(turns) > 1 and turns[-1].get("role") == "assistant":
            turns.pop()
        sample[messages] = turns
    return sample


def record_model(served: Served, columns: tuple[Column, ...]) -> type[Body]:
    """Return what the body of a task's endpoint must be: its prompt columns and nothing else."""
    fields: dict[str, Any] = {}
    for place, column in enumerate(columns):  # a column's name need not be one of Python's
        kind = _TYPES[column.type]
        says = _SAYS[column.type]
        if column.required:
            fields[f"column_{place}"] = (kind, Field(alias=column.name, description=says))
        else:
            optional = None if column.type == ANY else kind | None
            field = Field(default=None, alias=column.name, description=says)
            fields[f"column_{place}"] = (Any if optional is None else optional, field)
    made: type[Body] = create_model(model_name(served, "Record"), __base__=Body, **fields)
    return made


def model_name(served: Served, kind: str) -> str:
    """Return a name for a pydantic model of a bundle's own, such as `KoQaRecord`."""
    words = re.split(r"[\W_]+", served.name)
    return "".join(word[:1].upper() + word[1:] for word in words) + kind


def record_of(body: Body) -> dict[str, Any]:
    """Return a body as a record; what is null is left out."""
    fields = type(body).model_fields
    found = {
        str(field.alias): getattr(body, name)
        for name, field in fields.items()
        if getattr(body, name) is not None
    }
    return {name: _plain(content) for name, content in found.items()}


def _plain(content: Any) -> Any:
    if isinstance(content, list) and content and isinstance(content[0], Message):
        return [message.turn for message in content]
    return content


def _type_of(served: Served, name: str) -> str:
    task = served.task
    if name == messages_column(task.formatter):
        return MESSAGES
    inner = bare(task.formatter)
    if isinstance(inner, Chat):
        return TOOLS if inner.tools and name == task.prompt_columns[-1] else TEXT
    others = {other: f"<{other}>" for other in task.prompt_columns}
    return TEXT if _makes_prompt(served, others) else ANY


def _makes_prompt(served: Served, record: Mapping[str, Any]) -> bool:
    try:
        served.task.formatter.prompt(record, served.tokenizer.dialect)
    except (LmkitError, TypeError, ValueError, LookupError, AttributeError):
        return False
    return True
