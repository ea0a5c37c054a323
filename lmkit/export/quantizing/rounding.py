"""Which integers stand for a weight: the nearest, those of the best scale, or those that mend errors.

All three work on columns: a part of a weight [out, in] is laid out as [in, rows], so that every step runs
over contiguous rows.

Measured on SmolLM2-135M, mean square error of a product's output relative to the output's own, geometric mean
over down and packed query-key-value projections of layers 0, 10 and 20, second moments of 3774 tokens of chat
and instructions, 4 bits with zero points, blocks of 32 / 64 / 128:

    nearest                                4.5e-3  5.8e-3  7.8e-3
    best scale by the weights' error       3.8e-3  5.5e-3  8.3e-3
    best scale by the inputs' squares      2.3e-3  3.4e-3  5.1e-3
    compensated, range by extremes         1.2e-3  1.6e-3  2.5e-3
    compensated, best scale                0.85e-3 1.2e-3  1.8e-3
    the same, important blocks first       0.75e-3 1.0e-3

That was with float32 scales and GPTQ's damping. Scales are rounded to float16 before the integers are
chosen: a block of 32 then has 4.625 bits a number in place of 5.125, and the model's divergence from
float32 went from 0.0808 / 0.0846 nats to 0.0816 / 0.0850 when even its integers were left as they were.
Choosing every integer again given all others (QuantEase, arXiv:2309.01885) and fitting scales anew took
11% off the error above and nothing off the divergence, in twice the time.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

_SHRINKS = (1.0, 0.93, 0.86, 0.79, 0.72)  # of a block's range, from which the best is taken
_LEAST_HALF, _MOST_HALF = np.float32(2.0**-14), np.float32(60000)  # within float16's normal numbers
_INNER = 8  # columns whose errors are handed on one by one; beyond them by a product
# Of the median second moment, added to all. GPTQ's own is 0.01 of the mean, which one huge channel makes
# 38 times the usual moment in a layer of SmolLM2-135M. With 8192 tokens of instructions, two rounds of
# QuantEase behind it, divergence was 0.0998 with 0.01 of the median and 0.0896 with 0.05; with 12000
# tokens of two tasks 0.01 of the mean and 0.1 of the median are alike (0.0795 / 0.0865 and 0.0808 /
# 0.0846).
_DAMPING = 0.1


def spaced(
    columns: np.ndarray, importance: np.ndarray | None, bits: int, zero_points: bool, search: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Choose a scale and a zero point for each block.

    Args:
        columns: float32 [block, ...], the numbers of a block on the first axis.
        importance: float32 [block, 1...], what a squared error weighs; None if all weigh the same.
        bits: of each integer.
        zero_points: whether a block may have its own zero point.
        search: whether to try narrower ranges, each with the scale that fits its integers best, instead of
            the range from the smallest to the largest number alone.
    Returns:
        scales and zero points, float32 [...].
    """
    most = np.float32((1 << bits) - 1)
    if zero_points:
        low, high = np.minimum(columns.min(0), 0), np.maximum(columns.max(0), 0)
        widest = (high - low) / most
        widest[widest == 0] = 1
        zeros = np.rint(-low / widest)
    else:
        # The side of the largest number gets the extra step that the integers have below the middle.
        low, high = columns.min(0), columns.max(0)
        widest = np.where(-low >= high, low, high) / np.float32(-(1 << (bits - 1)))
        widest[widest == 0] = 1
        zeros = np.full_like(widest, 1 << (bits - 1))
    if not search:
        return halved(widest, up=True), zeros
    weighed = columns if importance is None else columns * importance
    best, scales = None, widest
    for shrink in _SHRINKS:
        numbers = _centred(columns, widest * np.float32(shrink), zeros, most)
        own = numbers if importance is None else numbers * importance
        # For given integers n the scale of least squared error is (w . n) / (n . n), and what the error
        # loses by it is (w . n)^2 / (n . n).
        product, square = (weighed * numbers).sum(0), (own * numbers).sum(0)
        scale = np.divide(product, square, out=widest.copy(), where=square > 0)
        gain = product * scale
        if best is None:
            best, scales = gain, scale
        else:
            better = gain > best
            best, scales = np.where(better, gain, best), np.where(better, scale, scales)
    # A block that is all but zero may have lost the sign or size that a scale needs.
    usable = np.abs(scales) > np.abs(widest) * 0.5
    return halved(np.where(usable, scales, widest)), zeros


