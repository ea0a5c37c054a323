"""Texts on which is measured what a model's weights multiply, so that they are rounded for the task.

SmolLM2-135M in 4 bits with attention's products in 8, mean divergence from float32 in nats on 1545 learned
tokens of chats / 1602 of instructions: 0.103 / 0.120 rounded by 3000 tokens, half of each data, 0.080 / 0.087
by 12000. Earlier, on other rows: 0.112 / 0.088 by 3774 tokens of such data, 0.143 / 0.166 by 1669 tokens that
it drew itself. Reading 8192 tokens took 21 to 37 seconds of one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from lmkit.collating import Stream
from lmkit.encoding import Ids, encode_rows
from lmkit.errors import RecordError
from lmkit.export.measuring import SCORED_TOGETHER, STREAM_ROWS, Progress, n_measured, shuffled
from lmkit.export.source import Source
from lmkit.family import Family
from lmkit.records import Row
from lmkit.runtime.bundle import Bundle
from lmkit.runtime.generator import Generator
from lmkit.runtime.opening import open_generator
from lmkit.saving.manifest import Manifest
from lmkit.saving.precisions import FP32
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer

CALIBRATION_TOKENS = 8192  # of the data's texts, as far as they are read
LEAST_TOKENS = 500  # fewer say too little of what a model multiplies
OWN_TOKENS, OWN_LENGTH, OWN_ROUNDS = 1500, 128, 4  # of texts that the model draws itself
OWN_ROWS = 12  # drawn together: a step of 16 rows takes a third more than one of 8 (`ROWS_AT_ONCE`)


def calibration_texts(
    part: Path,
    manifest: Manifest,
    prompts: Sequence[Ids],
    writer: Any,
    source: Source,
    rows: Sequence[Row],
    on_progress: Progress,
    *,
    generator: Any = None,
) -> tuple[list[Ids], str]:
    """Return texts of the data, or else ones that a causal model draws itself.

    Args:
        part: the bundle that is being made, with its float32 graph.
        manifest: of that.
        prompts: ids int64 [P], which begin the model's own texts.
        writer: what wrote the graph.
        source: the task and its tokenizer.
        rows: records with their answers; none if no data was given.
        on_progress: told how many tokens were drawn.
        generator: the float32 graph's, if it is open; it is opened only if it is needed.
    Returns:
        ids int64 [T] each, and whose they are, in words.
    """
    texts = from_data(source.task, rows, source.tokenizer)
    if sum(map(len, texts)) >= LEAST_TOKENS or source.task.family is not Family.CAUSAL:
        return texts, "the data, in records that perplexity is not measured on"
    if generator is None:
        graph = manifest.graph.with_files(writer.float32.files)
        own = attrs.evolve(manifest, precision=FP32, graph=graph)
        generator = open_generator(Bundle(part, own))
    assert isinstance(generator, Generator)  # of a causal model
    whose = "text that it drew itself (with the task's own data it would lose less)"
    return drawn(generator, prompts, on_progress), whose


def from_data(task: Task, rows: Sequence[Row], tokenizer: Tokenizer) -> list[Ids]:
    """Return texts to measure what weights multiply on, none of which `sample_of` may score.

    Args:
        task: the task.
        rows: records with their answers. A quarter of them at most is used; of records that are one text
            those behind what is scored.
        tokenizer: the bundle's.
    Returns:
        ids int64 [T], of which `CALIBRATION_TOKENS` or a little more are read (`feeding.LONGEST` of each at
        most); fewer or none if there are too few.
    """
    # It needs the extra, and this module does not.
    from lmkit.export.quantizing.feeding import LONGEST

    if isinstance(task.collator, Stream) or task.family is Family.MASKED:
        left = list(rows[STREAM_ROWS : 2 * STREAM_ROWS])
    else:
        left = shuffled(rows)[n_measured(rows) :]
    texts: list[Ids] = []
    count, step = 0, STREAM_ROWS if isinstance(task.collator, Stream) else SCORED_TOGETHER
    for start in range(0, len(left), step):
        try:
            own = list(encode_rows(task, left[start : start + step], tokenizer))
        except RecordError:
            return []  # `sample_of` tells what is wrong with the data
        for row in task.collator.measured(own, tokenizer) if own else ():
            texts.append(row.input_ids)
            count += min(len(row.input_ids), LONGEST)
            if count >= CALIBRATION_TOKENS:
                return texts
    return texts


def drawn(generator: Generator, prompts: Sequence[Ids], on_progress: Progress) -> list[Ids]:
    """Return texts that a model draws from what it expects itself, where there is no data to calibrate on.

    Liu et al. 2023 ("LLM-QAT", arXiv:2305.17888) draw the texts that they train a rounded model with alike.

    Args:
        generator: the float32 graph's.
        prompts: ids int64 [P], which begin the texts; some texts begin with nothing but the BOS token.
        on_progress: told how many tokens there are.
    Returns:
        ids int64 [T], `OWN_TOKENS` together or a little more.
    """
    bos = generator.manifest.tokens.bos
    starts = [*prompts] + ([] if bos is None else [np.array([bos])] * len(prompts))
    starts = [starts[row % len(starts)] for row in range(max(OWN_ROWS, len(starts)))]
    texts: list[Ids] = []
    for seed in range(OWN_ROUNDS):
        rows = generator.drawn(starts, OWN_LENGTH, seed * len(starts))
        texts += [
            np.concatenate([s, np.asarray(r, np.int64)]) for s, r in zip(starts, rows, strict=True)
        ]
        count = sum(map(len, texts))
        on_progress(min(count, OWN_TOKENS), OWN_TOKENS)
        if count >= OWN_TOKENS:
            break
    return texts
