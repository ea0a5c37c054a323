"""A weight in blocks is what ONNX Runtime's own quantiser makes of it, or nearer to the weight."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
from lmkit.export.quantizing.blocks import Format, blocked, restored

ROWS, WIDTH = 24, 96


def weight(rows: int = ROWS, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((rows, width)).astype(np.float32)


@pytest.mark.parametrize("zero_points", [True, False])
def test_a_number_of_8_bits_is_at_most_half_a_step_from_its_own(zero_points):
    array = weight()
    blocks = blocked(array, Format(bits=8, block=32, zero_points=zero_points))
    # A symmetric block has one step less on the side of its smaller extreme.
    steps = np.repeat(np.abs(blocks.scales), 32, axis=1) * (0.5 if zero_points else 1.0)
    assert (np.abs(restored(blocks) - array) <= steps * (1 + 1e-5)).all()


def test_a_width_that_is_no_multiple_of_the_block_is_filled_with_what_adds_nothing():
    array = weight(width=75)
    blocks = blocked(array, Format(bits=4, block=32))
    assert blocks.data.shape == (ROWS, 3, 16)
    assert restored(blocks).shape == array.shape
    assert np.abs(restored(blocks) - array).max() < 0.3


def test_zeros_stay_zeros():
    array = np.zeros((4, 64), np.float32)
    array[1, :32] = 1.0
    for zero_points in (True, False):
        blocks = blocked(array, Format(bits=4, block=32, zero_points=zero_points))
        found = restored(blocks)
        np.testing.assert_array_equal(found[array == 0], 0)
        np.testing.assert_allclose(found, array, atol=2**-10)  # a scale has 11 bits


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero_points", [True, False])
def test_rounding_without_data_is_as_near_as_that_of_onnxruntime(bits, zero_points):
    from onnxruntime.capi import _pybind_state as native

    array, format = weight(), Format(bits=bits, block=32, zero_points=zero_points)
    ours = blocked(array, format)
    data, scales = np.zeros_like(ours.data), np.zeros_like(ours.scales)
    zeros = np.zeros((ROWS, -(-3 * bits // 8)), np.uint8)
    rounding = getattr(native, f"quantize_matmul_{bits}bits")
    rounding(data, array.T.copy(), scales, zeros, 32, ROWS, WIDTH, not zero_points)
    theirs = type(ours)(
        format=format,
        width=WIDTH,
        data=data,
        scales=scales,
        zero_points=zeros if zero_points else None,
    )
    error = np.square(restored(ours) - array).mean()
    assert error <= np.square(restored(theirs) - array).mean() * 1.002  # their scales have 24 bits


@pytest.mark.parametrize(("size", "dtype"), [(1.0, np.float16), (1e-6, np.float32)])
def test_scales_are_stored_in_float16_where_it_has_all_its_bits(size, dtype):
    array = weight() * np.float32(size)
    blocks = blocked(array, Format(bits=4, block=32))
    assert blocks.scales.dtype == dtype
    assert np.abs(restored(blocks) - array).max() < 0.3 * size


def inputs(width: int = WIDTH) -> np.ndarray:
    """Return 400 inputs [400, width] that go with each other, some much larger than others."""
    rng = np.random.default_rng(11)
    mixed = rng.standard_normal((400, 24)) @ rng.standard_normal((24, width))
    mixed *= np.geomspace(0.1, 3, width)
    return (mixed + rng.standard_normal(mixed.shape) * 0.3).astype(np.float32)


def loss(found: np.ndarray, array: np.ndarray, given: np.ndarray) -> float:
    return float(np.square(given @ (found - array).T).mean())


@pytest.mark.parametrize("block", [16, 32])
def test_rounding_for_the_inputs_beats_onnxruntimes_gptq(block):
    weight_only = pytest.importorskip("onnxruntime.quantization.neural_compressor.weight_only")
    array, given = weight(), inputs()
    moments = given.T @ given / len(given)
    ours = restored(blocked(array, Format(bits=4, block=block), [moments]))
    theirs = weight_only.gptq(array.T.copy(), moments.copy(), 4, block, "asym").T
    nearest = restored(blocked(array, Format(bits=4, block=block)))
    assert loss(ours, array, given) < loss(theirs, array, given)
    assert loss(ours, array, given) < 0.7 * loss(nearest, array, given)


def test_rounding_for_the_inputs_in_spans_takes_any_width():
    array, given = weight(width=75), inputs(75)
    moments = [given[:, :64].T @ given[:, :64] / 400, given[:, 64:].T @ given[:, 64:] / 400]
    found = restored(blocked(array, Format(bits=4, block=32), moments))
    nearest = restored(blocked(array, Format(bits=4, block=32)))
    assert found.shape == array.shape
    assert loss(found, array, given) < loss(nearest, array, given)
