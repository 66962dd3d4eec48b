"""Forward NTT, one thread, warm: a limb's time divided by the bits of its modulus."""

import numpy as np
import pytest

from bench.peers.client import peer, record
from hegpu.backend.cpu import CpuBackend
from hegpu.ring.primes import ntt_primes

DEGREES = [1 << 13, 1 << 14, 1 << 15, 1 << 16]


@pytest.mark.parametrize("n", DEGREES)
def bench_ntt_hegpu(benchmark, n: int) -> None:
    benchmark.group = f"NTT n={n}"
    b, moduli = CpuBackend(threads=1), ntt_primes(30, n, 8)
    x = b.sample_uniform(bytes(32), 0, np.arange(1, dtype=np.uint32), n, moduli)
    assert np.array_equal(b.intt(b.ntt(x, moduli), moduli), x)
    benchmark.pedantic(lambda: b.ntt(x, moduli), rounds=25, iterations=8, warmup_rounds=2)
    benchmark.extra_info.update(
        system="hegpu cpu", per=len(moduli) * 30, unit="modulus bit", threads=1, note="8 limbs of 30 bits"
    )


@pytest.mark.parametrize("bits", [40, 59])
@pytest.mark.parametrize("n", DEGREES)
def bench_ntt_openfhe(benchmark, clock, n: int, bits: int) -> None:
    benchmark.group = f"NTT n={n}"
    p = peer("openfhe")
    record(benchmark, clock, p.call("ntt", n=n, bits=bits, rounds=15, iterations=4))
    p.close()
    benchmark.extra_info.update(
        per=bits, unit="modulus bit", threads=1,
        note=f"{bits}-bit limbs; from a rescale of 8 limbs, pointwise passes subtracted",
    )  # fmt: skip
