"""How much an engine takes on, and what it has done so far."""

from __future__ import annotations

import attrs

from lmkit.errors import TaskError

# With 4 who write, and one who comes with 600 tokens (SmolLM2-135M in int4, two cores), the longest
# pauses between tokens (p99) and the time to the newcomer's first token, both in ms, by tokens read
# between two steps: 32 191 / 2117, 64 70 / 594, 128 117 / 514, 256 228 / 552.
PREFILL_CHUNK = 64


@attrs.frozen(kw_only=True)
class Limits:
    """How much an engine takes on at a time.

    Attributes:
        max_rows: the most requests that are written together; a search counts as many as its beams.
        max_waiting: the most requests that wait for a row; one more is refused.
        kv_bytes: the most memory for keys and values. A request is let in when there is room for its
            prompt and all tokens that may follow, so none has to be given up half way.
        prefill_chunk: how many tokens of a prompt are read between two steps of those that write,
            2 or more, and twice as many where more than one prompt waits: fewer make text flow more
            evenly, more let new answers begin sooner.
    Raises:
        TaskError: a number is too small.
    """

    max_rows: int = 32
    max_waiting: int = 128
    kv_bytes: int = 1 << 30
    prefill_chunk: int = PREFILL_CHUNK

    def __attrs_post_init__(self) -> None:
        least = {"max_rows": 1, "max_waiting": 0, "kv_bytes": 1, "prefill_chunk": 2}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise TaskError(f"{name} is {getattr(self, name)}; expected {bound} or more")


@attrs.define(kw_only=True)
class Counts:
    """What an engine has done since it began; one thread writes it.

    Attributes:
        prompt_tokens: tokens of all prompts that were begun.
        prefix_tokens: how many of those were found as read already.
        completion_tokens: tokens that were written.
        finished: requests that were answered.
        cancelled: requests that nobody wanted any more.
        failed: requests that ended in an error, those out of time among them.
        steps: passes of the model that wrote a token of each row.
    """

    prompt_tokens: int = 0
    prefix_tokens: int = 0
    completion_tokens: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    steps: int = 0


@attrs.frozen(kw_only=True)
class Stats(Counts):
    """The counts at a moment, and what the engine does then.

    Attributes:
        rows: requests that are read or written at the moment, a search as often as it has beams.
        waiting: requests that wait for a row.
        kv_bytes_used: memory that is held for keys and values of those that are read or written.
        kv_bytes_most: the most that may be.
    """

    rows: int = 0
    waiting: int = 0
    kv_bytes_used: int = 0
    kv_bytes_most: int = 0
