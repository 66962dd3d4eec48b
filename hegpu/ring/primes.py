"""NTT primes."""

from hegpu.errors import ParameterError


def is_prime(x: int) -> bool:
    """Deterministic Miller-Rabin for 0 <= x < 2^64 (Sinclair's seven bases)."""
    if x < 2:
        return False
    for p in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        if x % p == 0:
            return x == p
    d, r = x - 1, 0
    while d % 2 == 0:
        d, r = d // 2, r + 1
    for base in (2, 325, 9375, 28178, 450775, 9780504, 1795265022):
        y = pow(base % x, d, x)
        if y in (0, 1, x - 1):
            continue
        for _ in range(r - 1):
            y = y * y % x
            if y == x - 1:
                break
        else:
            return False
    return True


def ntt_primes(bits: int, n: int, count: int) -> tuple[int, ...]:
    """The ``count`` largest primes in (2^(bits-1), 2^bits) that are 1 modulo 2n, descending."""
    found: list[int] = []
    candidate = (1 << bits) - 2 * n + 1
    while len(found) < count and candidate > 1 << (bits - 1):
        if is_prime(candidate):
            found.append(candidate)
        candidate -= 2 * n
    if len(found) < count:
        raise ParameterError(
            f"ntt_primes: only {len(found)} of {count} primes of {bits} bits are 1 mod {2 * n}; use more bits"
        )
    return tuple(found)
