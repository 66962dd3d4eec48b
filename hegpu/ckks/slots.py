"""What the holder of the keys does: encrypt slots, decrypt them, keep account of what was decrypted."""

import math

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import U32, Backend
from hegpu.ckks import noise as estimate
from hegpu.ckks.ciphertext import Ciphertext, Plaintext, log2
from hegpu.ckks.encoder import C128, decode_slots, encode_slots
from hegpu.ckks.encrypt import encrypt_symmetric, encrypt_zero_divided
from hegpu.ckks.keys import PublicKey, SecretKey
from hegpu.ckks.params import Parameters
from hegpu.errors import KeyMismatchError, ParameterError
from hegpu.ring.random import UNIFORM, fresh_key


def encrypt(
    backend: Backend, key: PublicKey | SecretKey, values: npt.ArrayLike, bound: float | None = None
) -> Ciphertext:
    """Real or complex ``values`` ``[batch..., m <= n/2]`` at the top level, zeros in the other slots.

    With the secret key the noise is smaller (3.2 a coefficient instead of sqrt(n / 18)). ``bound``: what the absolute values
    are promised to stay below. It is public and must not be computed from secret data; it sharpens estimates of noise.
    Default: the largest value that survives at level 0. Every call draws fresh randomness from the operating system.
    Errors: :class:`ParameterError` for NaN, infinity or values beyond the bound.
    """
    params = key.params
    scale, moduli = params.scales[-1], params.levels[-1]
    largest = 2.0 ** (params.level_bits[0] - log2(params.scales[0]) - 1)
    bound = largest if bound is None else float(bound)
    if not 0 < bound <= largest:
        raise ParameterError(f"encrypt: bound {bound} is not in (0, {largest:.6g}], what {params.name!r} can hold")
    primes = params.q_primes if isinstance(key, SecretKey) else moduli
    plain = encode_slots(backend, values, scale, params.n, primes)
    if plain.bound > bound:
        raise ParameterError(f"encrypt: values reach {plain.bound:.6g}, beyond the bound {bound:.6g}; scale them down, or give a larger bound")  # fmt: skip
    batch = plain.data.shape[:-2]
    objects = np.arange(math.prod(batch), dtype=np.uint32)
    message = plain.data.reshape(-1, *plain.data.shape[-2:])
    if isinstance(key, SecretKey):
        seed = fresh_key()
        c0 = encrypt_symmetric(backend, message, key, seed, fresh_key(), objects)
        c1 = backend.sample_uniform(seed, UNIFORM, objects, params.n, primes)
        pair = _limbs(np.stack([backend.ntt(c0, primes), c1], axis=-3), params, moduli)
        sigma = estimate.symmetric()
    else:
        pair = encrypt_zero_divided(backend, key, fresh_key(), objects)
        first = np.ascontiguousarray(pair[..., 0, :, :])
        pair[..., 0, :, :] = backend.add(first, backend.ntt(message, moduli), moduli)
        sigma = estimate.public(params.n, math.prod(params.p_primes))
    noise = estimate.slots(params.n, math.hypot(sigma, estimate.ENCODING)) / float(scale)
    data = pair.reshape(*batch, 2, len(moduli), params.n)
    return Ciphertext(data, params, params.depth, scale, key.fingerprint, noise, bound)


def decrypt_polynomial(backend: Backend, secret: SecretKey, x: Ciphertext) -> Plaintext:
    """``sum_i c_i s^i``, coefficients, modulo as many of the level's primes as values up to 2^60 need.

    Errors: :class:`KeyMismatchError` for a foreign key.
    """
    if x.fingerprint != secret.fingerprint or x.params != secret.params:
        raise KeyMismatchError(
            f"decrypt: the ciphertext is under key {x.fingerprint.hex()} ({x.params.name!r}), the secret is of "
            f"{secret.fingerprint.hex()} ({secret.params.name!r}); use the key it was encrypted with"
        )
    moduli, bits = [], 0.0
    for q in x.moduli:
        if bits < log2(x.scale) + 61:
            moduli.append(q)
            bits += math.log2(q)
    some = tuple(moduli)
    data = np.ascontiguousarray(x.data[..., : len(some), :])
    data = data if x.evaluations else backend.ntt(data, some)
    s = secret.limbs(some)
    total = np.ascontiguousarray(data[..., -1, :, :])
    for i in range(data.shape[-3] - 2, -1, -1):
        total = backend.multiply_accumulate(np.ascontiguousarray(data[..., i, :, :]), total, s, some)
    return Plaintext(backend.intt(total, some), some, x.scale, False)


def decrypt(backend: Backend, secret: SecretKey, x: Ciphertext) -> C128:
    """The slots ``[batch..., n/2]``, complex. What is decrypted must not be given away unprotected: its noise tells
    about the key (see :mod:`hegpu.ckks.ledger`)."""
    return decode_slots(decrypt_polynomial(backend, secret, x))


def _limbs(data: U32, params: Parameters, moduli: tuple[int, ...]) -> U32:
    if moduli == params.q_primes:
        return data
    return np.ascontiguousarray(data[..., [params.q_primes.index(q) for q in moduli], :])
