"""Chain: each answer becomes a column of the next link's record; no torch unless a link is a run.

A link is a bundle, a run, a model that is open already, or a task. A task is a link without a
model: the chain's shape is checked, and `on` gives it the models.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from lmkit.answering import Answerer, open_answerer
from lmkit.decoding import Answer, Chooser, Filler
from lmkit.errors import ChainError, LmkitError, RecordError, TaskError
from lmkit.formatting import Record
from lmkit.records import Row, where_of
from lmkit.registry import one_task
from lmkit.renaming import messages_column
from lmkit.saving.manifest import MANIFEST_FILE
from lmkit.task import Task
from lmkit.values import value


@attrs.frozen
class Link:
    """One step of a chain.

    Attributes:
        task: what it does.
        model: what does it; None where only the task is known.
    """

    task: Task
    model: Answerer | None = None


@value(kw_only=True)
class ChainAnswer(Answer):
    """The last link's answer.

    Attributes:
        steps: every link's answer, the last one's among them.
    """

    steps: tuple[Answer, ...] = ()


def chain(*links: Any, columns: Sequence[str] = ()) -> Chain:
    """Return links that answer one after another.

    A record is answered by the first link. Its answer goes into the column that the next link's
    prompt is made of; of several, into the one that the record does not have. All columns before
    stay, so a later link may read what an earlier one was asked.

    Args:
        links: bundles' or runs' folders, runs, open models, or tasks and their names.
        columns: the column for each answer but the last, where the choice is not clear.
    Raises:
        TaskError: the links do not fit together; the text says which.

    >>> shape = chain("qa", "alpaca", columns=("instruction",))
    >>> shape
    chain('qa' -> instruction -> 'alpaca')
    """
    if len(links) < 2:
        raise TaskError("a chain needs two links or more")
    return Chain(tuple(_link(link) for link in links), tuple(columns))


@attrs.frozen(repr=False)
class Chain:
    """Links that answer one after another; `chain` makes it.

    Attributes:
        links: the links, in order.
        columns: the column for each answer but the last; empty to find them by the record.
    """

    links: tuple[Link, ...]
    columns: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.columns and len(self.columns) != len(self.links) - 1:
            raise TaskError(
                f"a chain of {len(self.links)} links hands on {len(self.links) - 1} answers; "
                f"columns names {len(self.columns)}: {', '.join(self.columns)}"
            )
        for index, link in enumerate(self.links[1:]):
            known = link.task.prompt_columns
            if not known:
                raise TaskError(
                    f"{self._name(index + 1)} reads no column, so no answer can reach it"
                )
            if self.columns and self.columns[index] not in known:
                raise TaskError(
                    f"{self._name(index + 1)} has no column '{self.columns[index]}' in its prompt; "
                    f"it has {', '.join(known)}"
                )

    def __repr__(self) -> str:
        names = [repr(link.task.name) for link in self.links]
        steps = [
            f"{column} -> {name}" for column, name in zip(self.columns, names[1:], strict=False)
        ]
        return f"chain({' -> '.join([names[0], *(steps or names[1:])])})"

    @property
    def task(self) -> Task:
        """What the first link does: a chain is asked as it is."""
        return self.links[0].task

    def on(self, *models: Any) -> Chain:
        """Return the chain with a model for each link that has none.

        Args:
            models: bundles' or runs' folders, runs or open models, in the links' order.
        Raises:
            TaskError: there are more or fewer models than such links, or one does another task.
        """
        free = [index for index, link in enumerate(self.links) if link.model is None]
        if len(models) != len(free):
            names = ", ".join(f"'{self.links[index].task.name}'" for index in free) or "none"
            raise TaskError(
                f"{len(models)} models were given, and the links without one are: {names}"
            )
        links = list(self.links)
        for index, model in zip(free, models, strict=True):
            opened, task = open_answerer(model), links[index].task
            if opened.task.formatter != task.formatter and opened.task.name != task.name:
                raise TaskError(
                    f"{self._name(index)} was given a model that does '{opened.task.name}'"
                )
            links[index] = Link(opened.task, opened)
        return Chain(tuple(links), self.columns)

    def __call__(self, record: Record, **options: Any) -> ChainAnswer:
        """Answer one record.

        Args:
            record: the first link's prompt columns, and what later links read besides answers.
            options: fields of `Generation`, for every link that writes; labels and masks have none.
        Raises:
            ChainError: a link fails; the text names it, and says how.
        """
        return self.batch([record], **options)[0]

    def batch(self, records: Sequence[Record], **options: Any) -> list[ChainAnswer]:
        """Answer records, each link all of them before the next; `batch_size` is an option too."""
        steps: list[list[Answer]] = []
        for index in range(len(self.links)):
            if index:
                records = self._handed_on(index, records, steps[-1])
            model = self._model(index)
            with _Naming(self, index):
                steps.append(model.batch(records, **self._options(index, options)))
        return [
            ChainAnswer(**attrs.asdict(answers[-1], recurse=False), steps=answers)
            for answers in zip(*steps, strict=True)
        ]

    def stream(self, record: Record, **options: Any) -> Iterator[str]:
        """Yield the last link's answer as it is written; the others answer first."""
        for index in range(len(self.links) - 1):
            model = self._model(index)
            with _Naming(self, index):
                answer = model(record, **self._options(index, options))
            record = self._handed_on(index + 1, [record], [answer])[0]
        last = len(self.links) - 1
        model = self._model(last)
        with _Naming(self, last):
            yield from model.stream(record, **self._options(last, options))

    def prompt(self, record: Record, index: int = 0) -> Any:
        """Return what the first link is given for a record, int64 [P]; raise if it does not fit."""
        checked = dict(record)
        for at, link in enumerate(self.links[1:], start=1):
            checked = {**checked, self._column(at, link.task, checked): None}
        return self._model(0).prompt(record, index)

    def _options(self, index: int, options: dict[str, Any]) -> dict[str, Any]:
        """Return those of a call's options that a link knows; how many records at once, all do."""
        writes = [not isinstance(link.task.decoder, (Chooser, Filler)) for link in self.links]
        if writes[index] or not any(writes):  # where no link writes, each refuses them itself
            return options
        return {name: given for name, given in options.items() if name == "batch_size"}

    def _model(self, index: int) -> Answerer:
        model = self.links[index].model
        if model is None:
            raise TaskError(
                f"{self._name(index)} is a task without a model; give the chain its bundles with "
                ".on(...), one for each such link"
            )
        return model

    def _name(self, index: int) -> str:
        return f"link {index + 1} of the chain ('{self.links[index].task.name}')"

    def _handed_on(
        self, index: int, records: Sequence[Record], answers: Sequence[Answer]
    ) -> list[Record]:
        """Return the records with the answers in the column that a link reads them from."""
        task = self.links[index].task
        found: list[Record] = []
        for at, (record, answer) in enumerate(zip(records, answers, strict=True)):
            column = self._column(index, task, record)
            text = answer.value if isinstance(answer.value, str) else answer.text
            turns = [{"role": "user", "content": text}]
            content = turns if column == messages_column(task.formatter) else text
            found.append(Row({**record, column: content}, where_of(record, at)))
        return found

    def _column(self, index: int, task: Task, record: Record) -> str:
        """Return the column of a link into which the answer before it goes."""
        if self.columns:
            return self.columns[index - 1]
        said = messages_column(task.formatter)
        columns = task.prompt_columns if said is None else (said,)
        lacking = [name for name in columns if name not in record] if len(columns) > 1 else columns
        needed = lacking if len(lacking) == 1 else [c for c in lacking if _needs(task, c, record)]
        if len(needed) == 1:
            return needed[0]
        say = f"say which with columns=, as in chain(..., columns=({columns[0]!r},)) (--into)"
        if not lacking:
            raise TaskError(
                f"{self._name(index)} reads {', '.join(columns)}, and the record has them all, so "
                f"it is not clear which one the answer before is to replace; {say}"
            )
        raise TaskError(
            f"{self._name(index)} reads {', '.join(lacking)}, which the record does not have, so it "
            f"is not clear which one the answer before is for; {say}"
        )


def _needs(task: Task, column: str, record: Record) -> bool:
    """Say whether a prompt cannot do without a column, the others being there."""
    others = {name: "" for name in task.prompt_columns if name != column}
    try:
        task.formatter.prompt({**others, **record})
    except RecordError:
        return True
    return False


@attrs.frozen
class _Naming:
    """Names the link in which something fails."""

    chain: Chain
    index: int

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        name = self.chain._name(self.index)
        if isinstance(error, LmkitError):
            raise ChainError(name, self.index, error) from error
        if error is not None:  # not the user's to mend, so it stays what it is
            error.add_note(f"in {name}")


def _link(link: Any) -> Link:
    if isinstance(link, Link):
        return link
    if isinstance(link, (str, os.PathLike)) and not _is_model(Path(link)):
        return Link(one_task(os.fspath(link)))
    if isinstance(link, Task):
        return Link(link)
    if isinstance(link, Mapping):
        raise TaskError("a chain's link is a bundle, a run, a model or a task, not a mapping")
    model = open_answerer(link)
    return Link(model.task, model)


def _is_model(path: Path) -> bool:
    return (path / MANIFEST_FILE).is_file() or (path / "task.json").is_file()
