"""The security table and its check."""

import math

from hegpu.errors import ParameterError, SecurityError

# Largest log2(Q P), uniform ternary secrets, sigma >= 3.19, classical cost model: Bossuat et al., "Security Guidelines
# for Implementing Homomorphic Encryption", ePrint 2024/463 (n = 131072 lowered a little: 3523 gives 127.9 bits).
TABLE: dict[int, dict[int, int]] = {
    1024: {128: 26},
    2048: {128: 53, 192: 36, 256: 27},
    4096: {128: 106, 192: 73, 256: 56},
    8192: {128: 214, 192: 147, 256: 114},
    16384: {128: 430, 192: 297, 256: 230},
    32768: {128: 868, 192: 597, 256: 462},
    65536: {128: 1747, 192: 1199, 256: 929},
    131072: {128: 3500, 192: 2400, 256: 1860},
}


def security_level(n: int, modulus: int) -> int:
    """The largest of 256, 192, 128 that the exact product ``modulus`` = Q P reaches at degree n, else 0."""
    for bits in (256, 192, 128):
        most = TABLE.get(n, {}).get(bits)
        if most is not None and modulus <= 1 << most:
            return bits
    return 0


def require(operation: str, n: int, modulus: int, bits: int) -> None:
    """Errors: :class:`SecurityError` if the product of the primes is too large for ``bits`` (128, 192 or 256)."""
    if bits not in (128, 192, 256):
        raise ParameterError(f"{operation}: security {bits} is not in the table; use 128, 192 or 256")
    if security_level(n, modulus) < bits:
        most = TABLE.get(n, {}).get(bits)
        raise SecurityError(
            f"{operation}: log2(QP) = {math.log2(modulus):.2f} at n = {n} is below {bits}-bit security "
            f"(at most {most}); use a larger n or fewer primes (only names that start with 'insecure_' may be weaker)"
        )
