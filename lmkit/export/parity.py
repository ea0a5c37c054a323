"""Compare a bundle with what torch says, and refuse it if the two disagree.

Checked are single prompts, the same prompts as one ragged batch, and a long past: of an encoder-decoder a
long source, and a target longer than any answer here. In float32 tokens and logits must be torch's;
rounded weights may choose other tokens, and how often they do is written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from lmkit.answering.logits import Logits
from lmkit.errors import ParityError
from lmkit.export.reference import GREEDY_TOKENS, Case, Reference
from lmkit.runtime.generator import Generator

# float32 sums in another order differ by about 1e-6 of their size, and thirty layers let that grow
# tenfold or so. Wrong masks, positions or caches change logits by whole units.
ABSOLUTE, RELATIVE = 1e-3, 1e-4

GOLDEN_TOKENS = 8  # written down behind each golden prompt
CLEAR_LEAD = 0.05  # logits by which a golden token must lead, so that another CPU agrees
ROUNDED_LEAD = 0.25  # the same where kernels round activations, too: a flip moves logits further

Compared = tuple[dict[str, Any], tuple[tuple[int, ...], ...]]


def compare(reference: Reference, generator: Generator) -> Compared:
    """Compare the float32 graph's greedy tokens and logits with torch's.

    Returns:
        The figures for the manifest, and the first tokens behind each golden prompt.
    Raises:
        ParityError: a token or a logit differs beyond rounding; the text has the figures.
    """
    prompts = reference.prompts
    cases = [*reference.cases, reference.long]
    names = ["a single prompt"] * len(prompts) + ["a long past"]
    singles = [generator.greedy([case.prompt], GREEDY_TOKENS)[0] for case in cases]
    differences = [
        logit_difference(case.logits, generator.forced(case.prompt, case.token_ids), name)
        for case, name in zip(cases, names, strict=True)
    ]
    if reference.target is not None:
        ours = generator.forced(reference.target.prompt, reference.target.token_ids)
        differences.append(logit_difference(reference.target.logits, ours, "a long target"))
    compared = [_tokens(*each) for each in zip(cases, singles, names, strict=True)]
    for case, found in zip(cases, generator.greedy(prompts, GREEDY_TOKENS), strict=False):
        compared.append(_tokens(case, found, "a ragged batch"))
    expected = sum(len(case.token_ids) for case in (*cases, *reference.cases))
    equal = sum(case.n_equal for case in compared)
    figures = {
        "greedy_tokens_equal": equal == expected,
        "greedy_tokens_compared": equal,
        "ties": sum(case.tied for case in compared),
        "max_logit_difference": max(differences),
        "prompts": len(prompts),
        "longest_past": len(reference.long.prompt) + len(reference.long.token_ids),
    }
    golden = [
        clear_tokens(reference.cases[place].token_ids.tolist(), reference.cases[place].logits)
        for place in reference.golden
    ]
    return figures, tuple(golden)


def agree(reference: Reference, generator: Generator) -> Compared:
    """Measure how often a graph of rounded weights chooses torch's token, as float32 does.

    Returns:
        The figures for the manifest, and the first tokens behind each golden prompt: the graph's own.
    Raises:
        ParityError: a logit is not a number.
    """
    cases = [*reference.cases, reference.long]
    equal, differences = [], []
    for case in cases:
        ours = generator.forced(case.prompt, case.token_ids)
        if not np.isfinite(ours).all():
            raise ParityError("a logit is not a number; no bundle was written")
        differences.append(float(np.abs(ours - case.logits).max()))
        # What stands behind the end of an answer is nobody's to predict.
        equal += (ours.argmax(axis=1) == case.logits.argmax(axis=1))[:-1].tolist()
    own = [generator.greedy([case.prompt], GREEDY_TOKENS)[0] for case in cases]
    together = generator.greedy(reference.prompts, GREEDY_TOKENS)
    figures = {
        "greedy_agreement": sum(equal) / max(1, len(equal)),
        "tokens_compared": len(equal),
        "tokens_until_difference": sum(
            _n_equal(case.token_ids.tolist(), found) for case, found in zip(cases, own, strict=True)
        )
        / len(cases),
        "batched_tokens_equal": together == own[:-1],
        "max_logit_difference": max(differences),
        "prompts": len(reference.cases),
    }
    golden = []
    for place in reference.golden:
        prompt, tokens = reference.cases[place].prompt, own[place]
        logits = generator.forced(prompt, np.array(tokens, dtype=np.int64))
        golden.append(clear_tokens(tokens, logits, ROUNDED_LEAD))
    return figures, tuple(golden)


@attrs.frozen
class _Tokens:
    """One case.

    Attributes:
        n_equal: greedy tokens that are equal, from the first on.
        tied: whether they part where torch itself is undecided between two.
    """

    n_equal: int
    tied: bool


def _tokens(case: Case, found: Sequence[int], name: str) -> _Tokens:
    """Compare tokens, and refuse what rounding does not explain."""
    wanted = case.token_ids.tolist()
    at = _n_equal(wanted, found)
    if at == len(wanted) == len(found):
        return _Tokens(at, tied=False)
    if lead(case.logits[at]) <= 2 * tolerated(case.logits):
        return _Tokens(at, tied=True)
    raise ParityError(
        f"{name}: greedy token {at + 1} is {list(found)[at : at + 1]}, torch's generate() has "
        f"{wanted[at : at + 1]}, behind a prompt of {len(case.prompt)} tokens; no bundle was written"
    )


def _n_equal(wanted: Sequence[int], found: Sequence[int]) -> int:
    """Return how many tokens are equal, from the first on."""
    pairs = enumerate(zip(wanted, found, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(wanted), len(found)))


def tolerated(logits: Logits) -> float:
    """Return by how much two ways to compute these logits may differ, as rounding explains it."""
    return ABSOLUTE + RELATIVE * float(np.abs(logits).max())


def logit_difference(theirs: Logits, ours: Logits, case: str) -> float:
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


def clear_tokens(
    wanted: Sequence[int], logits: Logits, least: float = CLEAR_LEAD
) -> tuple[int, ...]:
    """Return the first tokens of an answer, as far as they lead so clearly that any CPU agrees.

    Args:
        wanted: L tokens.
        logits: what predicts each of them, float32 [L, V] or more.
        least: the logits by which each must lead.
    """
    count = min(len(wanted), GOLDEN_TOKENS)
    clear = [lead(row) > least for row in logits[:count]]
    return tuple(wanted[: clear.index(False) if False in clear else count])


def lead(logits: Logits) -> float:
    """Return by how much the likeliest token leads the next."""
    first, second = np.partition(logits, -2)[-2:][::-1]
    return float(first - second)
