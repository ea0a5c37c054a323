"""Our own side of a comparison: a bundle's loop, each step of which is timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from lmkit.encoding import Ids
from lmkit.errors import TaskError
from lmkit.generation import Generation
from lmkit.runtime.generator import Generator
from lmkit.runtime.masked import MaskFiller
from lmkit.runtime.opening import load


def open_side(path: str | Path, *, precision: str | None, threads: int) -> Generator | MaskFiller:
    """Open a bundle as it is served: its sizes are checked, its checksums were when it was copied.

    No run finds what an earlier one has read, since the same prompts are read again and again here.
    """
    return load(path, precision=precision, threads=threads, verify=False, prefix_cache_bytes=0)


def written(
    generator: Generator,
    prompts: Sequence[Ids],
    n_tokens: int,
    n_beams: int,
    *,
    drafts: bool = False,
) -> tuple[list[float], list[list[int]]]:
    """Write exactly so many tokens behind each prompt, greedily or with beams, ends not minded.

    Args:
        generator: the bundle.
        prompts: B prompts, each int64 [P].
        n_tokens: tokens to write behind each.
        n_beams: texts that a search follows at once; 1 is greedy.
        drafts: whether tokens are guessed from what was read and written, as many as pay.
    Returns:
        `time.perf_counter()` after each step, or once for a search; and the ids, [B][n_tokens].
    Raises:
        TaskError: the model cannot hold so many tokens.
    """
    for prompt in prompts:
        room = generator.room(prompt)
        if room is not None and room < n_tokens:
            raise TaskError(
                f"{len(prompt)} tokens and {n_tokens} new ones do not fit the model, which has room "
                f"for {room} behind them; ask for fewer"
            )
    options = Generation(
        max_new_tokens=n_tokens,
        min_new_tokens=n_tokens,
        temperature=0,
        num_beams=n_beams,
        prompt_lookup_num_tokens=None if drafts else 0,
    )
    times: list[float] = []
    ids = generator.continued(
        prompts, [options] * len(prompts), on_step=lambda: times.append(time.perf_counter())
    )
    return times, ids
