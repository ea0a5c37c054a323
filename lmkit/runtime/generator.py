"""Generate: records in, answers out, one loop over any number of rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Writing
from contextlib import closing
from typing import Any, TypeVar

import attrs
import numpy as np

from lmkit.answering.choosing import choose
from lmkit.answering.logits import LogProbs, rows_at_once
from lmkit.answering.loss import Loss
from lmkit.answering.streaming import IncrementalText, in_one_piece
from lmkit.collating import Stream
from lmkit.decoding import Answer, Chooser, Usage
from lmkit.encoding import Encoded, Ids, fitting_prompt
from lmkit.errors import TaskError
from lmkit.formatting import Record
from lmkit.generation import Generation
from lmkit.runtime.beams import BeamSearch, search
from lmkit.runtime.bundle import Bundle
from lmkit.runtime.causal import CausalSession
from lmkit.runtime.causal_state import CausalState
from lmkit.runtime.golden import difference
from lmkit.runtime.rows import Row, alike, write
from lmkit.runtime.sampling import Penalty, Sampler
from lmkit.runtime.session import Session
from lmkit.runtime.sliding import SlidingSession
from lmkit.saving.manifest import Golden
from lmkit.saving.precisions import DRAFT_TOKENS
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer

# Tokens a second of SmolLM2-135M at 1, 4, 8, 16, 32 and 64 rows, two cores: 71, 213, 377, 571, 784 and
# 947 in fp32, 213, 543, 674, 808, 926 and 598 in int4.
ROWS_AT_ONCE = 32

AnyRow = TypeVar("AnyRow", bound=Row)


class Generator:
    """A bundle that answers. Calls from several threads do not disturb each other."""

    def __init__(
        self, bundle: Bundle, session: Session, *, tokenizer: Tokenizer | None = None
    ) -> None:
        self.path = bundle.path
        self.manifest = bundle.manifest
        self._session = session
        self._writer = _writer(session, bundle.manifest.task)
        self._tokenizer = bundle.tokenizer if tokenizer is None else tokenizer
        self._stop_ids = frozenset(bundle.manifest.tokens.stop)

    def __repr__(self) -> str:
        return f"Generator({str(self.path)!r}, {self.task!r})"

    @property
    def task(self) -> Task:
        """What it does."""
        return self.manifest.task

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that its prompts are made with."""
        return self._tokenizer

    def with_task(self, task: Task) -> Generator:
        """Return the same model under another task of its family."""
        other = copy.copy(self)
        other.manifest = attrs.evolve(self.manifest, task=task)
        other._writer = _writer(self._session, task)
        return other

    def __call__(self, record: Record, **options: Any) -> Answer:
        """Answer one record.

        Args:
            record: the task's prompt columns.
            options: fields of `Generation`, such as `temperature=0`.
        Raises:
            RecordError: a column is missing or of the wrong type.
            PromptTooLong: the prompt does not fit the model's context.
            UnknownOption: `Generation` has no such field.
        """
        return self.batch([record], **options)[0]

    def stream(self, record: Record, **options: Any) -> Iterator[str]:
        """Yield the answer's text in pieces as it is written; none ends inside a character.

        Joined, they are the answer's `text`; what the generator returns is the whole `Answer`.
        Arguments and errors are those of a call. A beam search knows its answer only at the end, so
        with beams there is one piece.
        """
        if isinstance(self.task.decoder, Chooser):
            return in_one_piece(self(record, **options))
        generation = self.task.generation.override(**options)
        row = self.row(self.prompt(record), generation, make=Row)

        def pieces() -> Writing[str, None, Answer]:
            with closing(self._write([row], self._writer, 1)) as writing:
                for _ in writing:
                    if piece := row.take():
                        yield piece
            return self.answer(row)

        return pieces()

    def batch(
        self, records: Sequence[Record], *, batch_size: int = ROWS_AT_ONCE, **options: Any
    ) -> list[Answer]:
        """Answer records, several in each step of the model; the order is kept.

        Prompts may be of any lengths. Under greedy the answers are those of single calls.
        """
        if batch_size < 1:
            raise TaskError(f"batch_size is {batch_size}; expected 1 or more")
        if isinstance(self.task.decoder, Chooser):
            most = self.manifest.graph.context_length
            return choose(self, records, options, batch_size=batch_size, most=most)
        generation = self.task.generation.override(**options)
        prompts = [self.prompt(record, index) for index, record in enumerate(records)]
        rows = [self.row(prompt, generation, make=Row) for prompt in prompts]
        beams = max(1, generation.num_beams)
        sizes = [beams * self._writer.row_size(len(row.prompt), row.limit) for row in rows]
        for group in alike(sizes, batch_size):
            at_once = min(batch_size, rows_at_once(sizes[group[0]]))
            for _ in self._write([rows[place] for place in group], self._writer, at_once):
                pass
        return [self.answer(row) for row in rows]

    def prompt(self, record: Record, index: int = 0) -> Ids:
        """Return what the model is given for a record, int64 [P]; errors are those of a call."""
        most = self.manifest.graph.context_length
        return fitting_prompt(self.task, record, self._tokenizer, most=most, index=index)

    def log_probs(self, rows: Sequence[Encoded]) -> list[LogProbs]:
        """Return the log-probability of each row's learned tokens, float64 [L] a row."""
        return self._session.log_probs(rows)

    def score(self, rows: Sequence[Encoded]) -> Loss:
        """Return the loss over some rows' learned tokens."""
        return Loss.over(self.log_probs(rows))

    def check_golden(self, golden: Golden, *, answer: bool) -> str | None:
        """Return how a golden prompt now comes out differently, or None if it does not."""
        greedy = (lambda prompt, count: self.greedy([prompt], count)[0]) if answer else None
        return difference(golden, self.task, self._tokenizer, self.manifest.created, greedy)

    def room(self, prompt: Ids) -> int | None:
        """Return the most tokens that can follow a prompt, or None."""
        return self._session.room(prompt)

    def greedy(self, prompts: Sequence[Ids], max_new_tokens: int) -> list[list[int]]:
        """Return the ids that follow each prompt greedily, in one batch; for checks.

        They are the model's own: stop strings, the task's included, do not end them, and no text
        goes on past the model's context.
        """
        options = Generation(max_new_tokens=max_new_tokens, prompt_lookup_num_tokens=0)
        return self.continued(prompts, [options] * len(prompts))

    def drawn(self, prompts: Sequence[Ids], max_new_tokens: int, seed: int) -> list[list[int]]:
        """Return ids drawn from what the model expects behind each prompt, in one batch; as `greedy`."""
        options = [
            Generation(max_new_tokens=max_new_tokens, temperature=1.0, seed=seed + place)
            for place in range(len(prompts))
        ]
        return self.continued(prompts, options)

    def continued(
        self,
        prompts: Sequence[Ids],
        options: Sequence[Generation],
        on_step: Callable[[], object] | None = None,
    ) -> list[list[int]]:
        """Return the ids that follow prompts, each with options of its own, in one batch; as `greedy`.

        Args:
            prompts: B of them, each int64 [P].
            options: B of them; stop strings do not count.
            on_step: called after each token of all rows, or once for a beam search.
        """
        session = self._session
        rows = [
            self.row(prompt, own, session=session, stop=(), make=Row)
            for prompt, own in zip(prompts, options, strict=True)
        ]
        for _ in self._write(rows, session, len(rows)):
            if on_step is not None:
                on_step()
        return [row.token_ids for row in rows]

    def reads_drafts(self, prompt: Ids) -> bool | None:
        """Load what checks drafts, and say whether it reads a text to the bit as single steps do.

        Args:
            prompt: any text, int64 [P], of which the beginning is read.
        Returns:
            None where no second graph checks drafts, or the model's context is too short for it.
        """
        session = self._session
        verifier = session.verifier if isinstance(session, CausalSession) else None
        prompt = prompt[: DRAFT_TOKENS * 2]
        room = session.room(prompt)
        if verifier is None or (room is not None and room < DRAFT_TOKENS):
            return None
        state, _ = session.begin([prompt], [DRAFT_TOKENS])
        try:
            assert isinstance(state, CausalState)
            verifier.load(state, np.resize(prompt, DRAFT_TOKENS))
        finally:
            state.close()
        return verifier.is_exact

    def forced(self, prompt: Ids, answer: Ids) -> np.ndarray:
        """Return the logits that predict each answer token and the next, float32 [L + 1, V]; for checks."""
        return self._session.forced(prompt, answer)

    @property
    def session(self) -> Session:
        """The loaded graph."""
        return self._session

    @property
    def writer(self) -> Session:
        """What answers are written with: of one text, more than the model reads at once."""
        return self._writer

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer."""
        return self._stop_ids

    def limit(self, prompt: Ids, generation: Generation, session: Session | None = None) -> int:
        """Return the most tokens that can follow a prompt, int64 [P], and may."""
        room = (session or self._writer).room(prompt)
        return generation.max_new_tokens if room is None else min(generation.max_new_tokens, room)

    def row(
        self,
        prompt: Ids,
        generation: Generation,
        *,
        session: Session | None = None,
        stop: Sequence[str] | None = None,
        limit: int | None = None,
        penalties: Sequence[Penalty] = (),
        make: Callable[..., AnyRow],
    ) -> AnyRow:
        """Return one answer that is yet to be written.

        Args:
            prompt: what the model is given, int64 [P].
            generation: how to write.
            session: what writes; `writer` if None.
            stop: texts that end the answer; the task's and the options' if None.
            limit: the most tokens; as many as there is room for if None.
            penalties: what changes logits beside the options.
            make: makes it; it is given what `Row` takes.
        """
        session = session or self._writer
        if stop is None:
            stop = self.task.stop_strings(generation)
        if limit is None:
            limit = self.limit(prompt, generation, session)
        history = session.history(prompt)
        beams = None
        if generation.num_beams > 1:
            beams = BeamSearch(
                generation,
                source=prompt,
                history=history,
                limit=limit,
                stop_ids=self._stop_ids,
                ends=self._says(stop),
            )
        return make(
            prompt=prompt,
            history=history,
            limit=limit,
            sampler=Sampler(
                generation, eos_ids=self._stop_ids, limit=limit, source=prompt, more=penalties
            ),
            text=IncrementalText(self._tokenizer.decode, stop=stop),
            beams=beams,
            drafts=generation.prompt_lookup_num_tokens if generation.temperature == 0 else 0,
        )

    def _says(self, stop: Sequence[str]) -> Callable[[Sequence[int]], bool] | None:
        """Return what tells whether ids hold a stop string; None if there is none to hold."""
        if not stop:
            return None
        return lambda ids: any(text in self._tokenizer.decode(ids) for text in stop)

    def _write(
        self, rows: Sequence[Row], session: Session, at_once: int
    ) -> Writing[None, None, None]:
        """Write rows until all are finished; yields after every token, or once for all beams."""
        if all(row.beams is None for row in rows):
            yield from write(session, rows, self._stop_ids, at_once=at_once)
            return
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            searches = [row.beams for row in part if row.beams is not None]
            search(session, [row.prompt for row in part], searches)
            for row, found in zip(part, searches, strict=True):
                row.take_over(found.best, self._stop_ids)
            yield

    def answer(self, row: Row) -> Answer:
        """Return what a finished row says."""
        text = row.text.text
        return Answer(
            value=self.task.decoder.read(text),
            text=text,
            finish_reason=row.reason or "length",
            usage=Usage(prompt_tokens=len(row.prompt), completion_tokens=len(row.token_ids)),
            token_ids=tuple(row.token_ids),
        )


def _writer(session: Session, task: Task) -> Session:
    """Return what answers are written with: of one text, more than the model reads at once."""
    if not isinstance(task.collator, Stream):
        return session
    return SlidingSession(session, window=task.collator.max_length, kept=task.collator.kept)
