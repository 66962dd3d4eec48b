"""Arithmetic on ciphertexts. Operands must agree; what does not is named, nothing is adjusted silently."""

import math
from dataclasses import replace

import numpy as np

from hegpu.backend.protocol import U32, Backend
from hegpu.ckks.ciphertext import Ciphertext, Plaintext
from hegpu.ckks.keys import PublicKey, SecretKey
from hegpu.errors import BudgetError, KeyMismatchError, ParameterError


def _agree(operation: str, x: Ciphertext, y: Ciphertext | Plaintext, *, scales: bool) -> None:
    if isinstance(y, Ciphertext) and x.fingerprint != y.fingerprint:
        raise KeyMismatchError(
            f"{operation}: the operands are under keys {x.fingerprint.hex()} and {y.fingerprint.hex()}; use one key"
        )
    if x.moduli != y.moduli:
        raise ParameterError(
            f"{operation}: the operands have {len(x.moduli)} and {len(y.moduli)} limbs, or other primes; "
            "bring them to one level with drop_modulus"
        )
    if scales and x.scale != y.scale:
        raise ParameterError(
            f"{operation}: the scales are {float(x.scale):.8g} and {float(y.scale):.8g}; encode or rescale to one scale"
        )
    if x.evaluations != y.evaluations:
        raise ParameterError(f"{operation}: one operand holds evaluations, the other coefficients; convert one of them")


def _same_degree(operation: str, x: Ciphertext, y: Ciphertext) -> None:
    if x.data.shape[-3] != y.data.shape[-3]:
        raise ParameterError(
            f"{operation}: the operands have {x.data.shape[-3]} and {y.data.shape[-3]} polynomials; relinearise first"
        )


def add(backend: Backend, x: Ciphertext, y: Ciphertext) -> Ciphertext:
    """x + y; noise adds."""
    _agree("add", x, y, scales=True)
    _same_degree("add", x, y)
    return replace(x, data=backend.add(x.data, y.data, x.moduli))


def sub(backend: Backend, x: Ciphertext, y: Ciphertext) -> Ciphertext:
    """x - y; noise adds."""
    _agree("sub", x, y, scales=True)
    _same_degree("sub", x, y)
    return replace(x, data=backend.sub(x.data, y.data, x.moduli))


def negate(backend: Backend, x: Ciphertext) -> Ciphertext:
    """-x."""
    return replace(x, data=backend.neg(x.data, x.moduli))


def add_plain(backend: Backend, x: Ciphertext, y: Plaintext) -> Ciphertext:
    """x + y; the noise stays."""
    _agree("add_plain", x, y, scales=True)
    data = x.data.copy()
    data[..., 0, :, :] = backend.add(np.ascontiguousarray(x.data[..., 0, :, :]), y.data, x.moduli)
    return replace(x, data=data)


def mul_plain(backend: Backend, x: Ciphertext, y: Plaintext) -> Ciphertext:
    """x y in the evaluation domain; scales multiply, noise grows by at most the 1-norm of y's coefficients."""
    _agree("mul_plain", x, y, scales=False)
    if not x.evaluations:
        raise ParameterError("mul_plain: polynomials are multiplied as evaluations; convert both with to_evaluations")
    scale = x.scale * y.scale
    if scale >= math.prod(x.moduli):
        raise BudgetError(
            f"mul_plain: the product's scale 2^{math.log2(scale):.1f} exceeds the modulus "
            f"2^{math.log2(math.prod(x.moduli)):.1f} of level {x.level}; rescale first or use more primes"
        )
    return replace(x, data=backend.mul(x.data, y.data[..., None, :, :], x.moduli), scale=scale)


def rescale(backend: Backend, x: Ciphertext, count: int = 1) -> Ciphertext:
    """Divide by the last ``count`` primes, rounded to nearest; the scale is divided by exactly them.

    Adds noise of at most sigma sqrt((2n/3 + 1) / 12).
    """
    if not 1 <= count <= x.level:
        raise BudgetError(
            f"rescale: level {x.level} cannot lose {count} primes; the computation is too deep for "
            f"{x.params.name!r}, use parameters with more primes"
        )
    if x.data.shape[-3] > 2:
        raise ParameterError("rescale: a ciphertext of degree two is never rescaled (noise times 200); relinearise it")
    coefficients = to_coefficients(backend, x)
    data = backend.divide_by_last(coefficients.data, x.moduli, count)
    keep, last = x.moduli[:-count], x.moduli[-count:]
    result = replace(coefficients, data=data, moduli=keep, scale=x.scale / math.prod(last))
    return to_evaluations(backend, result) if x.evaluations else result


def drop_modulus(x: Ciphertext, count: int = 1) -> Ciphertext:
    """Forget the last ``count`` primes: same value, same scale, same noise, a lower level."""
    if not 1 <= count <= x.level:
        raise BudgetError(f"drop_modulus: level {x.level} cannot lose {count} primes; at least one must remain")
    data = np.ascontiguousarray(x.data[..., :-count, :])
    return replace(x, data=data, moduli=x.moduli[:-count])


def to_evaluations(backend: Backend, x: Ciphertext) -> Ciphertext:
    return x if x.evaluations else replace(x, data=backend.ntt(x.data, x.moduli), evaluations=True)


def to_coefficients(backend: Backend, x: Ciphertext) -> Ciphertext:
    return replace(x, data=backend.intt(x.data, x.moduli), evaluations=False) if x.evaluations else x


def encrypt(backend: Backend, y: Plaintext, public: PublicKey, key: bytes, objects: U32) -> Ciphertext:
    """Public-key encryption of ``y`` ``[batch..., limb, n]`` (coefficients); ``key`` is secret and used once,
    ``objects`` ``[batch...]`` numbers the polynomials."""
    from hegpu.ckks.encrypt import encrypt_zero

    if y.evaluations or y.moduli != public.params.q_primes:
        raise ParameterError("encrypt: give coefficients modulo all q primes of the key's parameters")
    zero = Ciphertext(
        encrypt_zero(backend, public, key, objects), public.params, y.moduli, y.scale, False, public.fingerprint
    )
    return add_plain(backend, zero, y)


def decrypt(backend: Backend, x: Ciphertext, secret: SecretKey) -> Plaintext:
    """``sum_i c_i s^i``. Errors: :class:`~hegpu.errors.KeyMismatchError` for a foreign key."""
    if x.fingerprint != secret.fingerprint:
        raise KeyMismatchError(
            f"decrypt: the ciphertext is under key {x.fingerprint.hex()}, the secret is of {secret.fingerprint.hex()}"
        )
    s = secret.limbs(x.moduli)
    polynomials = to_evaluations(backend, x).data
    total = np.ascontiguousarray(polynomials[..., -1, :, :])
    for i in range(polynomials.shape[-3] - 2, -1, -1):
        total = backend.multiply_accumulate(np.ascontiguousarray(polynomials[..., i, :, :]), total, s, x.moduli)
    return Plaintext(backend.intt(total, x.moduli), x.moduli, x.scale, False)
