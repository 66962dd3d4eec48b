import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hegpu.backend.cpu import CpuBackend
from hegpu.errors import ParameterError
from hegpu.ring.primes import ntt_primes
from hegpu.tensor.convolution import convolve, transform_weights, unload
from hegpu.tensor.tiles import Tiling, assemble, cut, kernel_positions, plan


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 1024), st.integers(1, 1024), st.integers(0, 20), st.sampled_from([4096, 8192]))
def test_cut_and_assemble_are_exact(height: int, width: int, halo: int, n: int) -> None:
    t = plan(height, width, halo, n)
    plane = np.arange(height * width, dtype=float).reshape(height, width)
    tiles = cut(plane, t)
    assert tiles.shape == (t.tiles, n)
    inner = tiles[:, : t.tile_w * t.tile_h].reshape(-1, t.tile_h, t.tile_w)
    inner = inner[:, halo : halo + t.step_h, halo : halo + t.step_w].reshape(t.tiles, -1)
    assert np.array_equal(assemble(inner, t), plane)


def test_plan_needs_few_tiles() -> None:
    assert plan(512, 512, 6, 4096).tiles <= 100
    assert plan(64, 64, 0, 4096).tiles == 1
    with pytest.raises(ParameterError, match="halo"):
        plan(100, 100, 21, 4096)
    with pytest.raises(ParameterError, match="1024"):
        plan(1025, 100, 0, 4096)
    with pytest.raises(ParameterError):
        plan(100, 100, 20, 1024)


@pytest.mark.parametrize("channels", [(1, 1), (3, 5)])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_convolution_of_polynomials_is_the_convolution_of_planes(channels, size: int) -> None:
    """The plain halves behave like ciphertext halves: everything is linear over Z_q."""
    inputs, outputs = channels
    b, n, q = CpuBackend(), 1024, ntt_primes(22, 1024, 2)
    t = plan(40, 33, 2, n)
    rng = np.random.default_rng(0)
    planes = rng.integers(-50, 50, (inputs, 40, 33))
    weights = rng.integers(-9, 9, (outputs, inputs, size, size))
    x = b.empty_points(inputs, 2 * t.tiles, n, q)
    polynomials = np.stack([cut(p.astype(float), t) for p in planes]).astype(np.int64)
    for half, sign in ((0, 1), (1, -1)):
        b.store_points(x, b.from_signed(sign * polynomials, q), half, 2, transform=True)
    y = unload(b, convolve(b, transform_weights(b, weights, t, q), x))
    assert y.shape == (outputs, t.tiles, 2, 2, n)
    values = y[:, :, :, 0, t.valid_coefficients()].astype(np.int64)
    values = np.where(values > q[0] // 2, values - q[0], values)
    r = size // 2
    padded = np.pad(planes, ((0, 0), (r, r), (r, r)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    expected = np.einsum("oikl,iyxkl->oyx", weights, windows)
    for o in range(outputs):
        assert np.array_equal(assemble(values[o, :, 0].astype(float), t), expected[o])
        assert np.array_equal(assemble(values[o, :, 1].astype(float), t), -expected[o])


def test_kernels_that_do_not_fit_are_refused() -> None:
    t = Tiling(1024, 20, 20, 2, 24, 24)
    for size in (4, 7):
        with pytest.raises(ParameterError, match="halo"):
            kernel_positions(size, t)
