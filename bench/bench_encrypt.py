"""Symmetric encryption of a 512 x 512 slice, one thread, in memory (no file), per pixel."""

import numpy as np

from bench.peers.client import peer, record
from hegpu.backend.cpu import CpuBackend
from hegpu.ckks.encrypt import decode, decrypt, encrypt_symmetric
from hegpu.ckks.keys import generate
from hegpu.ckks.params import preset
from hegpu.ring.random import UNIFORM, fresh_key
from hegpu.tensor.tiles import cut, plan

GROUP = "encrypt a slice"


def bench_encrypt_hegpu(benchmark) -> None:
    benchmark.group = GROUP
    b, p = CpuBackend(threads=1), preset("compact")
    q, tiling = p.q_primes, plan(512, 512, 2, p.n)
    secret, _ = generate(b, p, fresh_key(), fresh_key())
    slice_ = np.random.default_rng(0).uniform(-0.25, 0.75, (512, 512))
    objects = np.arange(tiling.tiles, dtype=np.uint32)

    def encrypt(seed: bytes, noise_key: bytes) -> np.ndarray:
        values = np.rint(cut(slice_, tiling) * float(p.scale)).astype(np.int64)
        return encrypt_symmetric(b, b.from_signed(values, q), secret, seed, noise_key, objects)

    seed = fresh_key()
    c0 = encrypt(seed, fresh_key())
    c1 = b.intt(b.sample_uniform(seed, UNIFORM, objects, p.n, q), q)
    error = np.abs(decode(decrypt(b, c0, c1, secret, q), q, p.scale) - cut(slice_, tiling)).max()
    assert error < 22 / float(p.scale)
    benchmark.pedantic(encrypt, setup=lambda: ((fresh_key(), fresh_key()), {}), rounds=25, warmup_rounds=2)
    benchmark.extra_info.update(
        system="hegpu cpu", per=512 * 512, unit="pixel", threads=1, check=error,
        note=f"compact (n=2^12, log2 q 44), {tiling.tiles} tiles with a halo of 2, cutting and encoding included",
    )  # fmt: skip


def bench_encrypt_openfhe(benchmark, clock) -> None:
    benchmark.group = GROUP
    p = peer("openfhe")
    record(benchmark, clock, p.call("encrypt", rounds=15, iterations=5))
    p.close()
    benchmark.extra_info.update(
        per=4096, unit="pixel", threads=1, note="public key, n=2^13, log2 q 130, 4096 slots, encoding excluded"
    )


def bench_encrypt_tenseal(benchmark, clock) -> None:
    benchmark.group = GROUP
    p = peer("tenseal")
    record(benchmark, clock, p.call("encrypt", rounds=15, iterations=5))
    p.close()
    benchmark.extra_info.update(
        per=4096, unit="pixel", threads=1, note="symmetric, n=2^13, log2 q 130, 4096 slots, encoding included"
    )
