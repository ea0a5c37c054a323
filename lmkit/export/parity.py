"""Compare a bundle with torch on real prompts, and refuse it if they disagree.

Checked are single prompts, the same prompts as one ragged batch, and a long past: of an encoder-decoder a
long source, and a target longer than any answer here. Torch reads each prompt alone and unpadded, so
whatever padding or position might do wrong in the graph shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from lmkit.collating.seq2seq import cutting
from lmkit.encoding import Ids, prompt_ids
from lmkit.errors import ParityError, RecordError
from lmkit.manifest import Golden, Seq2SeqGraph
from lmkit.runtime.generator import Generator
from lmkit.train.extra import torch
from lmkit.train.generating import only_config
from lmkit.train.quiet import quiet

# float32 sums in another order differ by about 1e-6 of their size, and thirty layers let that grow
# tenfold or so. Wrong masks, positions or caches change logits by whole units.
ABSOLUTE, RELATIVE = 1e-3, 1e-4

GREEDY_TOKENS = 24  # compared behind each prompt
LONG_PAST = 384  # tokens of the long past, where the context has room
LONG_TARGET = 144  # tokens of the long target: T5 tells distances of up to 128 apart
GOLDEN_TOKENS = 8  # written down behind each golden prompt
CLEAR_LEAD = 0.05  # logits by which a golden token must lead, so that another CPU agrees


def check_parity(
    model: Any, generator: Generator, records: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], tuple[Golden, ...]]:
    """Compare greedy tokens and logits.

    Args:
        model: the torch model.
        generator: the bundle.
        records: real records; their prompts are used.
    Returns:
        The figures for the manifest, and the golden prompts.
    Raises:
        ParityError: a token or a logit differs beyond rounding; the text has the figures.
    """
    task = cutting(generator.task)
    found = [prompt_ids(task, record, generator.tokenizer) for record in records]
    prompts = _short_enough(found, generator)
    torchs = [_greedy(model, prompt, generator) for prompt in prompts]
    long = _long_prompt(prompts, generator)
    further = _greedy(model, long, generator)
    singles = [generator.greedy([prompt], GREEDY_TOKENS)[0] for prompt in prompts]
    cases = [
        *zip(prompts, torchs, singles, ["a single prompt"] * len(prompts), strict=True),
        *zip(
            prompts,
            torchs,
            generator.greedy(prompts, GREEDY_TOKENS),
            ["a ragged batch"] * len(prompts),
            strict=True,
        ),
        (long, further, generator.greedy([long], GREEDY_TOKENS)[0], "a long past"),
    ]
    compared = [_compare(model, generator, *case) for case in cases]
    compared += _long_target(model, generator, long)
    expected = sum(len(wanted) for _, wanted, _, _ in cases)
    equal = sum(case.n_equal for case in compared)
    figures = {
        "greedy_tokens_equal": equal == expected,
        "greedy_tokens_compared": equal,
        "ties": sum(case.tied for case in compared),
        "max_logit_difference": max(case.difference for case in compared),
        "prompts": len(prompts),
        "longest_past": len(long) + len(further),
    }
    golden = [
        _golden(model, generator, *case)
        for case in zip(records, prompts, torchs, strict=True)
        if _is_whole(generator, *case[:2])
    ]
    return figures, tuple(golden)


def _short_enough(prompts: Sequence[Ids], generator: Generator) -> list[Ids]:
    """Return the prompts, those that would leave no room for an answer cut from the left."""
    most = _longest_prompt(generator)
    return [prompt if most is None else prompt[-most:] for prompt in prompts]


def _longest_prompt(generator: Generator) -> int | None:
    """Return the most tokens of a prompt that an answer can follow, or None."""
    most = generator.manifest.graph.context_length
    if most is None:
        return None
    return max(1, most - (GREEDY_TOKENS if generator.task.family.shifts else 0))


def _is_whole(generator: Generator, record: Mapping[str, Any], prompt: Ids) -> bool:
    """Say whether a record's prompt was compared as it stands, cut nowhere."""
    try:
        return len(prompt_ids(generator.task, record, generator.tokenizer)) == len(prompt)
    except RecordError:  # its source is too long
        return False


def _long_prompt(prompts: Sequence[Ids], generator: Generator) -> Ids:
    """Return the prompts' ids repeated to a long past."""
    most = _longest_prompt(generator)
    return np.resize(np.concatenate(prompts), LONG_PAST if most is None else min(LONG_PAST, most))


def _long_target(model: Any, generator: Generator, prompt: Ids) -> list[_Compared]:
    """Compare logits far into a target, which no greedy answer may reach."""
    if generator.task.family.shifts:
        return []
    most = generator.room(prompt)
    length = LONG_TARGET if most is None else min(LONG_TARGET, most - 1)
    difference, _, _ = _difference(
        model, generator, prompt, np.resize(prompt, length), "a long target"
    )
    return [_Compared(difference, 0, tied=False)]


