import math
from fractions import Fraction

import numpy as np
import pytest

from hegpu.backend.cpu import CpuBackend
from hegpu.backend.reference import ReferenceBackend
from hegpu.ckks.encrypt import decode, decrypt, encode_integers, encrypt_symmetric, encrypt_zero
from hegpu.ckks.keys import generate
from hegpu.ckks.params import PRESETS, Parameters, preset
from hegpu.ckks.security import TABLE
from hegpu.errors import FormatError, HegpuError, ParameterError, SecurityError
from hegpu.ring.primes import is_prime, ntt_primes
from hegpu.ring.random import UNIFORM, derive_key, fresh_key

KEY = bytes(range(32))
OBJECTS = np.arange(6, dtype=np.uint32)


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    return ReferenceBackend() if request.param == "reference" else CpuBackend(threads=2)


def noise_of(residues, moduli, message):
    """Centred integers behind residues, minus the message, exactly."""
    q = math.prod(moduli)
    big = sum(residues[..., i, :].astype(object) * (q // m * pow(q // m, -1, m)) for i, m in enumerate(moduli)) % q
    difference = (big - message.astype(object)) % q
    return np.where(difference > q // 2, difference - q, difference).astype(float)


def test_primes() -> None:
    assert [x for x in range(60) if is_prime(x)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59]
    assert not is_prime(3215031751)
    found = ntt_primes(30, 4096, 3)
    assert found == tuple(sorted(found, reverse=True))
    assert all(is_prime(q) and q % 8192 == 1 and q < 1 << 30 for q in found)
    with pytest.raises(ParameterError, match="only"):
        ntt_primes(17, 65536, 3)


def test_fresh_noise_and_decryption(backend) -> None:
    p = preset("insecure_test")
    secret, _ = generate(backend, p, KEY, fresh_key())
    values = np.random.default_rng(0).integers(-(1 << 40), 1 << 40, (6, p.n))
    seed = fresh_key()
    c0 = encrypt_symmetric(backend, backend.from_signed(values, p.q_primes), secret, seed, fresh_key(), OBJECTS)
    c1 = backend.intt(backend.sample_uniform(seed, UNIFORM, OBJECTS, p.n, p.q_primes), p.q_primes)
    noise = noise_of(decrypt(backend, c0, c1, secret, p.q_primes), p.q_primes, values)
    assert np.abs(noise).max() <= 21
    assert abs(noise.var() / 10.5 - 1) < 0.1


def test_public_zero_noise(backend) -> None:
    p = preset("insecure_test")
    secret, public = generate(backend, p, KEY, fresh_key())
    z = encrypt_zero(backend, public, fresh_key(), OBJECTS)
    c0, c1 = np.ascontiguousarray(z[:, 0]), np.ascontiguousarray(z[:, 1])
    noise = noise_of(decrypt(backend, c0, c1, secret, p.q_primes), p.q_primes, np.zeros((6, p.n), np.int64))
    # e u + e0 + e1 s: variance 10.5 (n 2/3 + 1 + n 2/3)
    assert abs(noise.var() / (10.5 * (4 * p.n / 3 + 1)) - 1) < 0.25
    flooded = encrypt_zero(backend, public, fresh_key(), OBJECTS, 50)
    c0, c1 = np.ascontiguousarray(flooded[:, 0]), np.ascontiguousarray(flooded[:, 1])
    noise = noise_of(decrypt(backend, c0, c1, secret, p.q_primes), p.q_primes, np.zeros((6, p.n), np.int64))
    assert abs(noise.std() / (math.sqrt(2 / 3) * 2**50) - 1) < 0.05


def test_both_backends_make_the_same_ciphertext() -> None:
    p, seed, noise_key = preset("insecure_test"), fresh_key(), fresh_key()
    results = []
    for b in (ReferenceBackend(), CpuBackend()):
        secret, public = generate(b, p, KEY, seed)
        message = encode_integers(b, np.arange(6 * p.n).reshape(6, p.n), 1 << 50, p.q_primes)
        results.append(encrypt_symmetric(b, message, secret, seed, noise_key, OBJECTS))
        results.append(encrypt_zero(b, public, noise_key, OBJECTS, 60))
    assert np.array_equal(results[0], results[2])
    assert np.array_equal(results[1], results[3])


@pytest.mark.parametrize("limbs", [1, 2, 3])
def test_decode_is_exact_to_float(limbs: int) -> None:
    moduli = ntt_primes(30, 1024, limbs)
    q = math.prod(moduli)
    values = [0, 1, -1, q // 2, -(q // 2), 12345, -98765, q // 3]
    residues = np.zeros((1, limbs, 1024), np.uint32)
    for j, v in enumerate(values):
        residues[0, :, j] = [v % m for m in moduli]
    scale = Fraction(1 << 20, 3)
    decoded = decode(residues, moduli, scale)[0]
    for j, v in enumerate(values):
        assert decoded[j] == pytest.approx(float(v / scale), rel=2**-50)


def test_table_is_enforced_exactly() -> None:
    primes = ntt_primes(30, 4096, 4)
    with pytest.raises(SecurityError, match="insecure_"):
        Parameters("mine", 4096, primes)
    assert Parameters("insecure_mine", 4096, primes).security_bits == 0
    assert Parameters("mine", 4096, primes[:3]).security_bits == 128
    with pytest.raises(SecurityError):
        Parameters("mine", 4096, primes[:3], security=192)
    assert all(list(row.values()) == sorted(row.values(), reverse=True) for row in TABLE.values())


@pytest.mark.parametrize(
    "change",
    [
        {"n": 4095},
        {"n": 512},
        {"q_primes": ()},
        {"q_primes": (40961, 40961)},
        {"q_primes": (40963,)},
        {"q_primes": (8192 * 5,)},
        {"scale": Fraction(0)},
        {"scale": Fraction(1 << 90)},
        {"c0_drop_up": 17},
        {"security": 100},
    ],
)
def test_bad_parameters_are_refused(change) -> None:
    fields = {"name": "mine", "n": 4096, "q_primes": (40961, 65537), **change}
    with pytest.raises(ParameterError):
        Parameters(**fields)


def test_parameters_round_trip_and_hash() -> None:
    for name in PRESETS:
        p = preset(name)
        assert Parameters.from_json(p.to_json()) == p
    assert len({preset(name).hash for name in PRESETS}) == len(PRESETS)
    with pytest.raises(ParameterError, match="linear"):
        preset("nothing")
    good = preset("linear").to_json()
    for key in good:
        for bad in (None, "x", 1.5, [], {}, True, "1/0"):
            if not (key == "name" and isinstance(bad, str)) and not (key == "p_primes" and bad == []):
                with pytest.raises(HegpuError):
                    Parameters.from_json({**good, key: bad})
    for bad in (None, [], "text", {}):
        with pytest.raises(FormatError):
            Parameters.from_json(bad)


def test_hostile_scales_are_refused_at_once() -> None:
    good = preset("linear").to_json()
    for bad in ("1e30000000", "1e-99999999/1", "9" * 201 + "/1", "-5/1", "5/0", "5", "\u0665/1", 5):
        with pytest.raises(FormatError, match="scale"):
            Parameters.from_json({**good, "scale": bad})


def test_no_two_polynomials_share_noise() -> None:
    _, public = generate(CpuBackend(), preset("insecure_test"), KEY, bytes(32))
    with pytest.raises(ParameterError, match="2\\^31"):
        encrypt_zero(CpuBackend(), public, KEY, np.array([1 << 31], np.uint32))


def test_secrets_are_not_printed() -> None:
    secret, _ = generate(CpuBackend(), preset("insecure_test"), KEY, bytes(32))
    assert "array" not in repr(secret)
    assert derive_key(KEY, "a") != derive_key(KEY, "b")
    assert fresh_key() != fresh_key()
