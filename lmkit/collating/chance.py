"""Chance: random numbers for many rows at once, which depend on nothing but each row's key.

A generator of numpy's takes longer to make than a row takes to mask. So a row has a key, made of
the run's seed, the epoch and its index, and its numbers are a function of the key and their place:
they come out the same whichever rows stand beside it, in whichever process, and after a resume.

Source: SplitMix64, in Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators",
figures 16 and 17: the constants, and a stream that is a mix of a key plus multiples of the golden one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmkit.encoding import Ids

Keys = NDArray[np.uint64]
Uniforms = NDArray[np.float64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEPS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST = np.uint64(31)
_BITS, _UNIT = np.uint64(11), 2.0**-53  # 53 bits fill a float64's fraction


def row_keys(seed: int, epoch: int, indices: Sequence[int] | Ids) -> Keys:
    """Return a key for each of an epoch's rows, uint64 [B]."""
    key = np.zeros(1, dtype=np.uint64)
    for part in (np.uint64(seed % 2**64), np.uint64(epoch)):
        key = _mixed(key + GOLDEN + part)
    return _mixed(key + GOLDEN * (np.asarray(indices, dtype=np.uint64) + np.uint64(1)))


def uniforms(keys: Keys, counts: Ids) -> Uniforms:
    """Return numbers in [0, 1), float64 [N]: so many for each key, one key's behind the other's.

    Args:
        keys: uint64 [B].
        counts: int64 [B].
    """
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    place = np.arange(1, total + 1, dtype=np.uint64)
    offsets = keys - (ends - counts).astype(np.uint64) * GOLDEN  # as if each began at place 1
    bits = _mixed(place * GOLDEN + np.repeat(offsets, counts)) >> _BITS
    return bits.astype(np.float64) * _UNIT


def _mixed(numbers: Keys) -> Keys:
    """Return numbers whose every bit depends on each bit of those given."""
    for shift, factor in _STEPS:
        numbers = (numbers ^ (numbers >> shift)) * factor
    return numbers ^ (numbers >> _LAST)
