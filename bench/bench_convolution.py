"""One 5 x 5 convolution of one encrypted 64 x 64 plane, one thread. Ours is one pointwise product in the NTT domain."""

import numpy as np

from bench.peers.client import peer, record
from hegpu.backend.cpu import CpuBackend
from hegpu.ckks.params import preset
from hegpu.tensor.tiles import kernel_positions, plan

GROUP = "5x5 convolution of a 64x64 plane"


def bench_convolution_hegpu(benchmark) -> None:
    benchmark.group = GROUP
    b, p = CpuBackend(threads=1), preset("compact")
    q, tiling = p.q_primes, plan(60, 60, 2, p.n)
    assert tiling.tiles == 1
    weights = np.random.default_rng(0).integers(-1000, 1000, (5, 5))
    taps = np.zeros(p.n, np.int64)
    taps[kernel_positions(5, tiling)] = weights.ravel()
    kernel = b.ntt(b.from_signed(taps, q), q)
    plane = np.random.default_rng(1).integers(0, 1000, (64, 64))
    x = np.zeros((1, p.n), np.int64)
    x[0, : 64 * 64] = plane.ravel()
    half = b.from_signed(x, q)
    got = b.intt(b.mul(b.ntt(half, q), kernel, q), q)[0, 0, tiling.valid_coefficients()].astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(plane, (5, 5))
    assert np.array_equal(got % q[0], np.einsum("yxkl,kl->yx", windows, weights).ravel() % q[0])
    ciphertext = b.sample_uniform(bytes(32), 0, np.arange(2, dtype=np.uint32), p.n, q)

    def convolve() -> np.ndarray:
        return b.intt(b.mul(b.ntt(ciphertext, q), kernel, q), q)

    benchmark.pedantic(convolve, rounds=50, iterations=20, warmup_rounds=3)
    benchmark.extra_info.update(
        system="hegpu cpu",
        per=1,
        unit="plane",
        threads=1,
        note="compact (n=2^12, log2 q 44), kernel transformed before; both halves, NTT, product, inverse NTT",
    )


def bench_convolution_openfhe(benchmark, clock) -> None:
    benchmark.group = GROUP
    p = peer("openfhe")
    record(benchmark, clock, p.call("conv5x5", rounds=10, iterations=1))
    p.close()
    benchmark.extra_info.update(
        per=1, unit="plane", threads=1, note="24 hoisted rotations in slots, n=2^13, log2 q 130"
    )
