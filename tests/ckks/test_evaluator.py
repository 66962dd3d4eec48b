"""Evaluator, encoders and truncation: values against plain numbers, noise against its bound."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hegpu.backend.cpu import CpuBackend
from hegpu.backend.reference import ReferenceBackend
from hegpu.ckks import evaluator as ev
from hegpu.ckks.ciphertext import Plaintext
from hegpu.ckks.encoder import decode_coefficients, decode_slots, encode_coefficients, encode_slots
from hegpu.ckks.keys import generate
from hegpu.ckks.params import preset
from hegpu.ckks.truncate import packed_bits, restore, truncate
from hegpu.errors import BudgetError, FormatError, KeyMismatchError, ParameterError
from hegpu.ring.primes import ntt_primes
from hegpu.ring.random import fresh_key

P = preset("insecure_test")
Q, N, SCALE = P.q_primes, P.n, Fraction(1 << 40)
B = CpuBackend(threads=2)
SECRET, PUBLIC = generate(B, P, bytes(range(32)), bytes(32))
RNG = np.random.default_rng(0)


def encrypted(values, objects=2):
    plain = encode_slots(B, values, SCALE, N, Q)
    return ev.encrypt(B, plain, PUBLIC, fresh_key(), np.arange(objects, dtype=np.uint32))


def slots():
    return RNG.uniform(-1, 1, (2, N // 2)) + 1j * RNG.uniform(-1, 1, (2, N // 2))


def value(x):
    return decode_slots(ev.decrypt(B, x, SECRET))


FRESH = 8 * math.sqrt(10.5 * (4 * N / 3 + 1)) * math.sqrt(N) / float(SCALE)  # of a slot, eight sigma


def test_slots_round_trip_and_multiply_as_polynomials() -> None:
    z, w = slots(), slots()
    a, b = encode_slots(B, z, SCALE, N, Q), encode_slots(B, w, SCALE, N, Q)
    assert np.abs(decode_slots(a) - z).max() < N * 2.0**-40
    product = B.intt(B.mul(B.ntt(a.data, Q), B.ntt(b.data, Q), Q), Q)
    assert np.abs(decode_slots(Plaintext(product, Q, SCALE**2, False)) - z * w).max() < N * 2.0**-38


def test_automorphism_by_five_rotates_the_slots() -> None:
    z = slots()
    turned = B.automorphism(encode_slots(B, z, SCALE, N, Q).data, 5, Q, evaluations=False)
    assert np.abs(decode_slots(Plaintext(turned, Q, SCALE, False)) - np.roll(z, -1, axis=-1)).max() < N * 2.0**-40


def test_linear_operations() -> None:
    z, w = slots(), slots()
    x, y = encrypted(z), encrypted(w)
    assert np.abs(value(x) - z).max() < FRESH
    assert np.abs(value(ev.add(B, x, y)) - (z + w)).max() < 2 * FRESH
    assert np.abs(value(ev.sub(B, x, y)) - (z - w)).max() < 2 * FRESH
    assert np.abs(value(ev.negate(B, x)) + z).max() < FRESH
    assert np.abs(value(ev.add_plain(B, x, encode_slots(B, w, SCALE, N, Q))) - (z + w)).max() < FRESH + N * 2.0**-40
    assert np.abs(value(ev.drop_modulus(x)) - z).max() < FRESH


def test_product_and_rescale() -> None:
    z, w = slots(), slots()
    x = ev.to_evaluations(B, encrypted(z))
    plain = encode_slots(B, w, Fraction(1 << 30), N, Q)
    y = ev.mul_plain(B, x, replace(plain, data=B.ntt(plain.data, Q), evaluations=True))
    assert y.scale == Fraction(1 << 70)
    assert np.abs(value(y) - z * w).max() < 2 * FRESH + N * 2.0**-29
    r = ev.rescale(B, y)
    assert r.scale == Fraction(1 << 70, Q[-1])
    assert r.level == 1
    assert np.abs(value(r) - z * w).max() < 2 * FRESH + N * 2.0**-29


def test_rescale_noise_is_the_bound() -> None:
    x = ev.encrypt(
        B, encode_coefficients(B, np.zeros((2, N)), SCALE, N, Q), PUBLIC, fresh_key(), np.arange(2, dtype=np.uint32)
    )
    before = decode_coefficients(ev.decrypt(B, x, SECRET))
    after = decode_coefficients(ev.decrypt(B, ev.rescale(B, x), SECRET))
    noise = (after - before) * float(SCALE) / Q[-1]
    assert noise.std() == pytest.approx(math.sqrt((2 * N / 3 + 1) / 12), rel=0.15)


def test_coefficients_are_exact() -> None:
    x = RNG.integers(-(2**50), 2**50, (3, 100)).astype(float)
    plain = encode_coefficients(ReferenceBackend(), x, Fraction(1 << 10), N, Q)
    assert np.array_equal(decode_coefficients(plain)[:, :100], x)
    for bad in (np.nan, np.inf, 1e18):
        with pytest.raises(ParameterError):
            encode_coefficients(B, [bad], SCALE, N, Q)
    with pytest.raises(ParameterError, match="slots"):
        encode_slots(B, np.zeros(N), SCALE, N, Q)


def test_what_does_not_agree_is_named() -> None:
    x = encrypted(slots())
    other = replace(x, fingerprint=bytes(16))
    with pytest.raises(KeyMismatchError, match="one key"):
        ev.add(B, x, other)
    with pytest.raises(KeyMismatchError):
        ev.decrypt(B, other, SECRET)
    with pytest.raises(ParameterError, match="scales"):
        ev.add(B, x, replace(x, scale=SCALE * 2))
    with pytest.raises(ParameterError, match="limbs"):
        ev.sub(B, x, ev.drop_modulus(x))
    with pytest.raises(ParameterError, match="evaluations"):
        ev.add(B, x, ev.to_evaluations(B, x))
    plain = encode_slots(B, slots(), SCALE, N, Q)
    with pytest.raises(ParameterError, match="to_evaluations"):
        ev.mul_plain(B, x, plain)
    huge = Plaintext(B.ntt(plain.data, Q), Q, Fraction(1 << 60), True)
    with pytest.raises(BudgetError, match="level 2"):
        ev.mul_plain(B, ev.to_evaluations(B, x), huge)
    with pytest.raises(BudgetError, match="too deep"):
        ev.rescale(B, x, 3)
    with pytest.raises(BudgetError):
        ev.drop_modulus(x, 3)
    with pytest.raises(ParameterError, match="degree two"):
        ev.rescale(B, replace(x, data=np.concatenate([x.data, x.data[:, :1]], axis=1)))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["compact", "lossless"]), st.integers(0, 9), st.integers(0, 2**32))
def test_truncation_rounds_to_nearest(name: str, drop: int, seed: int) -> None:
    p = preset(name)
    q = math.prod(p.q_primes)
    values = np.random.default_rng(seed).integers(0, q, 4096)
    values[:3] = [0, q - 1, q // 2]
    packed = truncate(B, B.from_signed(values, p.q_primes), p.q_primes, drop)
    assert packed.shape == ((4096 * packed_bits(p.q_primes, drop) + 7) // 8,)
    back = restore(B, packed, 4096, p.q_primes, drop)
    expected = (values + (1 << drop >> 1)) >> drop << drop
    assert np.array_equal(back, B.from_signed(expected, p.q_primes))
    with pytest.raises(FormatError):
        restore(B, np.full_like(packed, 255), 4096, p.q_primes, drop)


def test_truncation_limits() -> None:
    assert packed_bits(preset("compact").q_primes, 6) == 38
    with pytest.raises(ParameterError):
        packed_bits(ntt_primes(30, 4096, 3), 4)
