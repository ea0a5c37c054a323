"""Compare a golden prompt of a bundle with what comes out now."""

from __future__ import annotations

from collections.abc import Callable

from lmkit.chat.rendering import at_time
from lmkit.encoding import Ids, prompt_ids
from lmkit.errors import RecordError
from lmkit.saving.manifest import Golden
from lmkit.task import Task
from lmkit.tokenizing import Tokenizer


def difference(
    golden: Golden,
    task: Task,
    tokenizer: Tokenizer,
    created: str,
    answer: Callable[[Ids, int], list[int]] | None,
) -> str | None:
    """Return how a golden prompt comes out differently, or None if it does not.

    Args:
        golden: what was written down at export.
        task: the bundle's.
        tokenizer: the bundle's.
        created: when that was; the prompt is rendered at that moment.
        answer: returns the first so many tokens behind a prompt; None compares the prompt alone.
    """
    try:
        with at_time(created):
            ids = prompt_ids(task, golden.record, tokenizer)
    except RecordError as error:
        return f"the golden record {golden.record} does not fit the task: {error.problem}"
    if ids.tolist() != list(golden.prompt_ids):
        return (
            f"the prompt for {golden.record} encodes to {ids.tolist()}, "
            f"it was {list(golden.prompt_ids)}"
        )
    if answer is not None and golden.token_ids:
        written = answer(ids, len(golden.token_ids))
        if written != list(golden.token_ids):
            return (
                f"{golden.record} is answered with the tokens {written}, "
                f"it was with {list(golden.token_ids)}"
            )
    return None
