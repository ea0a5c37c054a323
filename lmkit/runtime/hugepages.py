"""Huge pages for what a step reads: a graph's weights, as onnxruntime keeps them.

A step reads every weight once, so with pages of 4 KB the processor looks up tens of thousands of addresses
a token, and reads ahead no further than a page. Linux has pages of 2 MB, by default only for those who ask,
and onnxruntime does not. Asked for behind its back, a step of SmolLM2-135M takes 17% less in int4 and 7%
in fp32 (one thread, Zen 5, Linux 6.18); it costs 0.3 ms a megabyte, once, and no memory. Where free memory
lies in small pieces the system first puts them together, which may take half a second and holds up whoever
asks for memory meanwhile. So it is done a second later, when a process that answers once has answered.

It is advice: where the system has none to give, or is told to give none, nothing changes.

Source: madvise(2); the Linux kernel's Documentation/admin-guide/mm/transhuge.rst.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LATER_S = 1.0
MOVER = "lmkit-huge-pages"  # the thread that moves
SIZE = 1 << 21  # bytes of a huge page, of which pages of 4 KB make one on x86 and most of ARM

# Source: Linux, include/uapi/asm-generic/mman-common.h.
_MADV_HUGEPAGE = 14
_MADV_COLLAPSE = 25  # since 6.1; an older one does it by and by

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPS = Path("/proc/self/maps")

Ranges = Sequence[tuple[int, int]]


@contextmanager
def in_huge_pages() -> Iterator[None]:
    """Move what was allocated meanwhile, and is still held, to huge pages, as far as there are any.

    It is allocated as ever and moved behind the end, by a thread, since who allocates cannot be told. What
    other threads allocate meanwhile is moved as well, which does no harm, and nor does it to move what was
    let go since.
    """
    before = _private() if _is_allowed() else None
    yield
    if before is None:
        return
    found = without(_private(), before)
    threading.Thread(target=_move, args=(found,), name=MOVER, daemon=True).start()


def _move(ranges: Ranges) -> None:
    """Ask for huge pages in place of what lies in some ranges, a little later."""
    time.sleep(LATER_S)
    try:
        libc = ctypes.CDLL(None)
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    except (OSError, AttributeError):  # a Python without a C library to ask
        return
    for start, end in ranges:
        start, end = -(-start // SIZE) * SIZE, end // SIZE * SIZE
        if start < end:
            libc.madvise(start, end - start, _MADV_HUGEPAGE)
            libc.madvise(start, end - start, _MADV_COLLAPSE)


def without(ranges: Ranges, others: Ranges) -> list[tuple[int, int]]:
    """Return what of some ranges is in none of the others; both ascending, ends not included.

    >>> without([(0, 9), (20, 30)], [(2, 4), (8, 25)])
    [(0, 2), (4, 8), (25, 30)]
    """
    found = []
    for start, end in ranges:
        for first, last in others:
            if first < end and last > start:
                if start < first:
                    found.append((start, first))
                start = last
        if start < end:
            found.append((start, end))
    return found


def _is_allowed() -> bool:
    """Say whether this system has huge pages for those who ask."""
    if sys.platform != "linux":
        return False
    try:
        return "[never]" not in _SETTING.read_text()
    except OSError:
        return False


def _private() -> list[tuple[int, int]]:
    """Return where this process has memory of its own that no file is behind, ascending."""
    found = []
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        place, access, *rest = line.split()
        name = rest[3] if len(rest) > 3 else ""
        if access == "rw-p" and (not name or name.startswith(("[heap", "[anon"))):
            start, end = (int(part, 16) for part in place.split("-"))
            found.append((start, end))
    return found
