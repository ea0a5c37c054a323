"""Answer with a trained run through torch: transformers' own `generate()` under the task's rules."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from lmkit.answering import Answerer
from lmkit.answering.choosing import choose
from lmkit.answering.filling import Marks, MaskAnswerer
from lmkit.answering.logits import Logits, LogProbs
from lmkit.answering.loss import Loss
from lmkit.answering.streaming import IncrementalText, in_one_piece
from lmkit.collating import Stream
from lmkit.decoding import Answer, Chooser, Usage
from lmkit.encoding import Encoded, Ids, fitting_prompt
from lmkit.errors import TaskError
from lmkit.family import Family
from lmkit.formatting import Record
from lmkit.generation import Generation
from lmkit.registry import one_task, task_in
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer
from lmkit.train.batches import as_tensors
from lmkit.train.extra import torch
from lmkit.train.folder import Run
from lmkit.train.generating import StopStrings, ToQueue, generation_config, only_config
from lmkit.train.lengths import context_length, fitted, target_length
from lmkit.train.models import load_model
from lmkit.train.quiet import quiet
from lmkit.train.scoring import mean_loss, token_log_probs
from lmkit.train.special import align, stop_ids, with_own_ids
from lmkit.train.wrapped import virtual_tokens


def open_run(path: str | Path, task: Task | str | None = None) -> Answerer:
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
    return through_torch(fitted(chosen, loaded.model), loaded.model, loaded.tokenizer)


def open_model(source: Any, task: Task | str, tokenizer: Any = None) -> Answerer:
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
    return through_torch(chosen, loaded.model, ready)


def through_torch(task: Task, model: Any, tokenizer: Tokenizer) -> Answerer:
    """Return a task with a torch model, ready to answer; the family says how."""
    task = with_own_ids(task, model)
    if task.family is Family.MASKED:
        return MaskAnswerer(
            task=task,
            tokenizer=tokenizer,
            context_length=context_length(model),
            vocab_size=model.config.vocab_size,
            read=functools.partial(_marked_logits, model),
        )
    return TorchAnswerer(task=task, model=model, tokenizer=tokenizer)


def masked_logits(model: Any, input_ids: Ids, attention_mask: Ids) -> Logits:
    """Return a masked model's logits, float32 [B, T, V], of right-padded ids, int64 [B, T]."""
    batch = as_tensors({"input_ids": input_ids, "attention_mask": attention_mask})
    model.eval()
    with torch().inference_mode():
        found = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits
    return np.asarray(found.float().cpu().numpy())


