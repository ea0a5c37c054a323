"""Measure a finished precision on the task's own data: perplexity, and the task's metrics.

Everything goes through the bundle, as it will be used. A sample is enough to compare precisions, for
all are measured on the same tokens; how many it were stands beside the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np

from lmkit.answering.loss import Loss
from lmkit.benching import bench
from lmkit.benching.report import Spread
from lmkit.collating import Stream
from lmkit.collating.seq2seq import cutting
from lmkit.encoding import IGNORE, Encoded, encode_rows
from lmkit.errors import MissingExtra, RecordError
from lmkit.evaluating import answered, batches_by_length
from lmkit.family import Family
from lmkit.metrics import check_ready
from lmkit.records import Row
from lmkit.runtime.bundle import Bundle
from lmkit.runtime.generator import Generator
from lmkit.runtime.masked import MaskFiller
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer

MEASURED_TOKENS = 4096  # learned tokens on which perplexity is measured, unless said otherwise
ANSWERED_ROWS = 32  # records that are answered for the task's metrics
SCORED_TOGETHER = 8  # rows between two reports of progress
STREAM_ROWS = 200  # records of one text, which must be read from its beginning

PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 128, 32, 3  # of the timing

Progress = Callable[[int, int], None]


@attrs.frozen(kw_only=True)
class Sample:
    """What every precision is measured on.

    Attributes:
        encoded: rows to score.
        records: how many records they are of.
        answered: records to answer for the metrics; none if the task has no metrics.
        problem: why there is nothing to score; empty if there is.
    """

    encoded: Sequence[Encoded] = ()
    records: int = 0
    answered: Sequence[Row] = ()
    problem: str = ""

    @property
    def n_tokens(self) -> int:
        """The learned tokens in it."""
        return sum(int((row.labels[1:] != IGNORE).sum()) for row in self.encoded)


def sample_of(
    task: Task, rows: Sequence[Row], tokenizer: Tokenizer, most: int, *, held_out: bool = False
) -> Sample:
    """Return records from all over the data with so many learned tokens, or a little more.

    Args:
        task: the task.
        rows: records with their answers; the first ones only where they are one text, or masked.
        tokenizer: the bundle's.
        most: learned tokens.
        held_out: whether the records are left out that weights may be rounded by; see `n_measured`.
    """
    if isinstance(task.collator, Stream) or task.family is Family.MASKED:
        picked = list(rows[:STREAM_ROWS])  # what is hidden or learned depends on what came before
    else:
        picked = shuffled(rows)[: n_measured(rows) if held_out else len(rows)]
    encoded: list[Encoded] = []
    n_tokens, n_records = 0, 0
    try:
        if task.family is Family.MASKED or isinstance(task.collator, Stream):
            own = list(encode_rows(task, picked, tokenizer))
            encoded, n_records = list(task.collator.measured(own, tokenizer)), len(picked)
        else:
            for start in range(0, len(picked), SCORED_TOGETHER):
                some = picked[start : start + SCORED_TOGETHER]
                own = list(encode_rows(task, some, tokenizer))
                encoded += task.collator.measured(own, tokenizer)
                n_records += len(some)
                n_tokens = Sample(encoded=encoded).n_tokens
                if n_tokens >= most:
                    break
    except RecordError as error:
        return Sample(problem=f"the data has no answers to score: {error}")
    found = Sample(encoded=_cut(encoded, most), records=n_records)
    if not found.n_tokens:
        return Sample(problem="no row of the data has anything to learn")
    return attrs.evolve(found, answered=_to_answer(task, picked))


def shuffled(rows: Sequence[Row]) -> list[Row]:
    """Return the rows in an order that is always the same."""
    return [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]


def n_measured(rows: Sequence[Row]) -> int:
    """Return how many of the shuffled rows may be scored; the rest is for calibration."""
    return len(rows) - len(rows) // 4


def _cut(encoded: Sequence[Encoded], most: int) -> list[Encoded]:
    """Return rows from all over, as many as have so many learned tokens together."""
    total = Sample(encoded=encoded).n_tokens
    if total <= most:
        return list(encoded)
    step = total / most
    count = max(1, round(len(encoded) / step))
    places = np.unique(np.linspace(0, len(encoded) - 1, count).round().astype(int))
    return [encoded[place] for place in places]


def _to_answer(task: Task, rows: Sequence[Row]) -> list[Row]:
    """Return the records for the task's metrics; none where a metric's package is missing."""
    try:
        check_ready(task.metrics)
    except MissingExtra:
        return []
    return list(rows[:ANSWERED_ROWS]) if task.metrics else []


def scored(
    generator: Generator | MaskFiller, sample: Sample, on_progress: Progress
) -> dict[str, Any]:
    """Return the perplexity on a sample, or why there is none."""
    if sample.problem:
        return {"not_measured": sample.problem}
    loss, done = Loss(), 0
    for part in batches_by_length(sample.encoded, SCORED_TOGETHER):
        loss += generator.score(part)
        done += len(part)
        on_progress(done, len(sample.encoded))
    found = loss.figures()
    return {
        "bundle": found["perplexity"],
        "tokens": found["tokens"],
        "records": sample.records,
    }


def metrics_of(
    generator: Generator | MaskFiller, sample: Sample, on_progress: Progress
) -> dict[str, float]:
    """Return the task's metrics over greedy answers to a few records; none if it has none."""
    if not sample.answered:
        return {}
    model = generator.with_task(cutting(generator.task))
    answers: list[Any] = []
    references: list[Any] = []
    for start in range(0, len(sample.answered), SCORED_TOGETHER):
        part = sample.answered[start : start + SCORED_TOGETHER]
        some, expected = answered(model, part, SCORED_TOGETHER)
        answers += some
        references += expected
        on_progress(len(answers), len(sample.answered))
    figures: dict[str, float] = {"records": len(answers)}
    for metric in generator.task.metrics:
        figures |= metric.score(answers, references)
    return figures


