"""Memory over many requests, and over the tokens of one."""

import gc
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import lmkit as lk

from .toybundle import CONTEXT_LENGTH, write_bundle

STATM = Path("/proc/self/statm")


def resident_bytes():
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def requests(ask, count, seed):
    """Make requests of random lengths in every way there is; some fail, some streams are left."""
    rng = np.random.default_rng(seed)
    for turn in range(count):
        record = {"prompt": "x" * int(rng.integers(1, 45))}
        options = {
            "max_new_tokens": int(rng.integers(1, 30)),
            "temperature": turn % 2,
            "seed": turn,
        }
        way = turn % 5
        if way == 0:
            ask(record, **options)
        elif way == 1:
            ask.batch([record] * int(rng.integers(1, 6)), batch_size=3, **options)
        elif way == 2:
            "".join(ask.stream(record, **options))
        elif way == 3:
            next(ask.stream(record, **options), None)
        else:
            with pytest.raises(lk.LmkitError):
                ask({"prompt": "x" * 99}, **options)


@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read as Linux tells it")
def test_it_is_flat_over_a_thousand_requests_of_random_lengths(ask):
    ask = lk.load(ask.path, threads=1)  # whose pool nobody else has used
    pool = ask._session.pool
    requests(ask, 200, seed=0)
    gc.collect()
    before = resident_bytes()

    requests(ask, 1000, seed=1)

    gc.collect()
    row = ask._session.row_size(CONTEXT_LENGTH, 0) * 4
    assert pool.used_bytes == 0
    assert pool.idle_bytes <= 3 * row  # no more rows were written at once
    # All of what they took together is a hundred times as much.
    assert resident_bytes() - before < 2 << 20


def test_tokens_allocate_no_arrays(ask):
    """Those of a step are bound once. Python's own small objects are all that comes and goes."""
    session = ask._session
    state, _ = session.begin([np.array([5, 6])] * 30, [50] * 30)
    for token in range(5):
        state.step([token, None, token] * 10)

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for token in range(40):
        state.step([token, None, token] * 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    state.close()

    assert peak - before < 30 * session.vocab_size * 4  # the logits of a single step


def test_reading_several_tokens_again_and_again_allocates_no_logits(tmp_path):
    ask = lk.load(write_bundle(tmp_path / "b"), threads=1)
    state, _ = ask._session.begin([np.array([5, 6])], [50])

    def read_again():
        for _ in range(20):
            state.rewind(0, 2)
            state.extend(0, np.arange(48))

    read_again()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    read_again()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak - before < 48 * ask._session.vocab_size * 4
