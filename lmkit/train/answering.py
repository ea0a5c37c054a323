"""Answer with a trained run through torch: transformers' own `generate()` under the task's rules."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from lmkit.decoding import Answer, Usage
from lmkit.encoding import Encoded, Ids, fitting_prompt
from lmkit.errors import TaskError
from lmkit.formatting import Record
from lmkit.generation import Generation
from lmkit.loss import Loss
from lmkit.registry import one_task, task_in
from lmkit.streaming import IncrementalText
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.train.extra import torch, transformers
from lmkit.train.models import (
    align,
    context_length,
    fitted,
    load_model,
    only_config,
    quiet,
    stop_ids,
)
from lmkit.train.run import Run, as_tensors
from lmkit.train.scoring import mean_loss


def open_run(path: str | Path, task: Task | str | None = None) -> TorchAnswerer:
    """Return a run, ready to answer through torch.

    Args:
        path: the run's folder.
        task: which of a mixture's tasks to do, or a task to do instead; None for the run's own.
    Raises:
        ModelError: the folder is no finished run.
        TaskError: it learned a mixture, and no task was chosen.
    """
    run = Run.open(path)
    chosen = task_in(run.path, task)
    loaded = load_model(str(run.path), family=chosen.family)
    chosen = fitted(chosen, loaded.model)
    return TorchAnswerer(task=chosen, model=loaded.model, tokenizer=loaded.tokenizer)


def open_model(source: Any, task: Task | str, tokenizer: Any = None) -> TorchAnswerer:
    """Return any model that does a task, ready to answer through torch.

    Args:
        source: a hub id, a model's folder, a `.gguf` file, or a loaded transformers model.
        task: what it is to do.
        tokenizer: a folder or a tokenizer; None for the model's own.
    """
    chosen = one_task(task)
    loaded = load_model(source, family=chosen.family, tokenizer=tokenizer)
    chosen = fitted(chosen, loaded.model)
    ready, _ = align(loaded.model, loaded.tokenizer, chosen.formatter)
    return TorchAnswerer(task=chosen, model=loaded.model, tokenizer=ready)


@attrs.frozen(kw_only=True, eq=False)
class TorchAnswerer:
    """A task with a torch model.

    Attributes:
        task: what to do.
        model: a causal transformers model.
        tokenizer: its tokenizer, with a pad token.
    """

    task: Task
    model: Any
    tokenizer: Tokenizer

    def __call__(self, record: Record, **options: Any) -> Answer:
        """Answer one record."""
        return self.batch([record], **options)[0]

    def batch(
        self, records: Sequence[Record], *, batch_size: int = 8, **options: Any
    ) -> list[Answer]:
        """Answer records, `batch_size` at a time; the order is kept."""
        generation = self.task.generation.override(**options)
        if batch_size < 1:
            raise TaskError(f"batch_size is {batch_size}; expected 1 or more")
        prompts = [self.prompt(record, index) for index, record in enumerate(records)]
        answers: list[Answer] = []
        for start in range(0, len(prompts), batch_size):
            some = prompts[start : start + batch_size]
            # Beside a long prompt a short one would lose room for its answer.
            for part in [some] if self._fits(some, generation) else [[one] for one in some]:
                answers += self._answer(part, generation)
        return answers

    def stream(self, record: Record, **options: Any) -> Iterator[str]:
        """Yield the answer's text in pieces; `generate()` runs in a thread meanwhile."""
        generation = self.task.generation.override(**options)
        prompt = self.prompt(record)
        ids: queue.Queue[int | BaseException | None] = queue.Queue()

        def work() -> None:
            try:
                self._generate([prompt], generation, streamer=_ToQueue(ids))
                ids.put(None)
            except BaseException as error:  # handed to the reader, who raises it
                ids.put(error)

        def pieces() -> Iterator[str]:
            threading.Thread(target=work, daemon=True).start()
            text = IncrementalText(self.tokenizer.decode, stop=self.task.stop_strings(generation))
            while (item := ids.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                if piece := text.push(item):
                    yield piece
            if piece := text.finish():
                yield piece

        return pieces()

    def score(self, rows: Sequence[Encoded]) -> Loss:
        """Return the loss over some rows' learned tokens."""
        pad_id = self.tokenizer.pad_id
        assert pad_id is not None
        batch = as_tensors(self.task.collator.collate(rows, pad_id))
        return mean_loss(self.model, [batch], self.task.family)

    def prompt(self, record: Record, index: int = 0) -> Ids:
        """Return what the model is given for a record, int64 [P]."""
        most = context_length(self.model)
        return fitting_prompt(self.task, record, self.tokenizer, most=most, index=index)

    def _fits(self, prompts: Sequence[Ids], generation: Generation) -> bool:
        most = context_length(self.model)
        return most is None or max(map(len, prompts)) + generation.max_new_tokens <= most

    def _answer(self, prompts: Sequence[Ids], generation: Generation) -> list[Answer]:
        written = self._generate(prompts, generation)
        stops = stop_ids(self.model)
        return [
            self._read(prompt, ids, stops, generation)
            for prompt, ids in zip(prompts, written, strict=True)
        ]

    def _generate(
        self, prompts: Sequence[Ids], generation: Generation, streamer: Any = None
    ) -> list[list[int]]:
        """Return the new ids of each prompt, padding still behind the shorter ones."""
        width = max(map(len, prompts))
        batch = np.full((len(prompts), width), self.tokenizer.pad_id, dtype=np.int64)
        mask = np.zeros_like(batch)
        for row, prompt in enumerate(prompts):  # generate() wants the padding on the left
            batch[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = 1
        most = context_length(self.model)
        room = generation.max_new_tokens if most is None else most - width
        config = _generation_config(self.model, generation, room)
        tensors = as_tensors({"input_ids": batch, "attention_mask": mask})
        stop = self.task.stop_strings(generation)
        ends = [_StopStrings(self.tokenizer, stop, len(prompts))] if stop else []
        self.model.eval()
        with quiet(), torch().random.fork_rng(devices=[], enabled=generation.seed is not None):
            if generation.seed is not None:
                torch().manual_seed(generation.seed)
            with only_config(self.model, config):
                found = self.model.generate(**tensors, streamer=streamer, stopping_criteria=ends)
        return [[int(token) for token in row] for row in found[:, width:]]

    def _read(
        self, prompt: Ids, ids: Sequence[int], stops: Sequence[int], generation: Generation
    ) -> Answer:
        text = IncrementalText(self.tokenizer.decode, stop=self.task.stop_strings(generation))
        words, reason, count = "", "length", 0
        for token in ids:
            count += 1
            if token in stops:
                reason = "stop"
                break
            words += text.push(token)
            if text.stopped:
                reason = "stop"
                break
        words += text.finish()
        return Answer(
            value=self.task.decoder.read(words),
            text=words,
            finish_reason=reason,
            usage=Usage(prompt_tokens=len(prompt), completion_tokens=count),
            token_ids=tuple(ids[:count]),
        )


class _ToQueue:
    """What `generate()` calls with each new token; the first call brings the prompt."""

    def __init__(self, ids: queue.Queue[Any]) -> None:
        self._ids = ids
        self._prompt = True

    def put(self, tokens: Any) -> None:
        if self._prompt:
            self._prompt = False
            return
        for token in tokens.reshape(-1).tolist():
            self._ids.put(token)

    def end(self) -> None:
        pass


class _StopStrings:
    """Tells `generate()` which rows have written a stop string, after each new token."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], n_rows: int) -> None:
        self._rows = [IncrementalText(tokenizer.decode, stop=stop) for _ in range(n_rows)]

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        """Return bool [B] for ids int64 [B, T]."""
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            row.push(token)
        return torch().tensor([row.stopped for row in self._rows], device=input_ids.device)


def _generation_config(model: Any, options: Generation, room: int) -> Any:
    """Return the request in transformers' words; what a run's own file says does not leak in."""
    sampled = options.temperature > 0
    drawn = {
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p or None,
    }
    return transformers().GenerationConfig(
        do_sample=sampled,
        **(drawn if sampled else {}),
        max_new_tokens=min(options.max_new_tokens, room),
        min_new_tokens=options.min_new_tokens or None,
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=model.generation_config.pad_token_id,
        bos_token_id=model.generation_config.bos_token_id,
    )
