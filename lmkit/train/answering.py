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
from lmkit.streaming import IncrementalText
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.train.extra import torch, transformers
from lmkit.train.models import (
    context_length,
    load_model,
    only_config,
    quiet,
    stop_ids,
    target_length,
    with_own_ids,
)
from lmkit.train.run import Run, as_tensors
from lmkit.train.scoring import mean_loss


def open_run(path: str | Path) -> TorchAnswerer:
    """Return a run, ready to answer through torch.

    Raises:
        ModelError: the folder is no finished run.
    """
    run = Run.open(path)
    loaded = load_model(str(run.path), family=run.task.family)
    task = with_own_ids(run.task, loaded.model)
    return TorchAnswerer(task=task, model=loaded.model, tokenizer=loaded.tokenizer)


@attrs.frozen(kw_only=True, eq=False)
class TorchAnswerer:
    """A task with a torch model.

    Attributes:
        task: what to do.
        model: a transformers model of the task's family.
        tokenizer: its tokenizer, with a pad token.
    """

    task: Task
    model: Any
    tokenizer: Tokenizer

    def with_task(self, task: Task) -> TorchAnswerer:
        """Return the same model under another task of its family."""
        return attrs.evolve(self, task=task)

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
        if not self.task.family.shifts:
            return True  # a source and its answer do not share their room
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
        batch, mask = self._padded(prompts)
        # A decoder's ids begin with its start token; a causal model's with the prompt.
        before = batch.shape[1] if self.task.family.shifts else 1
        config = _generation_config(self.model, generation, self._room(batch.shape[1]))
        tensors = as_tensors({"input_ids": batch, "attention_mask": mask})
        stop = self.task.stop_strings(generation)
        ends = [_StopStrings(self.tokenizer, stop, len(prompts))] if stop else []
        self.model.eval()
        with quiet(), torch().random.fork_rng(devices=[], enabled=generation.seed is not None):
            if generation.seed is not None:
                torch().manual_seed(generation.seed)
            with only_config(self.model, config):
                found = self.model.generate(**tensors, streamer=streamer, stopping_criteria=ends)
        return [[int(token) for token in row] for row in found[:, before:]]

    def _padded(self, prompts: Sequence[Ids]) -> tuple[Ids, Ids]:
        """Return prompts as `generate()` wants them, and their mask, int64 [B, P].

        Padding is on the left, where an answer is to follow, and on the right of a source.
        """
        width = max(map(len, prompts))
        batch = np.full((len(prompts), width), self.tokenizer.pad_id, dtype=np.int64)
        mask = np.zeros_like(batch)
        for row, prompt in enumerate(prompts):
            start = width - len(prompt) if self.task.family.shifts else 0
            batch[row, start : start + len(prompt)] = prompt
            mask[row, start : start + len(prompt)] = 1
        return batch, mask

    def _room(self, width: int) -> int | None:
        """Return the most tokens that can follow prompts of some width, or None."""
        if not self.task.family.shifts:
            return target_length(self.model)
        most = context_length(self.model)
        return None if most is None else most - width

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


def _generation_config(model: Any, options: Generation, room: int | None) -> Any:
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
        max_new_tokens=options.max_new_tokens
        if room is None
        else min(options.max_new_tokens, room),
        min_new_tokens=options.min_new_tokens or None,
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=model.generation_config.pad_token_id,
        bos_token_id=model.generation_config.bos_token_id,
        decoder_start_token_id=getattr(model.generation_config, "decoder_start_token_id", None),
    )
