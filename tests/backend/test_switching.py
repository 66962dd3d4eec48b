"""Changes of modulus and of key: against plain integers, then every bit against the reference."""

import hashlib
import math

import numpy as np
import pytest

from hegpu.backend.cpu import CpuBackend, simd_levels
from hegpu.backend.protocol import Backend, Gadget, GadgetKey
from hegpu.errors import ParameterError
from hegpu.ring.primes import ntt_primes

N = 1024
PRIMES = ntt_primes(30, N, 9)
SMALL = ntt_primes(20, N, 2)
SEED = bytes(range(32))


def random(shape, moduli, n=N, seed=0):
    rng = np.random.default_rng(seed)
    x = np.stack([rng.integers(0, q, (*shape, n), dtype=np.uint32) for q in moduli], axis=-2)
    x[..., :2] = np.array([[0, q - 1] for q in moduli], np.uint32)
    return x


def integers(x, moduli):
    """The integers in [0, Q) of coefficients ``[limb, m]``."""
    q = math.prod(moduli)
    return sum(x[i].astype(object) * (q // p * pow(q // p, -1, p)) for i, p in enumerate(moduli)) % q


def centred(v, q):
    return (v + q // 2) % q - q // 2


def gadget_of(moduli, special, digits, key_moduli=None, key_digits=None):
    key_moduli = key_moduli or moduli + special
    rows = tuple(key_moduli.index(q) for q in moduli + special)
    return Gadget(moduli, special, digits, rows, key_digits or tuple(range(len(digits))))


def key_of(backend, moduli, digits, n=N, seed=7, seeded=False):
    first = random((digits,), moduli, n, seed)
    key_seed = hashlib.sha256(bytes([seed])).digest()
    second = backend.sample_uniform(key_seed, 9, np.arange(digits, dtype=np.uint32), n, moduli)
    return GadgetKey(moduli, first, None if seeded else second, key_seed, 9)


SWITCHES = [  # what is dropped, what is gained
    (PRIMES[:5], PRIMES[:3]),
    (PRIMES[:4] + SMALL[:1], PRIMES[:3] + SMALL),
    (PRIMES[:3] + SMALL, PRIMES[:4]),
    (PRIMES[:2], PRIMES[4:6]),
]


@pytest.mark.parametrize(("source", "target"), SWITCHES)
@pytest.mark.parametrize("factor", [1, -3, 1 << 75])
def test_switch_modulus(backend: Backend, reference: Backend, source, target, factor: int) -> None:
    x = random((2,), source)
    y = backend.switch_modulus(backend.ntt(x, source), source, target, factor)
    assert np.array_equal(y, reference.switch_modulus(backend.ntt(x, source), source, target, factor))
    q, q_target = math.prod(source), math.prod(target)
    common = math.prod(set(source) & set(target))
    d, g = q // common, q_target // common
    wanted = integers(x[1], source)[2:40] * factor * g
    got = integers(backend.intt(y, target)[1], target)[2:40]
    for v, w in zip(got, wanted, strict=True):
        assert (v - (w - centred(w, d)) // d) % q_target == 0


def test_many_primes_at_once(backend: Backend, reference: Backend) -> None:
    """More than fourteen products are summed in parts."""
    source = ntt_primes(30, N, 34)
    x = random((), source)
    for keep in (2, 18):
        assert np.array_equal(
            backend.switch_modulus(x, source, source[:keep]), reference.switch_modulus(x, source, source[:keep])
        )
    many = random((33, 2), source[:2], seed=3)
    y = random((33,), source[:2], seed=4)
    assert np.array_equal(backend.sum_of_products(many, y, source[:2]), reference.sum_of_products(many, y, source[:2]))
    pairs, others = random((16, 2), source[:2], seed=5), random((16, 2), source[:2], seed=6)
    assert np.array_equal(
        backend.tensor_sum(pairs, others, source[:2]), reference.tensor_sum(pairs, others, source[:2])
    )


def test_digits_are_centred_and_recompose(backend: Backend, reference: Backend) -> None:
    moduli, special = PRIMES[:4] + SMALL[:1], PRIMES[5:8]
    g = gadget_of(moduli, special, (2, 2, 1))
    x = random((3,), moduli)
    digits = backend.decompose(backend.ntt(x, moduli), g)
    assert np.array_equal(digits, reference.decompose(backend.ntt(x, moduli), g))
    extended = g.extended
    whole = math.prod(extended)
    for d, own in enumerate((moduli[:2], moduli[2:4], moduli[4:])):
        value = centred(integers(backend.intt(digits, extended)[1, d], extended), whole)[2:50]
        q = math.prod(own)
        assert all(abs(v) <= q // 2 + 1 for v in value)
        for i, p in enumerate(moduli):
            if p in own:
                assert all(int(v) % p == int(x[1, i, 2 + j]) for j, v in enumerate(value))


@pytest.mark.parametrize("batch", [(), (3,), (2, 1), (0,)])
@pytest.mark.parametrize("seeded", [False, True])
def test_keys_meet_digits(backend: Backend, reference: Backend, batch, seeded: bool) -> None:
    moduli, special = PRIMES[:3] + SMALL[:1], PRIMES[5:7]
    key_moduli = PRIMES[:4] + SMALL + special
    g = gadget_of(moduli, special, (1, 2, 1), key_moduli, (0, 1, 3))
    target = PRIMES[:2] + SMALL
    keys = [key_of(reference, key_moduli, 4, seed=s, seeded=seeded) for s in (1, 2)]
    elements = [5, 2 * N - 1]
    x = random((*batch, 3), moduli, seed=5)
    pair, last, c0 = (np.ascontiguousarray(v) for v in (x[..., 1:, :, :], x[..., 2, :, :], x[..., 1, :, :]))
    other = random((*batch, 2), moduli, seed=6)
    digits = reference.decompose(last, g)
    assert np.array_equal(backend.decompose(last, g), digits)

    def all_of(b: Backend) -> list[np.ndarray]:
        return [
            b.gadget_product(digits, c0, keys, elements, g),
            b.switch_keys(digits, c0, keys, elements, g, target),
            b.switch_key(pair, keys[0], 25, g, target),
            b.switch_key(x, keys[1], 1, g, target),
            b.multiply_switch(pair, other, keys[0], g, target),
            b.multiply_switch(pair, pair, keys[0], g, moduli),
            b.tensor_sum(pair[None], other[None], moduli),
            b.tensor_sum(pair[None], pair[None], moduli),
        ]

    results = all_of(backend)
    for ours, wanted in zip(results, all_of(reference), strict=True):
        assert ours.shape == wanted.shape
        assert np.array_equal(ours, wanted)
    single = backend.switch_key(pair, keys[1], elements[1], g, target)
    assert np.array_equal(results[1][1], single)  # hoisted or not: the same bits
    assert backend.switch_keys(digits, c0, [], [], g, target).shape == (0, *batch, 2, len(target), N)


@pytest.mark.parametrize("n", [1 << k for k in range(11, 17)])
def test_every_degree(backend: Backend, reference: Backend, n: int) -> None:
    primes = ntt_primes(30, n, 5)
    moduli, special = primes[:3], primes[3:]
    g = gadget_of(moduli, special, (2, 1))
    key = key_of(backend, g.extended, 2, n)
    x, y = random((2,), moduli, n, 1), random((2,), moduli, n, 2)
    assert np.array_equal(
        backend.multiply_switch(x, y, key, g, moduli[:2]), reference.multiply_switch(x, y, key, g, moduli[:2])
    )
    assert np.array_equal(
        backend.automorphism(x, 2 * n - 3, moduli, evaluations=True),
        reference.automorphism(x, 2 * n - 3, moduli, evaluations=True),
    )


GOLDEN = {
    "switch_modulus": "ae04232b105e1fef",
    "decompose": "77bd22157ab90a52",
    "gadget_product": "6683af61bb82afbf",
    "multiply_switch": "37391f6fce9c652d",
    "switch_key": "87321492d519d74c",
}


def test_golden(backend: Backend) -> None:
    moduli, special = PRIMES[:3] + SMALL[:1], PRIMES[5:7]
    g = gadget_of(moduli, special, (2, 2))
    key = key_of(backend, g.extended, 2, seeded=True)
    x = backend.sample_uniform(SEED, 1, np.arange(2, dtype=np.uint32), N, moduli)
    digits = backend.decompose(x[1], g)
    results = {
        "switch_modulus": backend.switch_modulus(x, moduli, PRIMES[:2] + SMALL[1:]),
        "decompose": digits,
        "gadget_product": backend.gadget_product(digits, x[0], [key], [25], g),
        "multiply_switch": backend.multiply_switch(x, x, key, g, PRIMES[:3]),
        "switch_key": backend.switch_key(x, key, 5, g, moduli),
    }
    assert {k: hashlib.sha256(v.astype("<u4").tobytes()).hexdigest()[:16] for k, v in results.items()} == GOLDEN


def test_misuse_is_refused(backend: Backend) -> None:
    moduli, special = PRIMES[:3], PRIMES[5:7]
    g = gadget_of(moduli, special, (2, 1))
    key = key_of(backend, g.extended, 2)
    x = random((2,), moduli)
    bad = [
        lambda: backend.switch_modulus(x, moduli, moduli),
        lambda: backend.switch_modulus(x, moduli, (moduli[0], moduli[0])),
        lambda: backend.switch_modulus(x[:, :2], moduli, moduli[:1]),
        lambda: backend.decompose(x, gadget_of(moduli, special, (2, 2))),
        lambda: backend.decompose(x, gadget_of(moduli, moduli[:1], (2, 1))),
        lambda: backend.switch_key(x, key, 4, g, moduli),
        lambda: backend.switch_key(x[:1], key, 5, g, moduli),
        lambda: backend.switch_key(x, key, 5, gadget_of(moduli, special, (2, 1), key_digits=(0, 2)), moduli),
        lambda: backend.switch_key(x, key, 5, Gadget(moduli, special, (2, 1), (0, 1, 2, 4, 3), (0, 1)), moduli),
        lambda: backend.multiply_switch(x, x[:1], key, g, moduli),
        lambda: backend.multiply_switch(x, x, key, g, g.extended),
        lambda: backend.tensor_sum(x[None][:0], x[None][:0], moduli),
        lambda: backend.sum_of_products(x, x[:1], moduli),
        lambda: backend.gadget_product(backend.decompose(x[0], g), x[0], [key], [3, 5], g),
    ]
    for call in bad:
        with pytest.raises(ParameterError):
            call()


def test_one_item_over_threads_gives_the_same_bits() -> None:
    moduli, special = PRIMES[:4], PRIMES[5:8]
    g = gadget_of(moduli, special, (2, 2))
    x = random((5, 2), moduli)
    for seeded in (True, False):
        key = key_of(CpuBackend(threads=1), g.extended, 2, seeded=seeded)
        one, many = (CpuBackend(threads=t, simd=simd_levels()[-1]) for t in (1, 7))
        for part in (x, x[0]):
            assert np.array_equal(
                one.multiply_switch(part, part, key, g, moduli[:3]),
                many.multiply_switch(part, part, key, g, moduli[:3]),
            )