def _greedy(model: Any, prompt: Ids, generator: Generator) -> list[int]:
    """Return what torch's `generate()` writes behind one prompt."""
    from transformers import GenerationConfig

    tokens, most = generator.manifest.tokens, generator.room(prompt)
    start = _start(generator)
    config = GenerationConfig(
        max_new_tokens=GREEDY_TOKENS if most is None else min(GREEDY_TOKENS, most),
        do_sample=False,
        eos_token_id=list(tokens.stop),
        pad_token_id=tokens.pad,
        decoder_start_token_id=start,
    )
    ids = torch().from_numpy(prompt)[None]
    model.eval()
    with torch().inference_mode(), quiet(), only_config(model, config):
        found = model.generate(input_ids=ids, attention_mask=torch().ones_like(ids))
    return [int(token) for token in found[0, len(prompt) if start is None else 1 :]]


def _start(generator: Generator) -> int | None:
    """Return the token that a decoder is given first; None for a causal model, which has the prompt."""
    graph = generator.manifest.graph
    return graph.start_id if isinstance(graph, Seq2SeqGraph) else None


@attrs.frozen
class _Compared:
    """One case.

    Attributes:
        difference: the largest one of a logit.
        n_equal: greedy tokens that are equal, from the first on.
        tied: whether they part where torch itself is undecided between two.
    """

    difference: float
    n_equal: int
    tied: bool


def _compare(
    model: Any,
    generator: Generator,
    prompt: Ids,
    wanted: Sequence[int],
    found: Sequence[int],
    case: str,
) -> _Compared:
    """Compare logits and tokens, and refuse what rounding does not explain."""
    answer = np.asarray(wanted, dtype=np.int64)
    difference, tolerance, theirs = _difference(model, generator, prompt, answer, case)
    if list(found) == list(wanted):
        return _Compared(difference, len(wanted), tied=False)
    at = next(
        (i for i, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b),
        min(len(wanted), len(found)),
    )
    if lead(theirs[at]) <= 2 * tolerance:
        return _Compared(difference, at, tied=True)
    raise ParityError(
        f"{case}: greedy token {at + 1} is {list(found)[at : at + 1]}, torch's generate() has "
        f"{list(wanted)[at : at + 1]}, behind a prompt of {len(prompt)} tokens; no bundle was written"
    )


def _difference(
    model: Any, generator: Generator, prompt: Ids, answer: Ids, case: str
) -> tuple[float, float, np.ndarray]:
    """Return the largest difference of a logit, what is tolerated, and torch's float32 [L + 1, V].

    Raises:
        ParityError: it is more than rounding explains.
    """
    theirs = _forced(model, prompt, answer, _start(generator))
    ours = generator.forced(prompt, answer)
    return logit_difference(theirs, ours, case), tolerated(theirs), theirs


def _forced(model: Any, prompt: Ids, answer: Ids, start: int | None) -> np.ndarray:
    """Return torch's logits that predict each answer token and the next, float32 [L + 1, V]."""
    with torch().inference_mode():
        if start is not None:
            target = torch().from_numpy(np.concatenate([[start], answer]))[None]
            source = torch().from_numpy(prompt)[None]
            found = model(input_ids=source, decoder_input_ids=target, use_cache=False).logits[0]
            return np.asarray(found.float().numpy())
        whole = np.concatenate([prompt, answer])
        found = model(input_ids=torch().from_numpy(whole)[None], use_cache=False).logits[0]
    # Counted from the end: a soft prompt's places come first.
    return np.asarray(found[-len(answer) - 1 :].float().numpy())


def tolerated(logits: np.ndarray) -> float:
    """Return by how much two ways to compute these logits may differ, as rounding explains it."""
    return ABSOLUTE + RELATIVE * float(np.abs(logits).max())


def logit_difference(theirs: np.ndarray, ours: np.ndarray, case: str) -> float:
    """Return the largest difference of a logit from torch's, both float32 [T, V].

    Raises:
        ParityError: it is more than rounding explains, or not a number.
    """
    difference = float(np.abs(theirs - ours).max())
    if not difference <= tolerated(theirs):  # a NaN is no agreement either
        raise ParityError(
            f"{case}: a logit differs by {difference:.2e} from torch's, where rounding explains "
            f"{tolerated(theirs):.2e}; no bundle was written"
        )
    return difference


def golden_prompt(
    record: Mapping[str, Any], prompt: Ids, wanted: Sequence[int], logits: np.ndarray
) -> Golden:
    """Return a prompt with its first tokens, as far as they lead so clearly that any CPU agrees.

    Args:
        record: what the prompt was made from.
        prompt: int64 [P].
        wanted: torch's N tokens.
        logits: torch's logits for each of them, float32 [N, V].
    """
    clear = [lead(row) > CLEAR_LEAD for row in logits]
    count = clear.index(False) if False in clear else len(clear)
    return Golden(
        record=dict(record), prompt_ids=tuple(prompt.tolist()), token_ids=tuple(wanted[:count])
    )


def lead(logits: np.ndarray) -> float:
    """Return by how much the likeliest token leads the next."""
    first, second = np.partition(logits, -2)[-2:][::-1]
    return float(first - second)


def _golden(
    model: Any,
    generator: Generator,
    record: Mapping[str, Any],
    prompt: Ids,
    wanted: Sequence[int],
) -> Golden:
    """Return a prompt with torch's first greedy tokens."""
    logits = _forced(model, prompt, np.asarray(wanted, dtype=np.int64), _start(generator))
    count = min(len(wanted), GOLDEN_TOKENS)
    return golden_prompt(record, prompt, wanted[:count], logits[:count])
