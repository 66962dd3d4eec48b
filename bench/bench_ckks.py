"""Operations on ciphertexts, one thread, warm: the chains of OpenFHE and SEAL (50 + depth x 40 bits), 128-bit security.

Beside each figure of hegpu stands its floor: the transforms that the operation must do at the measured price of one, plus
its operands, results and keys at the measured bandwidth of memory.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from bench.peers.client import Clock, peer, record
from hegpu.backend.cpu import CpuBackend
from hegpu.ckks.ciphertext import Ciphertext
from hegpu.ckks.evaluation_keys import gadget_at, make_keys
from hegpu.ckks.evaluator import Evaluator
from hegpu.ckks.keys import SecretKey, generate
from hegpu.ckks.params import preset
from hegpu.ckks.slots import decrypt, encrypt
from hegpu.ring.random import fresh_key

PRESETS = {1 << 13: "ckks-13", 1 << 14: "ckks-14", 1 << 15: "ckks-15"}
OPERATIONS = ["add", "multiply_plain", "multiply", "rotate", "hoisted"]
STEPS = list(range(1, 25))
Setting = tuple[Evaluator, SecretKey, Ciphertext, Ciphertext, np.ndarray, np.ndarray]


@cache
def setting(n: int, threads: int, steps: tuple[int, ...], batch: int = 0) -> Setting:
    b, p = CpuBackend(threads=threads), preset(PRESETS[n])
    secret, public = generate(b, p, fresh_key(), fresh_key())
    evaluator = Evaluator(b, make_keys(b, secret, steps))
    rng = np.random.default_rng(0)
    shape = (batch, n // 2) if batch else (n // 2,)
    v, w = rng.uniform(-1, 1, shape), rng.uniform(-1, 1, shape)
    return evaluator, secret, encrypt(b, public, v, 1.0), encrypt(b, public, w, 1.0), v, w


@cache
def transform_seconds(n: int) -> float:
    """One forward transform of one limb, within a batch of twenty."""
    b, p = CpuBackend(threads=1), preset(PRESETS[n])
    moduli = p.q_primes[:5]
    x = b.sample_uniform(bytes(32), 0, np.arange(4, dtype=np.uint32), n, moduli)
    return best(lambda: b.ntt(x, moduli)) / 20


@cache
def bandwidth() -> float:
    """Bytes per second of one thread that adds two arrays larger than the caches, each byte read or written counted."""
    x = np.ones(1 << 24)
    out = np.empty_like(x)
    return 3 * x.nbytes / best(lambda: np.add(x, x[::1], out=out))


def best(call: Callable[[], Any], rounds: int = 15) -> float:
    call()
    samples = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return float(np.median(samples))


def floor(n: int, operation: str) -> tuple[float, int]:
    """Seconds and transforms that cannot be avoided with these digits and special primes."""
    p = preset(PRESETS[n])
    level = p.depth
    g = gadget_at(p, level)
    limbs, special, digits = len(g.moduli), len(g.special), len(g.digits)
    low = set(p.levels[level - 1])
    dropped = sum(q not in low for q in g.moduli)
    row = 4 * n
    ciphertext, key = 2 * limbs * row, 2 * digits * (limbs + special) * row
    up, down = digits * (limbs + special), 2 * (special + limbs)  # inverse of each limb, lifts to all others
    transforms, data = {
        "add": (0, 3 * ciphertext),
        "multiply_plain": (0, 2 * ciphertext + ciphertext // 2),
        "multiply": (up + 2 * (special + dropped + len(low)), 3 * ciphertext + key),
        "rotate": (up + down, 2 * ciphertext + key),
        "hoisted": (down + up // len(STEPS), 2 * ciphertext + key + key // 2),
    }[operation]
    return transforms * transform_seconds(n) + data / bandwidth(), transforms


def operation_of(name: str, s: Setting) -> tuple[Callable[[], Ciphertext], np.ndarray]:
    evaluator, _, x, y, v, w = s
    plain = evaluator.encode(w, x.level)
    return {
        "add": (lambda: evaluator.add(x, y), v + w),
        "multiply_plain": (lambda: evaluator.multiply(x, plain, rescale=False), v * w),
        "multiply": (lambda: evaluator.multiply(x, y), v * w),
        "rotate": (lambda: evaluator.rotate(x, 1), np.roll(v, -1)),
        "hoisted": (lambda: evaluator.rotate_many(x, STEPS), np.stack([np.roll(v, -k) for k in STEPS])),
    }[name]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("n", PRESETS)
def bench_ckks_hegpu(benchmark, n: int, name: str) -> None:
    benchmark.group = f"CKKS {name} n={n}"
    s = setting(n, 1, tuple(STEPS) if name == "hoisted" else (1,))
    call, expected = operation_of(name, s)
    error = np.abs(decrypt(s[0].backend, s[1], call()).real - expected)
    assert error.max() < 1e-4
    benchmark.pedantic(
        call, rounds=25, iterations=1 if name in ("multiply", "rotate", "hoisted") else 20, warmup_rounds=3
    )
    per = len(STEPS) if name == "hoisted" else 1
    lowest, transforms = floor(n, name)
    ratio = f", {benchmark.stats.stats.median / per / lowest:.2f} x floor" if benchmark.stats else ""
    benchmark.extra_info.update(
        system="hegpu cpu", per=per, unit="operation", threads=1, check=float(np.median(error)),
        note=f"{PRESETS[n]}; floor {lowest * 1e3:.3f} ms ({transforms} transforms){ratio}",
    )  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("n", PRESETS)
def bench_ckks_openfhe(benchmark, clock, n: int, name: str) -> None:
    beside(benchmark, clock, "openfhe", (n, name), "hybrid, default digits, special primes of 60 bits")


@pytest.mark.parametrize("name", OPERATIONS[:-1])
@pytest.mark.parametrize("n", PRESETS)
def bench_ckks_seal(benchmark, clock, n: int, name: str) -> None:
    beside(benchmark, clock, "tenseal", (n, name), "SEAL through tenseal.sealapi, one special prime")


def beside(benchmark: Any, clock: Clock, system: str, workload: tuple[int, str], note: str) -> None:
    """The same operation by a peer, on the same chain."""
    n, name = workload
    benchmark.group = f"CKKS {name} n={n}"
    p = peer(system)
    iterations = 20 if name in ("add", "multiply_plain") else 1
    answer = p.call("ckks", n=n, depth=preset(PRESETS[n]).depth, operation=name, rounds=11, iterations=iterations)
    record(benchmark, clock, answer)
    p.close()
    benchmark.extra_info.update(per=1, unit="operation", threads=1, note=note)


@pytest.mark.parametrize("n", PRESETS)
def bench_ckks_precision_is_no_worse_than_openfhe(n: int) -> None:
    """Median error of a slot after one product, the same scale bits, values in [0, 1) on both sides."""
    b, params = CpuBackend(threads=1), preset(PRESETS[n])
    secret, public = generate(b, params, fresh_key(), fresh_key())
    i, p = np.arange(n // 2), peer("openfhe")
    v, w = (7 * i % 101) / 101, (5 * i % 97) / 97
    theirs = p.call("ckks", n=n, depth=params.depth, operation="multiply", rounds=1, iterations=1)["check"]
    p.close()
    product = Evaluator(b, make_keys(b, secret)).multiply(encrypt(b, public, v, 1.0), encrypt(b, public, w, 1.0))
    ours = float(np.median(np.abs(decrypt(b, secret, product).real - v * w)))
    print(f"n = {n}: median error {ours:.2g}, OpenFHE {theirs:.2g}")
    assert ours <= theirs


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", PRESETS)
def bench_ckks_batch_hegpu(benchmark, n: int, threads: int) -> None:
    benchmark.group = f"CKKS 16 products n={n}"
    evaluator, secret, x, y, v, w = setting(n, threads, (), 16)
    assert np.abs(decrypt(evaluator.backend, secret, evaluator.multiply(x, y)).real - v * w).max() < 1e-4
    benchmark.pedantic(lambda: evaluator.multiply(x, y), rounds=11, warmup_rounds=2)
    benchmark.extra_info.update(
        system=f"hegpu cpu, {threads} thread{'s' * (threads > 1)}",
        per=16,
        unit="operation",
        threads=threads,
        note="one call",
    )
