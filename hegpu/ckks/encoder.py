"""Encoding of numbers into polynomials: one a coefficient, or one complex number a slot (canonical embedding).

Slot j of n/2 is the polynomial's value at zeta^(5^j), zeta = exp(i pi / n): the order that rotations permute
cyclically (Cheon, Kim, Kim, Song, ASIACRYPT 2017, section 2.2).
"""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import Backend, Moduli
from hegpu.ckks.ciphertext import Plaintext
from hegpu.ckks.encrypt import decode
from hegpu.errors import ParameterError

C128 = npt.NDArray[np.complex128]


def encode_coefficients(backend: Backend, values: npt.ArrayLike, scale: Fraction, n: int, moduli: Moduli) -> Plaintext:
    """``round(v scale)`` at the first coefficients: ``values`` ``[..., m <= n]``, |v| scale at most 2^62."""
    x = np.asarray(values, np.float64)
    if x.ndim < 1 or x.shape[-1] > n:
        raise ParameterError(f"encode_coefficients: shape {x.shape} does not fit n = {n} coefficients")
    if not np.isfinite(x).all():
        raise ParameterError("encode_coefficients: the values hold NaN or infinity; replace them")
    scaled = np.rint(x * float(scale))
    if np.abs(scaled).max(initial=0) > 2.0**62:
        raise ParameterError(f"encode_coefficients: values times the scale {float(scale):.4g} exceed 2^62; scale less")
    padded = np.zeros((*x.shape[:-1], n), np.int64)
    padded[..., : x.shape[-1]] = scaled.astype(np.int64)
    return Plaintext(backend.from_signed(padded, moduli), moduli, scale, False)


def decode_coefficients(plain: Plaintext) -> npt.NDArray[np.float64]:
    """``[..., n]`` float64."""
    return decode(plain.data, plain.moduli, plain.scale)


def _slot_positions(n: int) -> npt.NDArray[np.int64]:
    """Odd exponents 5^j mod 2n as indices (e - 1) / 2."""
    exponents = np.empty(n // 2, np.int64)
    e = 1
    for j in range(n // 2):
        exponents[j] = e
        e = e * 5 % (2 * n)
    return (exponents - 1) // 2


def encode_slots(backend: Backend, values: npt.ArrayLike, scale: Fraction, n: int, moduli: Moduli) -> Plaintext:
    """Real or complex ``values`` ``[..., m <= n/2]``, zeros in the other slots."""
    z = np.asarray(values, np.complex128)
    if z.ndim < 1 or z.shape[-1] > n // 2:
        raise ParameterError(f"encode_slots: shape {z.shape} does not fit {n // 2} slots")
    if not np.isfinite(z).all():
        raise ParameterError("encode_slots: the values hold NaN or infinity; replace them")
    at = _slot_positions(n)
    full = np.zeros((*z.shape[:-1], n), np.complex128)
    full[..., at[: z.shape[-1]]] = z
    full[..., n - 1 - at[: z.shape[-1]]] = z.conj()
    # The polynomial's value at zeta^(2k+1) is sum_j (p_j zeta^j) exp(2 pi i j k / n).
    p = np.fft.fft(full, axis=-1) / n * np.exp(-1j * np.pi * np.arange(n) / n)
    plain = encode_coefficients(backend, p.real, scale, n, moduli)
    return replace(plain, bound=float(np.abs(z).max(initial=0)))


def decode_slots(plain: Plaintext) -> C128:
    """The ``[..., n/2]`` slots, complex128."""
    p = decode_coefficients(plain)
    n = p.shape[-1]
    values = np.fft.ifft(p * np.exp(1j * np.pi * np.arange(n) / n), axis=-1) * n
    return np.asarray(values[..., _slot_positions(n)])
