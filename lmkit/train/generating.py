"""What transformers' `generate()` is handed: the request in its words, and what it calls as it goes."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from lmkit.collating import shorter
from lmkit.generation import Generation
from lmkit.tokenizing import Tokenizer
from lmkit.train.extra import torch, transformers
from lmkit.train.wrapped import base_of


def generation_config(model: Any, options: Generation, room: int | None) -> Any:
    """Return the request in transformers' words; what a run's own file says does not leak in."""
    sampled = options.temperature > 0
    drawn = {
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p or None,
    }
    searched = {
        "num_beams": options.num_beams,
        "length_penalty": options.length_penalty,
        "early_stopping": options.early_stopping,
    }
    return transformers().GenerationConfig(
        do_sample=sampled,
        **(drawn if sampled else {}),
        **(searched if options.num_beams > 1 else {}),
        max_new_tokens=shorter(options.max_new_tokens, room),
        min_new_tokens=options.min_new_tokens or None,
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        encoder_no_repeat_ngram_size=options.encoder_no_repeat_ngram_size,
        forced_bos_token_id=options.forced_bos_token_id,
        forced_eos_token_id=options.forced_eos_token_id,
        suppress_tokens=list(options.suppress_tokens) or None,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=model.generation_config.pad_token_id,
        bos_token_id=model.generation_config.bos_token_id,
        decoder_start_token_id=getattr(model.generation_config, "decoder_start_token_id", None),
    )


@contextlib.contextmanager
def only_config(model: Any, config: Any) -> Iterator[Any]:
    """Let `generate()` follow this generation config alone.

    transformers fills what a given config leaves unset from the model's own file, where an author
    may have put a repetition penalty or a temperature that nobody asked for here.
    """
    both = {id(each): each for each in (model, base_of(model))}.values()
    own = [each.generation_config for each in both]
    try:
        for each in both:  # peft hands its own on to what it thinks is the base: not always so
            each.generation_config = config
        yield config
    finally:
        for each, settings in zip(both, own, strict=True):
            each.generation_config = settings


class NobodyReads(Exception):
    """Ends `generate()` early; who would be told has gone."""


class ToQueue:
    """What `generate()` calls with each new token; the first call brings the prompt.

    Args:
        ids: where the new ids go.
        unread: set by a reader who goes away; the next token ends `generate()` with an error then.
    """

    def __init__(self, ids: queue.Queue[Any], unread: threading.Event) -> None:
        self._ids = ids
        self._unread = unread
        self._prompt = True

    def begin(self) -> None:
        """Expect another prompt, since `generate()` is called again."""
        self._prompt = True

    def put(self, tokens: Any) -> None:
        """Hand new ids on; int64 [1], or the prompt's [1, P]."""
        if self._unread.is_set():
            raise NobodyReads
        if self._prompt:
            self._prompt = False
            return
        for token in tokens.reshape(-1).tolist():
            self._ids.put(token)

    def end(self) -> None:
        """Do nothing: `generate()` returns then, and its caller says so."""


class StopStrings:
    """Tells `generate()` which texts hold a stop string, after each new token.

    Each time the whole answer is read: beams change places, so nothing can be kept for a row.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], start: int) -> None:
        self._decode = tokenizer.decode
        self._stop = tuple(stop)
        self._start = start  # where answers begin

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        """Return bool [B] for ids int64 [B, T]."""
        texts = [self._decode(row) for row in input_ids[:, self._start :].tolist()]
        found = [any(stop in text for stop in self._stop) for text in texts]
        return torch().tensor(found, device=input_ids.device)
