"""The primitives that change moduli and keys, by themselves: one thread, warm, the top level of ``ckks-14``."""

import numpy as np
import pytest

from hegpu.backend.cpu import CpuBackend
from hegpu.backend.reference import ReferenceBackend
from hegpu.ckks.evaluation_keys import gadget_at, make_keys
from hegpu.ckks.keys import generate
from hegpu.ckks.params import preset
from hegpu.ring.random import fresh_key

PRIMITIVES = [
    "automorphism", "automorphism of coefficients", "switch_modulus", "decompose", "gadget_product", "switch_keys",
    "switch_key", "multiply_switch", "tensor_sum", "sum_of_products",
]  # fmt: skip


def call_of(name: str, b, p, key):
    g = gadget_at(p, p.depth)
    moduli, low = g.moduli, p.levels[p.depth - 1]
    x, y = b.sample_uniform(bytes(32), 0, np.arange(4, dtype=np.uint32).reshape(2, 2), p.n, moduli)
    digits = b.decompose(x[1], g)
    terms = np.stack([x[0]] * 8)
    return {
        "automorphism": lambda b: b.automorphism(x, 5, moduli, evaluations=True),
        "automorphism of coefficients": lambda b: b.automorphism(x, 5, moduli, evaluations=False),
        "switch_modulus": lambda b: b.switch_modulus(x, moduli, low),
        "decompose": lambda b: b.decompose(x[1], g),
        "gadget_product": lambda b: b.gadget_product(digits, x[0], [key], [5], g),
        "switch_keys": lambda b: b.switch_keys(digits, x[0], [key], [5], g, moduli),
        "switch_key": lambda b: b.switch_key(x, key, 5, g, moduli),
        "multiply_switch": lambda b: b.multiply_switch(x, y, key, g, low),
        "tensor_sum": lambda b: b.tensor_sum(x[None], y[None], moduli),
        "sum_of_products": lambda b: b.sum_of_products(terms, terms, moduli),
    }[name]


@pytest.mark.parametrize("name", PRIMITIVES)
def bench_switching_hegpu(benchmark, name: str) -> None:
    benchmark.group = f"primitive {name} n=16384"
    b, p = CpuBackend(threads=1), preset("ckks-14")
    secret, _ = generate(b, p, fresh_key(), fresh_key())
    call = call_of(name, b, p, make_keys(b, secret).held[0])
    assert np.array_equal(call(b), call(ReferenceBackend()))
    benchmark.pedantic(call, args=(b,), rounds=25, iterations=4, warmup_rounds=3)
    benchmark.extra_info.update(
        system="hegpu cpu", per=1, unit="call", threads=1, note="ckks-14, 10 limbs, 4 special primes"
    )
