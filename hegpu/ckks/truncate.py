"""c0 with its low bits rounded away: composed modulo q, rounded to nearest, packed to log2 q - t bits."""

import math

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import U32, Backend, Moduli
from hegpu.errors import FormatError, ParameterError


def packed_bits(moduli: Moduli, drop: int) -> int:
    """Bits of a truncated coefficient. Errors: :class:`ParameterError` if q has more than 61 bits."""
    q = math.prod(moduli)
    if q >= 1 << 61 or not 0 <= drop <= 16:
        raise ParameterError(
            f"truncate: log2 q = {math.log2(q):.1f} and {drop} dropped bits; q below 2^61 and 0..16 bits can be composed"
        )
    return ((q - 1 + (1 << drop >> 1)) >> drop).bit_length()


def truncate(backend: Backend, x: U32, moduli: Moduli, drop: int) -> npt.NDArray[np.uint8]:
    """``round(x / 2^drop)`` of coefficients ``[..., limb, n]``, packed: ``[..., bytes]``. Never floors: that bias
    would depend on the secret."""
    bits = packed_bits(moduli, drop)
    value = x[..., 0, :].astype(np.int64)
    weight = moduli[0]
    for i, q in enumerate(moduli[1:], 1):
        digit = (x[..., i, :].astype(np.int64) - value) % q * pow(weight, -1, q) % q
        value = value + digit * weight
        weight *= q
    rounded = (value.astype(np.uint64) + np.uint64(1 << drop >> 1)) >> np.uint64(drop)
    return backend.pack_bits(rounded, bits)


def restore(backend: Backend, packed: npt.NDArray[np.uint8], n: int, moduli: Moduli, drop: int) -> U32:
    """Residues ``[..., limb, n]`` of the truncated values. Errors: :class:`FormatError` for values beyond q."""
    q = math.prod(moduli)
    values = backend.unpack_bits(packed, packed_bits(moduli, drop), n)
    if values.size and int(values.max()) > (q - 1 + (1 << drop >> 1)) >> drop:
        raise FormatError("restore: a coefficient is not below the modulus; the file is damaged or hostile")
    return backend.from_signed((values << np.uint64(drop)).astype(np.int64), moduli)
