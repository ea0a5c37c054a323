"""Filters over large vocabularies, against the plain way; small ones are worked out in test_sampling."""

import tracemalloc

import numpy as np
import pytest

from lmkit.generation import Generation
from lmkit.runtime.filters import TopK, TopP
from lmkit.runtime.sampling import Sampler

VOCABULARY = 50_000


def logits(seed, *, ties=False, size=VOCABULARY):
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=3, size=size).astype(np.float32)
    return np.round(scores * 4) / 4 if ties else scores


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 7, 40, 1024, 3000, 30_000])
@pytest.mark.parametrize("size", [5_000, VOCABULARY + 7])
def test_the_best_k_are_those_of_a_sort(k, ties, size):
    scores = logits(k, ties=ties, size=size)

    kept = TopK(k)(scores, np.empty_like(scores))

    if k >= size:
        assert kept is None
        return
    least = np.sort(scores)[-k]
    np.testing.assert_array_equal(kept, np.flatnonzero(scores >= least))


def test_the_best_k_are_found_among_many_that_are_ruled_out():
    scores = np.full(VOCABULARY, -np.inf, dtype=np.float32)
    scores[[5, 700, 40_000]] = 1, 2, 3

    kept = TopK(2)(scores, np.empty_like(scores))

    np.testing.assert_array_equal(kept, [700, 40_000])


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 0.999])
def test_the_mass_is_held_by_the_fewest(p):
    scores = logits(3)

    kept = TopP(p)(scores, np.empty_like(scores))

    shares = np.exp(scores.astype(np.float64))
    shares /= shares.sum()
    order = np.argsort(-shares)
    count = int(np.searchsorted(np.cumsum(shares[order]), p)) + 1
    np.testing.assert_array_equal(kept, np.sort(order[:count]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
        {"temperature": 1.0},
        {"temperature": 0.7},
        {"temperature": 0.7, "top_k": 40},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 0.7, "min_p": 0.05},
        {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.2},
    ],
    ids=str,
)
def test_a_token_allocates_nothing_as_large_as_the_logits(options):
    """A mask of them, and a few candidates, are what a filter may take; the argmax next to nothing."""
    sampler = Sampler(Generation(**options), seed=0)
    scores, history = logits(1), np.arange(100)
    sampler.choose(scores, history, 5)

    tracemalloc.start()
    sampler.choose(scores, history, 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < (4_000 if not options else 3 * VOCABULARY)  # a copy has 4 bytes each
