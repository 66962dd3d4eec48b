"""The headline: a 96 -> 96 channel 5x5 convolution of an encrypted 512x512 slice beside torch on the plain one.

81 tiles of 64 x 64 at n = 4096, both halves of each ciphertext, all limbs. ``product`` is the matrix product in the
point layout, reduction included; ``server`` is everything a server does: seeds expanded, c0 transformed, product,
inverse transforms, switch to a power of two.
"""

import numpy as np
import pytest

from bench.peers.client import peer, record
from hegpu.backend.cpu import CpuBackend
from hegpu.backend.protocol import Points
from hegpu.backend.reference import ReferenceBackend
from hegpu.ckks.params import preset
from hegpu.ring.random import UNIFORM
from hegpu.tensor.convolution import transform_weights
from hegpu.tensor.tiles import Tiling

CHANNELS, TILES, COLUMNS = 96, 81, 16
TILING = Tiling(4096, 512, 512, 2, 64, 64)
BITS = {"compact": 25, "lossless": 32}
KEY = bytes(32)


def about(threads: int) -> dict[str, object]:
    return {"per": 1, "unit": "layer", "threads": threads}


def points(b: CpuBackend, name: str) -> tuple[Points, Points, np.ndarray]:
    q = preset(name).q_primes
    weights = np.random.default_rng(0).integers(-(1 << 14), 1 << 14, (CHANNELS, CHANNELS, 5, 5))
    x = b.empty_points(CHANNELS, 2 * TILES, 4096, q)
    objects = np.arange(CHANNELS * 2 * TILES, dtype=np.uint32).reshape(CHANNELS, -1)
    b.expand_points(x, KEY, UNIFORM, objects, 0, 1)
    return transform_weights(b, weights, TILING, q), x, objects


def check(b: CpuBackend, w: Points, x: Points, y: Points) -> None:
    """Some outputs against exact integers."""
    left = b.load_points(w, 0, 1, CHANNELS, transform=False)[5].astype(object)
    right = b.load_points(x, 33, 1, 1, transform=False)[:, 0].astype(object)
    got = b.load_points(y, 33, 1, 1, transform=False)[5, 0]
    for limb, q in enumerate(w.moduli):
        for j in (0, 1, 2047, 4095):
            assert int(got[limb, j]) == sum(left[:, limb, j] * right[:, limb, j]) % q


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["compact", "lossless"])
def bench_headline_product(benchmark, name: str, threads: int) -> None:
    benchmark.group = f"96->96 5x5 layer, product, {threads} threads"
    b = CpuBackend(threads=threads)
    w, x, _ = points(b, name)
    check(b, w, x, b.point_matmul(w, x))
    benchmark.pedantic(lambda: b.point_matmul(w, x), rounds=9, warmup_rounds=1)
    ceiling = b.multiply_ceiling()
    products = len(w.moduli) * CHANNELS * CHANNELS * 2 * TILES * 4096
    benchmark.extra_info.update(
        system=f"hegpu cpu {name}",
        gmac_per_s=products / benchmark.stats.stats.median / 1e9,
        share_of_ceiling=products / benchmark.stats.stats.median / ceiling if name == "compact" else None,
        note="32 16-bit products an instruction, three a residue product"
        if name == "compact"
        else "64-bit sums of 32-bit products",
        **about(threads),
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["compact", "lossless"])
def bench_headline_server(benchmark, name: str, threads: int) -> None:
    benchmark.group = f"96->96 5x5 layer, whole server, {threads} threads"
    b = CpuBackend(threads=threads)
    w, x, objects = points(b, name)
    q, c0 = w.moduli, b.load_points(x, 0, 2, TILES, transform=True)
    answer = np.empty((CHANNELS, 2 * TILES, 4096), np.uint32)
    seeded = np.ascontiguousarray(objects[:, 1::2])

    def server() -> None:
        b.store_points(x, c0, 0, 2, transform=True)
        b.expand_points(x, KEY, UNIFORM, seeded, 1, 2)
        y = b.point_matmul(w, x)
        for first in range(0, 2 * TILES, COLUMNS):
            count = min(COLUMNS, 2 * TILES - first)
            block = b.load_points(y, first, 1, count, transform=True)
            answer[:, first : first + count] = b.switch_to_power_of_two(block, q, BITS[name])

    server()
    y = b.point_matmul(w, x)
    check(b, w, x, y)
    expected = ReferenceBackend().switch_to_power_of_two(b.load_points(y, 33, 1, 1, transform=True), q, BITS[name])
    assert np.array_equal(answer[:, 33], expected[:, 0])
    benchmark.pedantic(server, rounds=9, warmup_rounds=1)
    benchmark.extra_info.update(system=f"hegpu cpu {name}", **about(threads))


@pytest.mark.parametrize("part", ["product", "whole server"])
@pytest.mark.parametrize("threads", [1, 2])
def bench_headline_torch(benchmark, clock, threads: int, part: str) -> None:
    benchmark.group = f"96->96 5x5 layer, {part}, {threads} threads"
    p = peer("torch")
    record(benchmark, clock, p.call("conv2d", channels=96, side=512, kernel=5, threads=threads, rounds=9, iterations=1))
    p.close()
    benchmark.extra_info.update(note="float32 conv2d of the plain slice", **about(threads))
