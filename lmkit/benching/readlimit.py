"""The memory-read limit: how fast all cores together can read, which a decode step cannot exceed.

A step of a causal model for one row reads every weight once, so bytes a second over bytes of weights
bounds its tokens a second. The limit is measured and not looked up: it is the machine's, as shared
with its neighbours at that moment, and is taken in turn with the sides.
"""

from __future__ import annotations

import threading
import time

import numpy as np

# Read at once by all threads; far beyond a cache that one process has to itself.
SIZE_BYTES = 1 << 28
PASSES = 3


class ReadLimit:
    """Memory to be read, and how fast that went.

    Each thread goes over a part of its own with numpy's largest-of, for which numpy has vector
    instructions and lets other threads run: what is left is the wait for memory. Compared with a C
    program of eight unrolled AVX-512 additions over as much memory, in turn, 2 threads on 2 cores of
    an AMD EPYC shared with others: medians of single passes over 256 MB were 36.6 GB/s here (20
    passes, 26-43) and 34.3 GB/s there (40 passes, 7-44).

    Args:
        threads: how many threads read.
        size_bytes: how much they read in one pass, together.
    """

    def __init__(self, threads: int, size_bytes: int = SIZE_BYTES) -> None:
        each = size_bytes // 8 // threads
        # Written, so that each page is memory of its own and not the shared page of zeros.
        self._parts = [np.ones(each, dtype=np.int64) for _ in range(threads)]

    def measure(self) -> float:
        """Return bytes a second, the best of a few passes: a slower one was disturbed.

        A benchmark takes the median of these, one before each piece of work, so that a share of the
        limit is of what the machine gave while the sides worked.
        """
        return max(self._once() for _ in range(PASSES))

    def _once(self) -> float:
        ready = threading.Barrier(len(self._parts))
        spans: list[tuple[float, float]] = []

        def read(part: np.ndarray) -> None:
            ready.wait()
            # Its own clock: who waits for it may wake late, while all cores read.
            start = time.perf_counter()
            part.max()
            spans.append((start, time.perf_counter()))

        threads = [threading.Thread(target=read, args=(part,)) for part in self._parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = max(end for _, end in spans) - min(start for start, _ in spans)
        return sum(part.nbytes for part in self._parts) / seconds
