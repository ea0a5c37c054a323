"""A matrix in blocks of small integers, as `com.microsoft::MatMulNBits` stores it.

Each row of a weight [out, in] is cut into blocks; a block has a scale and a zero point, and a number in it
is (integer - zero point) * scale.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from attrs import field, frozen
from attrs.validators import in_

from lmkit.export.quantizing.rounding import Inputs, compensated, nearest, ordered, spaced
from lmkit.runtime.cores import available_cores

_ROWS = 1024  # rounded at a time: 20% faster than 512, and what is computed for them is small


@frozen(kw_only=True)
class Format:
    """How a weight's numbers are stored.

    Attributes:
        bits: of each number, 4 or 8.
        block: numbers that share a scale; a power of two from 16 on.
        zero_points: whether each block has a zero point of its own; else it is the middle, 2^(bits-1).
    """

    bits: int = field(validator=in_((4, 8)))
    block: int = field(default=32, validator=in_((16, 32, 64, 128, 256)))
    zero_points: bool = True


@frozen(eq=False, kw_only=True)
class Blocks:
    """A weight [N, K] in blocks along K.

    Attributes:
        format: how the numbers are stored.
        width: K, before it was filled up to whole blocks.
        data: uint8 [N, ceil(K / block), block * bits / 8]; of two 4-bit numbers the first is the lower half.
        scales: [N, ceil(K / block)], float16, or float32 where one of them is beyond its usual range.
        zero_points: uint8 [N, ceil(ceil(K / block) * bits / 8)], packed like the data; None for the middle.
    """

    format: Format
    width: int
    data: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None


def blocked(
    array: np.ndarray, format: Format, moments: Sequence[np.ndarray] | None = None
) -> Blocks:
    """Round a weight.

    Args:
        array: float32 [N, K], in any memory layout; it is read in slices, never copied whole.
        format: how to store it.
        moments: second moments of what it multiplies, as `calibrating.second_moments` measures them: float32
            [span, span] each, the spans adding up to K. With them errors make up for each other; without
            them each number of 8 bits is the nearest and the scales of 4 bits are those of least error.
    """
    rows, width = array.shape
    n_blocks = -(-width // format.block)
    data = np.empty((rows, n_blocks, format.block * format.bits // 8), np.uint8)
    scales = np.empty((rows, n_blocks), np.float32)
    packed = -(-n_blocks * format.bits // 8)
    zero_points = np.empty((rows, packed), np.uint8) if format.zero_points else None
    spans = [ordered(span, format.block) for span in moments or ()]

    def fill(start: int) -> None:
        part = slice(start, min(rows, start + _ROWS))
        columns = np.zeros((n_blocks * format.block, part.stop - start), np.float32)
        columns[:width] = array[part].T
        if spans:
            numbers, own, zeros = _compensated(columns, width, spans, format)
        else:
            numbers, own, zeros = _apart(columns, format)
        scales[part] = own.T
        data[part] = _packed(numbers.T.reshape(-1, n_blocks, format.block), format.bits)
        if zero_points is not None:
            zero_points[part] = _packed(zeros.T.astype(np.uint8), format.bits)

    with _one_thread_a_product(), ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(fill, range(0, rows, _ROWS)))
    half = scales.astype(np.float16)
    return Blocks(
        format=format,
        width=width,
        data=data,
        scales=half if np.array_equal(half.astype(np.float32), scales) else scales,
        zero_points=zero_points,
    )


def _one_thread_a_product() -> AbstractContextManager[object]:
    """Keep numpy's products from starting threads of their own beside the ones that round.

    Without threadpoolctl they do, which costs time and changes no number.
    """
    try:
        limits: Callable[..., AbstractContextManager[object]] = importlib.import_module(
            "threadpoolctl"
        ).threadpool_limits
    except ModuleNotFoundError:
        return nullcontext()
    return limits(limits=1, user_api="blas")


def _apart(columns: np.ndarray, format: Format) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Round [in, rows] a block at a time; return integers uint8 and scales and zero points [blocks, rows]."""
    width, rows = columns.shape
    numbers = np.empty((width, rows), np.uint8)
    scales, zeros = np.empty((2, width // format.block, rows), np.float32)
    for index, start in enumerate(range(0, width, format.block)):
        part = columns[start : start + format.block]
        found = spaced(part, None, format.bits, format.zero_points, search=format.bits < 8)
        scales[index], zeros[index] = found
        numbers[start : start + format.block] = nearest(part, *found, format.bits)
    return numbers, scales, zeros


def _compensated(
    columns: np.ndarray, width: int, spans: Sequence[Inputs], format: Format
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Round the first `width` of [in, rows], a span of inputs at a time; return what `_apart` does."""
    found, start = [], 0
    for span in spans:
        part = columns[start : start + len(span.order)]
        found.append(compensated(part, span, format.block, format.bits, format.zero_points))
        start += len(part)
    numbers, scales, zeros = (np.concatenate(parts) for parts in zip(*found, strict=True))
    filled = np.empty(columns.shape, np.uint8)
    filled[:width] = numbers
    filled[width:] = zeros[-1]  # the integer of zero
    return filled, scales, zeros


def restored(blocks: Blocks) -> np.ndarray:
    """Return the float32 [N, K] that the kernels multiply by."""
    bits = blocks.format.bits
    rows, n_blocks = blocks.scales.shape
    numbers = _unpacked(blocks.data, bits).astype(np.float32)
    if blocks.zero_points is None:
        zeros = np.full((rows, n_blocks), 1 << (bits - 1), np.float32)
    else:
        zeros = _unpacked(blocks.zero_points, bits)[:, :n_blocks].astype(np.float32)
    whole: np.ndarray = (numbers - zeros[..., None]) * blocks.scales[..., None].astype(np.float32)
    return whole.reshape(rows, -1)[:, : blocks.width]


def _packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Put the numbers of the last axis, uint8, into whole bytes, the first one lowest."""
    if bits == 8:
        return numbers
    if numbers.shape[-1] % 2:
        numbers = np.concatenate([numbers, np.zeros_like(numbers[..., :1])], axis=-1)
    whole: np.ndarray = numbers[..., 0::2] | (numbers[..., 1::2] << 4)
    return whole


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return packed
    both = np.stack([packed & 15, packed >> 4], axis=-1)
    return both.reshape(*packed.shape[:-1], -1)