def halved(scales: np.ndarray, *, up: bool = False) -> np.ndarray:
    """Return the float16 numbers next to scales, as float32; those beyond its usual range as they are.

    Args:
        scales: float32.
        up: whether the next larger one is wanted, so that nothing is beyond a block's range.
    """
    sizes = np.abs(scales)
    half = np.clip(sizes, _LEAST_HALF, _MOST_HALF).astype(np.float16)
    if up:
        half = np.where(half < sizes, np.nextafter(half, np.float16(np.inf)), half)
    fits = (sizes >= _LEAST_HALF) & (sizes <= _MOST_HALF)
    found: np.ndarray = np.where(fits, np.copysign(half.astype(np.float32), scales), scales)
    return found


def nearest(columns: np.ndarray, scales: np.ndarray, zeros: np.ndarray, bits: int) -> np.ndarray:
    """Return the integers, float32 like `columns` [block, ...], nearest to the numbers."""
    most = np.float32((1 << bits) - 1)
    numbers = _centred(columns, scales, zeros, most)
    numbers += zeros
    return numbers


def _centred(
    columns: np.ndarray, scales: np.ndarray, zeros: np.ndarray, most: np.float32
) -> np.ndarray:
    """Return the nearest integers less their zero point."""
    numbers: np.ndarray = columns / scales
    np.rint(numbers, out=numbers)
    np.clip(numbers, -zeros, most - zeros, out=numbers)
    return numbers


@frozen(eq=False)
class Inputs:
    """What is known of the inputs of a product, laid out for `compensated`.

    Attributes:
        order: int64 [in], the order in which inputs are rounded: blocks whose inputs are large come first,
            and so do large inputs within a block, since what comes after can mend their errors.
        importance: float32 [in], the mean square of each input, in that order.
        factor: float32 [in, in], upper triangular U with U^T U the inverse of the damped second moments,
            in that order.
    """

    order: np.ndarray
    importance: np.ndarray
    factor: np.ndarray


def ordered(moments: np.ndarray, block: int) -> Inputs:
    """Lay out second moments, float32 [in, in], for rounding in blocks; a block of fewer comes last."""
    squares = np.diagonal(moments)
    blocks = [np.arange(i, min(i + block, len(squares))) for i in range(0, len(squares), block)]
    blocks.sort(key=lambda own: (len(own) < block, -float(squares[own].mean())))
    order = np.concatenate([own[np.argsort(-squares[own], kind="stable")] for own in blocks])
    damped = moments[np.ix_(order, order)].astype(np.float64)
    usual = float(np.median(squares)) or float(squares.mean())
    np.einsum("ii->i", damped)[:] += _DAMPING * usual if usual > 0 else 1.0
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    return Inputs(order, squares[order], np.ascontiguousarray(factor, dtype=np.float32))


def compensated(
    columns: np.ndarray, inputs: Inputs, block: int, bits: int, zero_points: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Round a column at a time, and let the columns after it make up for each one's error.

    This is GPTQ (Frantar et al. 2022, arXiv:2210.17323, algorithm 1) with ranges searched for as `spaced`
    does when a block is reached, on what its columns have become by then.

    Args:
        columns: float32 [in, rows].
        inputs: what is known of them.
        block: inputs that share a scale.
        bits: of each integer.
        zero_points: whether a block has its own zero point.
    Returns:
        integers uint8 [in, rows], scales and zero points float32 [blocks, rows].
    """
    width, rows = columns.shape
    factor = inputs.factor
    columns = columns[inputs.order]
    most = np.float32((1 << bits) - 1)
    numbers = np.empty((width, rows), np.uint8)
    n_blocks = -(-width // block)
    scales, zeros = np.empty((2, n_blocks, rows), np.float32)
    errors = np.empty((block, rows), np.float32)
    for index, start in enumerate(range(0, width, block)):
        stop = min(start + block, width)
        weighing = inputs.importance[start:stop, None]
        scale, zero = spaced(columns[start:stop], weighing, bits, zero_points, search=True)
        scales[index], zeros[index] = scale, zero
        for first in range(start, stop, _INNER):
            last = min(first + _INNER, stop)
            for column in range(first, last):
                number = columns[column] / scale
                np.rint(number, out=number)
                np.clip(number, -zero, most - zero, out=number)
                error = errors[column - start]
                np.multiply(number, scale, out=error)
                np.subtract(columns[column], error, out=error)
                error *= 1 / factor[column, column]
                number += zero
                numbers[column] = number
                if column + 1 < last:
                    columns[column + 1 : last] -= factor[column, column + 1 : last, None] * error
            if last < stop:
                own = errors[first - start : last - start]
                columns[last:stop] -= factor[first:last, last:stop].T @ own
        if stop < width:
            columns[stop:] -= factor[start:stop, stop:].T @ errors[: stop - start]
    back = np.argsort(inputs.order)
    places = np.argsort(inputs.order[::block] // block)
    return numbers[back], scales[places], zeros[places]
