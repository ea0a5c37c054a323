import time

import numpy as np

from lmkit.benching.readlimit import ReadLimit


def test_reading_is_about_as_fast_as_numpys_own_sum_over_the_same_memory():
    limit = ReadLimit(1, 1 << 26)
    numbers = np.ones(1 << 24, dtype=np.float32)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        numbers.sum()
        rates.append(numbers.nbytes / (time.perf_counter() - start))

    assert 0.3 * max(rates) < max(limit.measure() for _ in range(3)) < 30 * max(rates)
