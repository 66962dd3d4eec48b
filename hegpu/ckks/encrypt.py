"""Encryption and decryption of polynomials, in batches."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import U32, Backend, Moduli
from hegpu.ckks.keys import PublicKey, SecretKey
from hegpu.errors import ParameterError
from hegpu.ring.random import FLOOD, MASK, NOISE, UNIFORM


def _small(backend: Backend, values: npt.NDArray[np.int32], moduli: Moduli) -> U32:
    return backend.from_signed(values.astype(np.int64), moduli)


def encrypt_symmetric(
    backend: Backend, message: U32, secret: SecretKey, seed: bytes, noise_key: bytes, objects: U32
) -> U32:
    """``c0 = -c1 s + m + e``, coefficients ``[..., limb, n]``; c1 is given by the public ``seed``.

    ``message`` ``[..., limb, n]`` coefficients; ``objects`` ``[...]`` numbers the polynomials: no two ciphertexts may
    share (seed, object) or (noise_key, object). Noise: CBD(21).
    """
    n, q = secret.params.n, secret.params.q_primes
    c1 = backend.sample_uniform(seed, UNIFORM, objects, n, q)
    masked = backend.intt(backend.mul(c1, secret.limbs(q), q), q)
    noise = _small(backend, backend.sample_cbd(noise_key, NOISE, objects, n), q)
    return backend.sub(backend.add(message, noise, q), masked, q)


def encrypt_zero(backend: Backend, public: PublicKey, key: bytes, objects: U32, flood_bits: int | None = None) -> U32:
    """Fresh public-key encryptions of zero ``[..., 2, limb, n]``, coefficients; ``key`` is secret and used once.

    With ``flood_bits`` c0 also gets wide noise of sigma sqrt(2/3) 2^flood_bits (see ``Backend.sample_flood``).
    """
    n, q = public.params.n, public.params.q_primes
    if objects.size and int(objects.max()) >= 1 << 31:
        raise ParameterError("encrypt_zero: objects are numbered below 2^31, since each takes two noise streams")
    u = backend.ntt(_small(backend, backend.sample_ternary(key, MASK, objects, n), q), q)
    out = np.empty((*objects.shape, 2, len(q), n), np.uint32)
    for half, whole in ((0, public.pk0), (1, public.pk1(backend))):
        a = np.ascontiguousarray(whole[: len(q)])
        noise = backend.sample_cbd(key, NOISE, objects * np.uint32(2) + np.uint32(half), n)
        out[..., half, :, :] = backend.add(backend.intt(backend.mul(u, a, q), q), _small(backend, noise, q), q)
    if flood_bits is not None:
        wide = backend.sample_flood(key, FLOOD, objects, n, flood_bits, q)
        out[..., 0, :, :] = backend.add(np.ascontiguousarray(out[..., 0, :, :]), wide, q)
    return out


def encrypt_zero_divided(backend: Backend, public: PublicKey, key: bytes, objects: U32) -> U32:
    """Fresh public-key encryptions of zero at the top level ``[..., 2, limb, n]``, evaluations: made modulo Q P and
    divided by P, so that their noise is that of the division's rounding, a sixteenth of :func:`encrypt_zero`'s.

    ``key`` is secret and used once; ``objects`` ``[m]`` below 2^31.
    """
    params = public.params
    n, top = params.n, params.levels[-1]
    primes = top + params.p_primes
    rows = [(params.q_primes + params.p_primes).index(q) for q in primes]
    u = backend.ntt(_small(backend, backend.sample_ternary(key, MASK, objects, n), primes), primes)
    out = np.empty((*objects.shape, 2, len(primes), n), np.uint32)
    for half, whole in ((0, public.pk0), (1, public.pk1(backend))):
        noise = backend.sample_cbd(key, NOISE, objects * np.uint32(2) + np.uint32(half), n)
        error = backend.ntt(_small(backend, noise, primes), primes)
        out[..., half, :, :] = backend.multiply_accumulate(error, u, np.broadcast_to(whole[rows], u.shape), primes)
    return backend.switch_modulus(out, primes, top)


def decrypt(backend: Backend, c0: U32, c1: U32, secret: SecretKey, moduli: Moduli) -> U32:
    """``c0 + c1 s``, all in coefficients ``[..., limb, n]``, modulo ``moduli``."""
    product = backend.intt(backend.mul(backend.ntt(c1, moduli), secret.limbs(moduli), moduli), moduli)
    return backend.add(c0, product, moduli)


def encode_integers(backend: Backend, values: npt.NDArray[np.int64], scale: int, moduli: Moduli) -> U32:
    """Integers ``[..., n]``, |v| <= 2^62, times the integer ``scale``: exact, whatever the product's size."""
    return backend.mul_scalar(backend.from_signed(values, moduli), [scale] * len(moduli), moduli)


def decode(residues: U32, moduli: Moduli, scale: Fraction) -> npt.NDArray[np.float64]:
    """The centred integers behind residues ``[..., limb, n]``, divided by ``scale``: float64 ``[..., n]``.

    Mixed-radix digits (Garner) are exact; the sum is rounded to float64 once per limb, relative error 2^-50.
    """
    digits: list[npt.NDArray[np.int64]] = []
    for i, q in enumerate(moduli):
        x = residues[..., i, :].astype(np.int64)
        for digit, p in zip(digits, moduli, strict=False):
            x = (x - digit) % q * pow(p, -1, q) % q
        digits.append(x)
    modulus = math.prod(moduli)
    # Centring in the digits: adding floor(Q/2) first and subtracting it last keeps small negatives exact.
    half = modulus // 2
    carry = np.zeros_like(digits[0])
    rest = half
    shifted = []
    for digit, q in zip(digits, moduli, strict=True):
        total = digit + rest % q + carry
        shifted.append(total % q)
        carry, rest = total // q, rest // q
    value = np.zeros(digits[0].shape)
    weight, rest = 1, half
    for digit, q in zip(shifted, moduli, strict=True):
        value += (digit - rest % q).astype(np.float64) * float(Fraction(weight) / scale)
        weight, rest = weight * q, rest // q
    return value
