"""Encoders and truncation; single operations of the evaluator against numbers, noise against its estimate."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import B, world

from hegpu.backend.reference import ReferenceBackend
from hegpu.ckks.ciphertext import Ciphertext, Plaintext
from hegpu.ckks.encoder import decode_coefficients, decode_slots, encode_coefficients, encode_slots
from hegpu.ckks.encrypt import decode
from hegpu.ckks.evaluation_keys import make_keys
from hegpu.ckks.evaluator import Evaluator
from hegpu.ckks.keys import generate
from hegpu.ckks.params import LEVELLED, Parameters, levelled, preset
from hegpu.ckks.precision import precision
from hegpu.ckks.slots import decrypt, decrypt_polynomial, encrypt
from hegpu.ckks.truncate import packed_bits, restore, truncate
from hegpu.errors import FormatError, ParameterError, SecurityError
from hegpu.ring.primes import ntt_primes
from hegpu.ring.random import fresh_key

P = preset("insecure_test")
Q, N, SCALE = P.q_primes, P.n, Fraction(1 << 40)
RNG = np.random.default_rng(0)


def slots():
    return RNG.uniform(-1, 1, (2, N // 2)) + 1j * RNG.uniform(-1, 1, (2, N // 2))


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


def test_coefficients_are_exact() -> None:
    x = RNG.integers(-(2**50), 2**50, (3, 100)).astype(float)
    plain = encode_coefficients(ReferenceBackend(), x, Fraction(1 << 10), N, Q)
    assert np.array_equal(decode_coefficients(plain)[:, :100], x)
    for bad in (np.nan, np.inf, 1e18):
        with pytest.raises(ParameterError):
            encode_coefficients(B, [bad], SCALE, N, Q)
    with pytest.raises(ParameterError, match="slots"):
        encode_slots(B, np.zeros(N), SCALE, N, Q)


def every_operation(ev: Evaluator, x: Ciphertext, y: Ciphertext, z: np.ndarray, w: np.ndarray):
    """(name, ciphertext, what it should hold), each operation once."""
    lazy = ev.add(ev.multiply(x, y, relinearise=False), ev.square(x, relinearise=False))
    low = ev.multiply(x, y)
    pair = replace(x, data=np.stack([x.data, y.data]))
    other = replace(x, data=np.stack([y.data, y.data]))
    return [
        ("add", ev.add(x, y), z + w),
        ("sub", ev.sub(x, y), z - w),
        ("negate", ev.negate(x), -z),
        ("add values", ev.add(x, w), z + w),
        ("add a number", ev.add(x, 0.25 - 0.5j), z + 0.25 - 0.5j),
        ("multiply", low, z * w),
        ("square", ev.square(x), z * z),
        ("multiply by values", ev.multiply(x, w), z * w),
        ("multiply by a number", ev.multiply(x, -0.75), -0.75 * z),
        ("multiply, then rescale", ev.rescale(ev.multiply(x, y, rescale=False)), z * w),
        ("degree two", lazy, z * w + z * z),
        ("degrees one and two", ev.add(lazy, ev.multiply(x, y, rescale=False)), 2 * z * w + z * z),
        ("relinearise", ev.relinearise(lazy), z * w + z * z),
        ("relinearise only", ev.relinearise(lazy, rescale=False), z * w + z * z),
        ("sum of products", ev.sum_of_products(pair, other), (z + w) * w),
        ("rotate", ev.rotate(x, 5), np.roll(z, -5, -1)),
        ("rotate to the right", ev.rotate(x, -3), np.roll(z, 3, -1)),
        ("conjugate", ev.conjugate(x), z.conj()),
        ("rotate many", ev.rotate_many(x, [1, 0, 4]), np.stack([np.roll(z, -s, -1) for s in (1, 0, 4)])),
        ("other levels", ev.add(low, x), z * w + z),
        ("other levels", ev.multiply(ev.square(low), x), (z * w) ** 2 * z),
        ("three levels down", ev.at_level(x, 1), z),
    ]


@pytest.mark.parametrize("compact", [False, True])
def test_every_operation_is_right_and_its_noise_foreseen(compact: bool) -> None:
    c = world(compact=compact)
    z, w = c.slots(1), c.slots(2)
    for name, x, expected in every_operation(c.evaluator, c.encrypt(z), c.encrypt(w), z, w):
        error = np.abs(c.decrypt(x) - expected)
        assert error.max() < 2.0**-x.noise_budget, name
        assert np.sqrt((error**2).mean()) > x.noise / 40, f"{name}: the estimate is useless"
        assert 20 < x.noise_budget < 30
        assert np.abs(expected).max() <= x.bound


def test_every_operation_has_the_same_bits_on_the_reference() -> None:
    c = world()
    z, w = c.slots(1, ()), c.slots(2, ())
    x, y = c.encrypt(z), c.encrypt(w)
    other = Evaluator(ReferenceBackend(), c.keys)
    for (name, a, _), (_, b, _) in zip(
        every_operation(c.evaluator, x, y, z, w), every_operation(other, x, y, z, w), strict=True
    ):
        assert np.array_equal(a.data, b.data), name
        assert (a.level, a.scale) == (b.level, b.scale)


def test_compact_keys_give_the_same_bits() -> None:
    c = world()
    x = c.encrypt(c.slots())
    held = {g: replace(k, second=None) for g, k in c.keys.held.items()}
    compact = Evaluator(B, replace(c.keys, held=held))
    assert np.array_equal(compact.square(x).data, c.evaluator.square(x).data)
    assert np.array_equal(compact.rotate(x, 5).data, c.evaluator.rotate(x, 5).data)


def test_rotations_of_whole_turns_need_no_key() -> None:
    c = world()
    x = c.encrypt(c.slots())
    for steps in (0, N // 2, -N // 2, N):
        assert np.array_equal(c.evaluator.rotate(x, steps).data, x.data)
    assert np.array_equal(c.evaluator.rotate(x, 5 + N).data, c.evaluator.rotate(x, 5).data)


def test_a_product_at_every_level_keeps_the_scale() -> None:
    c = world("insecure_ckks_deep", (3,))
    z = c.slots()
    z /= np.abs(z)
    x = c.encrypt(z, bound=1.01)
    for level in range(c.params.depth, 0, -1):
        assert (x.level, x.scale) == (level, c.params.scales[level])
        turned = c.evaluator.rotate(x, 3)
        assert c.error(turned, np.roll(z, -3, -1)) < 2.0**-turned.noise_budget
        x, z = c.evaluator.square(x), z * z
        assert c.error(x, z) < 2.0**-x.noise_budget
    assert x.level == 0
    assert math.log2(x.scale) == pytest.approx(40, abs=0.01)


def test_special_primes_keep_a_key_switch_below_half_a_rescale() -> None:
    c = world()
    fresh = c.encrypt(np.zeros((8, N // 2)))
    digits = np.stack([np.random.default_rng(0).integers(0, q, (8, 2, N), np.uint32) for q in fresh.moduli], axis=-2)
    x = replace(fresh, data=digits)
    before, after = decrypt_polynomial(B, c.secret, x), decrypt_polynomial(B, c.secret, c.evaluator.rotate(x, 1))
    turned = B.automorphism(before.data, 5, before.moduli, evaluations=False)
    noise = decode(B.sub(after.data, turned, before.moduli), before.moduli, Fraction(1))
    trits = B.intt(c.secret.limbs(c.params.q_primes[:1]), c.params.q_primes[:1])
    rescale = (np.count_nonzero(trits) + 1) / 12
    assert 0.93 * rescale < noise.var() < 1.25 * rescale


@pytest.mark.parametrize("name", [n for n in LEVELLED if n[0] == "c"])
def test_presets_are_secure_and_consistent(name: str) -> None:
    p = preset(name)
    assert p.security_bits >= 128
    assert Parameters.from_json(p.to_json()) == p
    assert p.scales[-1] == p.scale and abs(float(p.scales[0]) / 2**40 - 1) < 2**-40
    assert all(abs(b - 50 - 40 * k) < 2 for k, b in enumerate(p.level_bits))
    special, at = math.prod(p.p_primes), 0
    for size in p.digits:
        digit = math.prod(p.q_primes[at : at + size])
        assert special / digit >= 2 * math.sqrt(15.75 * len(p.digits) * size)
        at += size
    assert at == len(p.q_primes)


def test_chains_that_cannot_be_made_are_refused() -> None:
    for first, bits in ((50, 37), (60, 35)):
        with pytest.raises(ParameterError, match="multiples of 10"):
            levelled("x", 1 << 14, 2, first_bits=first, scale_bits=bits)
    for n, depth, wrong in [
        (1 << 14, 0, {}), (1 << 14, 64, {}), (1000, 2, {}), (1 << 17, 2, {}), (1 << 14, 2, {"scale_bits": 10}),
        (1 << 14, 2, {"scale_bits": 70}), (1 << 14, 2, {"first_bits": 40}), (1 << 14, 2, {"first_bits": 200}),
    ]:  # fmt: skip
        with pytest.raises(ParameterError, match=r"must be a power of two|do not fit"):
            levelled("x", n, depth, **wrong)
    with pytest.raises(ParameterError, match="no special primes fit"):
        levelled("x", 1 << 13, 4)
    with pytest.raises(SecurityError):
        Parameters("x", 1 << 10, ntt_primes(30, 1 << 10, 2))
    for bits in (30, 45, 50):
        p = levelled("insecure_other", 1 << 10, 3, first_bits=60, scale_bits=bits, security=0)
        assert [round(b) for b in p.level_bits] == [60 + bits * k for k in range(4)]


@pytest.mark.parametrize("bits", [25, 30, 45, 50])
def test_other_scales_compute_too(bits: int) -> None:
    """Chains of one size of prime, and of 30 and 25 bits."""
    p = levelled("insecure_other", 1 << 10, 3, first_bits=60, scale_bits=bits, security=0, digits=2)
    secret, public = generate(B, p, fresh_key(), fresh_key())
    ev = Evaluator(B, make_keys(B, secret, [1]))
    z = np.random.default_rng(0).uniform(-1, 1, N // 2)
    x = encrypt(B, public, z, 1.0)
    y = ev.rotate(ev.add(ev.multiply(ev.square(x), x), x), 1)
    expected = np.roll(z**3 + z, -1)
    assert y.level == 1 and y.noise_budget > bits - 20
    assert np.abs(decrypt(B, secret, y) - expected).max() < 2.0**-y.noise_budget


def test_precision_is_a_distribution() -> None:
    report = precision([1.0, 2.0, 3.0], [1.0, 2.0 + 2**-10, 3.0 + 2**-20])
    assert (report.min, report.median, report.max, report.slots) == (10, 20, 60, 3)
    assert str(report).startswith("precision of 3 slots in bits: min 10.00, median 20.00")
    with pytest.raises(ParameterError):
        precision([1.0], [1.0, 2.0])


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