@attrs.frozen(kw_only=True)
class Speed:
    """How fast a precision is, each a median of a few runs.

    Attributes:
        tokens_per_second: behind the first token; of a masked model tokens that are read.
        first_token_seconds: behind a prompt; of a masked model the whole pass.
        memory_bytes: the most that a process that answers has held.
    """

    tokens_per_second: float | None
    first_token_seconds: float
    memory_bytes: int


def speeds(bundle: Bundle, on_progress: Progress) -> dict[str, Speed]:
    """Return each precision's speed, measured in turn in processes of their own.

    The prompt has 128 tokens and the answer 32, or what fits the model.

    Raises:
        SideFailed: the bundle cannot be asked.
    """
    most = bundle.manifest.graph.context_length
    masked = bundle.manifest.task.family is Family.MASKED
    prompt, new = PROMPT_TOKENS, 1 if masked else NEW_TOKENS
    if most is not None and most < prompt + new:
        prompt, new = max(1, most // 2), max(1, min(new, most // 2))
    report = bench(
        bundle.path,
        prompt_tokens=(prompt,),
        new_tokens=(new,),
        rounds=ROUNDS,
        on_progress=lambda what, done, total: on_progress(done, total),
    )
    names = list(dict.fromkeys([bundle.manifest.precision, *bundle.manifest.precisions]))
    found = {}
    for name, result in zip(names, report.results, strict=True):
        figures = next(iter(result.figures.values()))
        rate = _median(figures.tokens_per_second)
        if masked:
            rate = prompt / figures.whole_s.median
        found[name] = Speed(
            tokens_per_second=rate,
            first_token_seconds=(figures.first_token_s or figures.whole_s).median,
            memory_bytes=result.peak_bytes,
        )
    return found


def _median(spread: Spread | None) -> float | None:
    return None if spread is None else spread.median
