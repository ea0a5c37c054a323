"""Sample: a few records answered before training, whenever it is measured, and at its end.

The answers go side by side to standard error, and as JSON lines into the run.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from transformers import TrainerCallback

from lmkit.answering import Answerer
from lmkit.answering.filling import expected, posed, said
from lmkit.collating.seq2seq import cutting
from lmkit.errors import PromptTooLong, RecordError
from lmkit.files import write_atomically
from lmkit.records import Row
from lmkit.showing import asked, print_side_by_side

SAMPLES_FILE = "samples.jsonl"


@attrs.frozen
class Sampled:
    """A model with the records that it is to answer.

    Attributes:
        model: what answers; it is called as it stands at that step.
        rows: records of its task; of a masked one with a word hidden.
        references: the answers that the records hold; of a masked task the texts as they were.
    """

    model: Answerer
    rows: Sequence[Row]
    references: Sequence[Any]


def choose(model: Answerer, rows: Sequence[Row], count: int, *, name: str) -> Sampled:
    """Return the first records that fit the model, no two of which ask the same.

    A source that is too long for the task is read as far as in training.

    Raises:
        RecordError: none of them does.
    """
    model = model.with_task(cutting(model.task))
    chosen: list[Row] = []
    references: list[Any] = []
    for row in rows:
        if len(chosen) == count:
            break
        put = posed(model.task, row, model.tokenizer)
        if asked(model.task, put) in map(functools.partial(asked, model.task), chosen):
            continue
        try:
            model.prompt(put)
        except PromptTooLong:
            continue
        chosen.append(put)
        references.append(expected(model.task, row, model.tokenizer))
    if not chosen:
        raise RecordError(name, "no record's prompt leaves room for an answer, so none is sampled")
    return Sampled(model, chosen, references)


class SampleAnswers(TrainerCallback):  # type: ignore[misc]
    """Answers a few records as training goes on; the random state is kept as it was.

    A resumed run keeps the answers up to its checkpoint, and writes the others again.

    Args:
        groups: what to ask, by the task's name.
        path: where the answers are kept.
        seed: for tasks whose answers are drawn and name no seed themselves.
        show: prints answers: titles, and rows of as many texts.
    """

    def __init__(
        self,
        groups: dict[str, Sampled],
        path: Path,
        seed: int,
        show: Callable[[Sequence[str], Sequence[Sequence[str]]], None] = print_side_by_side,
    ) -> None:
        self._groups = groups
        self._path = path
        self._seed = seed
        self._show = show
        self._lines: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Answer before the first step; a resumed run has those answers."""
        if state.global_step and self._path.is_file():
            lines = map(json.loads, self._path.read_text("utf-8").splitlines())
            self._lines = [line for line in lines if line["step"] <= state.global_step]
        if not self._lines:
            self._sample(state.global_step, kwargs["model"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Answer once the model has been measured."""
        self._sample(state.global_step, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Answer with the model that is kept, which may be an earlier one."""
        if args.load_best_model_at_end:
            self._lines = [line for line in self._lines if line["step"] != state.global_step]
        self._sample(state.global_step, kwargs["model"])

    def _sample(self, step: int, torch_model: Any) -> None:
        """Answer the records, unless that was done at this step."""
        if any(line["step"] == step for line in self._lines):
            return
        training = torch_model.training
        for name, group in self._groups.items():
            self._lines += self._answers(name, group, step)
        torch_model.train(training)
        text = (json.dumps(line, ensure_ascii=False, default=str) for line in self._lines)
        write_atomically(self._path, "".join(f"{line}\n" for line in text))
        first = self._lines[0]["step"]
        titles = ["asked", "reference", *(f"step {n}" for n in dict.fromkeys((first, step)))]
        before = [line for line in self._lines if line["step"] == first]
        after = [line for line in self._lines if line["step"] == step]
        self._show(titles, [_cells(*pair) for pair in zip(before, after, strict=True)])

    def _answers(self, name: str, group: Sampled, step: int) -> list[dict[str, Any]]:
        task = group.model.task
        drawn = task.writes and task.generation.seed is None
        with torch.random.fork_rng():
            answers = group.model.batch(group.rows, **({"seed": self._seed} if drawn else {}))
        several = {"task": name} if len(self._groups) > 1 else {}
        return [
            {
                "step": step,
                **several,
                "record": dict(row),
                "asked": asked(task, row),
                "reference": reference,
                "answer": said(task, answer),
            }
            for row, reference, answer in zip(group.rows, group.references, answers, strict=True)
        ]


def _cells(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    answers = [before["answer"]] if before is after else [before["answer"], after["answer"]]
    return [str(cell) for cell in (before["asked"], before["reference"], *answers)]