def _marked_logits(model: Any, input_ids: Ids, attention_mask: Ids, marks: Marks) -> Logits:
    """Return the logits of marked tokens, float32 [N, V]; see `MaskAnswerer`."""
    return masked_logits(model, input_ids, attention_mask)[marks]


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
        if batch_size < 1:
            raise TaskError(f"batch_size is {batch_size}; expected 1 or more")
        if isinstance(self.task.decoder, Chooser):
            most = context_length(self.model)
            return choose(self, records, options, batch_size=batch_size, most=most)
        generation = self.task.generation.override(**options)
        prompts = [self.prompt(record, index) for index, record in enumerate(records)]
        answers: list[Answer] = []
        for start in range(0, len(prompts), batch_size):
            some = prompts[start : start + batch_size]
            # Beside a long prompt a short one would lose room for its answer.
            for part in [some] if self._fits(some, generation) else [[one] for one in some]:
                answers += self._answer(part, generation)
        return answers

    def stream(self, record: Record, **options: Any) -> Iterator[str]:
        """Yield the answer's text in pieces; `generate()` runs in a thread meanwhile.

        A beam search knows its answer only at the end, so with beams there is one piece.
        """
        if isinstance(self.task.decoder, Chooser):
            return in_one_piece(self(record, **options))
        generation = self.task.generation.override(**options)
        prompt = self.prompt(record)
        if generation.num_beams > 1:
            return in_one_piece(self._answer([prompt], generation)[0])
        ids: queue.Queue[int | BaseException | None] = queue.Queue()
        unread = threading.Event()

        def work() -> None:
            try:
                self._generate([prompt], generation, ToQueue(ids, unread))
                ids.put(None)
            except BaseException as error:  # handed to the reader, who raises it
                ids.put(error)

        def pieces() -> Generator[str, None, Answer]:
            worker = threading.Thread(target=work, daemon=True)
            worker.start()
            written: list[int] = []
            text = IncrementalText(self.tokenizer.decode, stop=self.task.stop_strings(generation))
            try:
                while (item := ids.get()) is not None:
                    if isinstance(item, BaseException):
                        raise item
                    written.append(item)
                    if piece := text.push(item):
                        yield piece
                if piece := text.finish():
                    yield piece
            finally:  # who stops reading stops the writing, and has the model to himself again
                unread.set()
                worker.join()
            return self._read(prompt, written, stop_ids(self.model), generation)

        return pieces()

    def log_probs(self, rows: Sequence[Encoded]) -> list[LogProbs]:
        """Return the log-probability of each row's learned tokens, float64 [L] a row."""
        pad_id = self.tokenizer.pad_id
        assert pad_id is not None
        return token_log_probs(self.model, rows, self.task.collator, pad_id)

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
        if virtual_tokens(self.model):  # peft would count the padding behind them as places
            return False
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
        self,
        prompts: Sequence[Ids],
        generation: Generation,
        seen: ToQueue | None = None,
    ) -> list[list[int]]:
        """Return the new ids of each prompt, padding still behind the shorter ones.

        Args:
            prompts: B prompts, each int64 [P].
            generation: the request.
            seen: what each new id is handed to at once, of a single prompt.
        """
        with torch().random.fork_rng(devices=[], enabled=generation.seed is not None):
            if generation.seed is not None:
                torch().manual_seed(generation.seed)
            if isinstance(self.task.collator, Stream):
                return [
                    self._write_on(self.task.collator, prompt, generation, seen)
                    for prompt in prompts
                ]
            return self._write(prompts, generation, seen)

    def _write_on(
        self,
        collator: Stream,
        prompt: Ids,
        generation: Generation,
        seen: ToQueue | None,
    ) -> list[int]:
        """Return new ids, written a window at a time, as `lmkit.runtime.sliding` does.

        Repetitions are counted within a window: `generate()` knows no more of the text.
        """
        text = IncrementalText(self.tokenizer.decode, stop=self.task.stop_strings(generation))
        stops = stop_ids(self.model)
        ids: list[int] = []
        window = prompt[1 - collator.max_length :]
        while True:
            room = min(generation.max_new_tokens - len(ids), collator.max_length - len(window))
            least = min(room, max(0, generation.min_new_tokens - len(ids)))
            part = generation.override(max_new_tokens=room, min_new_tokens=least)
            found = self._write([window], part, seen)[0]
            ids += found
            for token in found:
                text.push(token)
            if text.stopped or ids[-1] in stops or len(ids) >= generation.max_new_tokens:
                return ids
            window = np.concatenate([prompt, ids])[-collator.kept :]

    def _write(
        self,
        prompts: Sequence[Ids],
        generation: Generation,
        seen: ToQueue | None,
    ) -> list[list[int]]:
        """Return the new ids of each prompt, padding still behind the shorter ones."""
        batch, mask = self._padded(prompts)
        config = generation_config(self.model, generation, self._room(batch.shape[1]))
        tensors = as_tensors({"input_ids": batch, "attention_mask": mask})
        stop = self.task.stop_strings(generation)
        # A decoder's ids begin with its start token; a causal model's with the prompt.
        before = batch.shape[1] if self.task.family.shifts else 1
        ends = [StopStrings(self.tokenizer, stop, before)] if stop else []
        if seen is not None:
            seen.begin()
        self.model.eval()
        with quiet(), only_config(self.model, config):
            found = self.model.generate(**tensors, streamer=seen, stopping_criteria=ends)
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

    def room(self, prompt: Ids) -> int | None:
        """Return the most tokens that can follow a prompt, or None."""
        return self._room(len(prompt))

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
        if text.stopped:  # by a character that might have gone on
            reason = "stop"
        return Answer(
            value=self.task.decoder.read(words),
            text=words,
            finish_reason=reason,
            usage=Usage(prompt_tokens=len(prompt), completion_tokens=count),
            token_ids=tuple(ids[:count]),
        )
