"""Requests: records that became prompts, with everything checked that can be before they wait."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from lmkit.answering.choosing import Choice, prepared
from lmkit.batching.penalties import asked
from lmkit.decoding import Chooser
from lmkit.encoding import Ids
from lmkit.errors import PromptTooLong, TaskError
from lmkit.formatting import Record
from lmkit.generation import Generation
from lmkit.runtime.generator import Generator
from lmkit.runtime.masked import MaskFiller
from lmkit.runtime.sampling import Penalty
from lmkit.saving.manifest import Graph


class Kind(enum.Enum):
    """How requests are answered, several at a time."""

    SLOT = "slot"  # text of a causal model: each joins and leaves at any token
    TOGETHER = "together"  # text of models whose rows begin together
    BEAMS = "beams"  # a search, several texts of each
    CHOICE = "choice"  # labels that are scored
    FILL = "fill"  # masks


@attrs.frozen(kw_only=True, eq=False)
class Request:
    """What to answer; `Engine.prepare` makes it. It may be submitted more than once.

    Attributes:
        kind: how it is answered.
        prompt: what the model is given, int64 [P].
        generation: how to write; None where nothing is written.
        limit: the most tokens that are written; 0 where none are.
        kv_bytes: the memory that its keys and values take, with that many tokens; 0 where what is
            taken is handed back at the end of a pass.
        n_logprobs: how many of the likeliest tokens are told with each; None for no scores.
        penalties: what changes logits beside the generation settings.
        timeout: seconds from its submission until it fails, or None.
        choice: the labels' rows, for a task that chooses.
    """

    kind: Kind
    prompt: Ids
    generation: Generation | None = None
    limit: int = 0
    kv_bytes: int = 0
    n_logprobs: int | None = None
    penalties: tuple[Penalty, ...] = ()
    timeout: float | None = None
    choice: Choice | None = None

    @property
    def n_rows(self) -> int:
        """How many texts are written for it: of a search, all of its beams."""
        return 1 if self.generation is None else self.generation.num_beams

    @property
    def prompt_tokens(self) -> int:
        """The tokens of its prompt."""
        return len(self.prompt)


def made(
    model: Generator | MaskFiller,
    record: Record | Ids | Sequence[int],
    *,
    kv_bytes: int | None = None,
    options: Mapping[str, Any] = {},
    n_logprobs: int | None = None,
    logit_bias: Mapping[int, float] = {},
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    timeout: float | None = None,
) -> Request:
    """Return a request; see `Engine.prepare`.

    Args:
        model: what will answer it.
        record: the task's prompt columns, or ready-made ids, int64 [P].
        kv_bytes: the most memory for keys and values, which bounds the answer; None for any: what takes
            more than its engine's is written when nothing else is.
        options: see there, and so for the others.
        n_logprobs: see there.
        logit_bias: see there.
        presence_penalty: see there.
        frequency_penalty: see there.
        timeout: see there.
    """
    if timeout is not None and not timeout > 0:
        raise TaskError(f"timeout is {timeout}; expected seconds above 0, or None")
    extras = n_logprobs is not None or logit_bias or presence_penalty or frequency_penalty
    if not isinstance(model, Generator) or isinstance(model.task.decoder, Chooser):
        if not isinstance(record, Mapping):
            raise TaskError(f"task '{model.task.name}' is asked by records, not by ready-made ids")
        if extras:
            raise TaskError(
                f"task '{model.task.name}' writes nothing freely, so token scores, biases and "
                "penalties would change nothing; leave them out"
            )
        if not isinstance(model, Generator):
            model.check_options(options)
            return Request(kind=Kind.FILL, prompt=model.prompt(record), timeout=timeout)
        most = model.manifest.graph.context_length
        choice = prepared(model, [record], options, most=most)[0]
        return Request(kind=Kind.CHOICE, prompt=choice.prompt, timeout=timeout, choice=choice)
    generation = model.task.generation.override(**options)
    prompt = model.prompt(record) if isinstance(record, Mapping) else _checked(model, record)
    causal = isinstance(model.manifest.graph, Graph) and model.writer is model.session
    kind = Kind.SLOT if causal else Kind.TOGETHER
    if generation.num_beams > 1:
        kind = Kind.BEAMS
        if extras:
            raise TaskError(
                f"num_beams is {generation.num_beams}; expected 1 with token scores, biases or "
                "penalties of this kind, which a beam search does not have"
            )
    if n_logprobs is not None and n_logprobs < 0:
        raise TaskError(f"n_logprobs is {n_logprobs}; expected 0 or more, or None for no scores")
    vocab_size = model.writer.vocab_size
    limit = model.limit(prompt, generation)
    if kv_bytes is not None:
        limit = _held(model, prompt, generation, limit, kv_bytes)
    return Request(
        kind=kind,
        prompt=prompt,
        generation=generation,
        limit=limit,
        kv_bytes=4 * generation.num_beams * model.writer.row_size(len(prompt), limit),
        n_logprobs=n_logprobs,
        penalties=asked(logit_bias, presence_penalty, frequency_penalty, vocab_size),
        timeout=timeout,
    )


def _checked(model: Generator, given: Ids | Sequence[int]) -> Ids:
    """Return ready-made ids that the model can read, with room for an answer."""
    if not isinstance(model.manifest.graph, Graph):
        raise TaskError(f"task '{model.task.name}' is asked by records, not by ready-made ids")
    ids = np.asarray(given, dtype=np.int64)
    if ids.ndim != 1 or not len(ids):
        raise TaskError(
            f"a prompt of ready-made ids has shape {list(ids.shape)}; expected a row of one at least"
        )
    vocab_size = model.session.vocab_size
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if len(wrong):
        raise TaskError(f"the prompt has token {wrong[0]}; expected ids from 0 to {vocab_size - 1}")
    room = model.writer.room(ids)
    if room is not None and room < 1:
        raise PromptTooLong(len(ids), room + len(ids))
    return ids


def _held(model: Generator, prompt: Ids, generation: Generation, limit: int, kv_bytes: int) -> int:
    """Return how many of at most `limit` tokens may follow: there must be room in the memory for them."""
    beams = generation.num_beams
    size = model.writer.row_size(len(prompt), limit)
    per_token = max(1, model.writer.row_size(1, 1) - model.writer.row_size(1, 0))
    beyond = math.ceil((4 * beams * size - kv_bytes) / (4 * beams * per_token))
    if beyond <= 0:
        return limit
    if limit - beyond < 1:
        raise TaskError(
            f"the prompt's {len(prompt)} tokens take more memory for keys and values than the "
            f"{kv_bytes:,} bytes that there are; shorten it, or give the engine more kv_bytes"
        )
    return limit - beyond
