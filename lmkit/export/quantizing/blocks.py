"""A matrix in blocks of small integers, as `com.microsoft::MatMulNBits` stores it.

Each row of a weight [out, in] is cut into blocks; a block has a scale and a zero point, and a number in it
is (integer - zero point) * scale.
"""

from __future__ import annotations

import numpy as np
from attrs import field, frozen
from attrs.validators import in_

_CHUNK = 1 << 22  # numbers rounded at a time, so that the temporary arrays stay small and in reach


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
        scales: float32 [N, ceil(K / block)].
        zero_points: uint8 [N, ceil(ceil(K / block) * bits / 8)], packed like the data; None for the middle.
    """

    format: Format
    width: int
    data: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None


def blocked(array: np.ndarray, format: Format) -> Blocks:
    """Round a weight.

    Args:
        array: float32 [N, K], in any memory layout; it is read in slices, never copied whole.
        format: how to store it.
    """
    rows, width = array.shape
    n_blocks = -(-width // format.block)
    data = np.empty((rows, n_blocks, format.block * format.bits // 8), np.uint8)
    scales = np.empty((rows, n_blocks), np.float32)
    packed = -(-n_blocks * format.bits // 8)
    zero_points = np.empty((rows, packed), np.uint8) if format.zero_points else None
    step = max(1, _CHUNK // (n_blocks * format.block))
    for start in range(0, rows, step):
        part = slice(start, min(rows, start + step))
        filled = np.zeros((part.stop - start, n_blocks * format.block), np.float32)
        filled[:, :width] = array[part]
        numbers, scales[part], zeros = _nearest(
            filled.reshape(-1, n_blocks, format.block), format.bits, format.zero_points
        )
        data[part] = _packed(numbers, format.bits)
        if zero_points is not None:
            zero_points[part] = _packed(zeros, format.bits)
    return Blocks(format=format, width=width, data=data, scales=scales, zero_points=zero_points)


def restored(blocks: Blocks) -> np.ndarray:
    """Return the float32 [N, K] that the kernels multiply by."""
    bits = blocks.format.bits
    rows, n_blocks = blocks.scales.shape
    numbers = _unpacked(blocks.data, bits).astype(np.float32)
    if blocks.zero_points is None:
        zeros = np.full((rows, n_blocks), 1 << (bits - 1), np.float32)
    else:
        zeros = _unpacked(blocks.zero_points, bits)[:, :n_blocks].astype(np.float32)
    whole: np.ndarray = (numbers - zeros[..., None]) * blocks.scales[..., None]
    return whole.reshape(rows, -1)[:, : blocks.width]


def _nearest(
    blocks: np.ndarray, bits: int, asymmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Round each block [..., block] to the nearest of evenly spaced numbers that reach its extremes."""
    most = (1 << bits) - 1
    if asymmetric:
        low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
        scales = (high - low) / np.float32(most)
    else:
        # The side of the largest number gets the extra step that the integers have below the middle.
        low, high = blocks.min(-1), blocks.max(-1)
        scales = np.where(-low >= high, low, high) / np.float32(-(1 << (bits - 1)))
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    zeros = np.rint(-low * inverse) if asymmetric else np.full_like(scales, 1 << (bits - 1))
    numbers = blocks * inverse[..., None]
    numbers += zeros[..., None]
    np.rint(numbers, out=numbers)
    np.clip(numbers, 0, most, out=numbers)
    return numbers.astype(np.uint8), scales, zeros.astype(np.uint8)


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
