"""Chains of moduli for levelled computation: a level is a set of primes, and a step between levels is any ratio of them.

Large primes lie just below 2^30, small ones near 2^20 or 2^25; a modulus of B bits is made of as few small ones as
possible. So each level uses nearly full words whatever the scale (rational rescaling, as in Cheddar, arXiv 2407.13055).
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from hegpu.ckks.security import security_level
from hegpu.errors import ParameterError
from hegpu.ring.primes import is_prime, ntt_primes

LARGE = 30
_PRECISION = 160  # bits kept of a level's scale


@dataclass(frozen=True)
class Chain:
    """``q_primes`` longest-lived first, ``levels`` from 0 (the last one) upwards, ``scale`` that of the top level."""

    q_primes: tuple[int, ...]
    p_primes: tuple[int, ...]
    levels: tuple[tuple[int, ...], ...]
    scale: Fraction


def chain(
    what: str, n: int, depth: int, *, first_bits: int = 50, scale_bits: int = 40, security: int = 128, digits: int = 0
) -> Chain:
    """``depth`` rescales by about ``scale_bits`` bits above a last modulus of ``first_bits``.

    Special primes are those that make a key switch cheapest within ``security`` bits (0: any size), with its noise
    below half that of a rescale. ``digits``: as many digits at least. Errors: :class:`ParameterError` for sizes
    that cannot be made, or that leave no room for special primes.
    """
    if not 1 << 10 <= n <= 1 << 16 or n & (n - 1) or not 1 <= depth <= 63:
        raise ParameterError(
            f"{what}: n = {n} must be a power of two from 2^10 to 2^16, and depth = {depth} from 1 to 63"
        )
    if not 20 <= scale_bits <= 60 or not scale_bits + 2 <= first_bits <= 120:
        raise ParameterError(
            f"{what}: scales of {scale_bits} bits (20..60) and a last modulus of {first_bits} do not fit; it needs at least "
            "two bits more than the scale, and at most 120"
        )
    totals = [first_bits + level * scale_bits for level in range(depth + 1)]
    made = [m for small in (20, 25) if (m := _counts(totals, small)) is not None]
    if not made:
        raise ParameterError(
            f"{what}: moduli of {first_bits} + k {scale_bits} bits cannot be made of 30-bit primes and a few of 20 or "
            "25 bits; use multiples of 10 (or of 5 from 50 bits on)"
        )
    errors: list[str] = []
    for small, counts in sorted(made, key=lambda m: _union_bits(*m)):
        small_primes = _near(small, n, max(b for _, b in counts))
        if small_primes is None:
            errors.append(f"too few {small}-bit primes")
            continue
        most = max(a for a, _ in counts)
        large = ntt_primes(LARGE, n, most + 40)
        options = []
        for gap in range(1, min(most, 8) + 1):  # small primes spread over the digits fill them better
            q_primes = list(large[:most])
            for i, q in enumerate(small_primes):
                q_primes.insert(1 + i * gap, q)
            levels = tuple(tuple(q for q in q_primes if q in large[:a] or q in small_primes[:b]) for a, b in counts)
            found = _special(n, tuple(q_primes), levels, large[most:], security, digits)
            if found is not None:
                options.append((found[0], tuple(q_primes), found[1], levels))
        if options:
            _, primes, special, levels = min(options, key=lambda o: o[0])
            return Chain(primes, special, levels, _top_scale(levels, scale_bits))
        errors.append(f"no special primes fit beside {_union_bits(small, counts)} bits")
    raise ParameterError(f"{what}: {'; '.join(errors)} at n = {n}; use fewer levels or a larger n")


def _counts(totals: list[int], small: int) -> tuple[int, list[tuple[int, int]]] | None:
    """How many large and small primes each level takes."""
    counts = []
    for bits in totals:
        fits = [b for b in range(LARGE) if (bits - small * b) % LARGE == 0 and bits >= small * b]
        if not fits:
            return None
        counts.append(((bits - small * fits[0]) // LARGE, fits[0]))
    return small, counts


def _union_bits(small: int, counts: list[tuple[int, int]]) -> int:
    return LARGE * max(a for a, _ in counts) + small * max(b for _, b in counts)


def _near(bits: int, n: int, count: int) -> tuple[int, ...] | None:
    """The ``count`` primes 1 mod 2n nearest to 2^bits, on a logarithmic scale, within a factor of two."""
    found = [k * 2 * n + 1 for k in range(1, (2 << bits) // (2 * n) + 1)]
    primes = sorted((q for q in found if q > 1 << (bits - 1) and is_prime(q)), key=lambda q: abs(math.log2(q) - bits))
    return tuple(primes[:count]) if len(primes) >= count else None


def digit_groups(q_primes: tuple[int, ...], p_primes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Sizes of the digits into which consecutive ``q_primes`` fall, as few as the special primes allow; None: impossible.

    Noise of a key switch below half that of a rescale: P / max digit >= 2 sqrt(15.75 dnum alpha), alpha the largest
    number of primes in a digit.
    """
    for count in range(1, 15):
        room = math.log2(math.prod(p_primes)) - 1
        groups: list[int] = []
        bits = math.inf
        for q in q_primes:
            size = groups[-1] + 1 if groups else 1
            if bits + math.log2(q) > room - math.log2(15.75 * count * size) / 2:
                groups.append(0)
                bits, size = 0.0, 1
                if math.log2(q) > room - math.log2(15.75 * count) / 2:
                    return None
            groups[-1] += 1
            bits += math.log2(q)
        if len(groups) <= count and max(groups) <= 32:
            return tuple(groups)
    return None


def transforms(limbs: int, dropped: int, special: int, digits: int) -> int:
    """Transforms of a product with relinearisation and rescale: the cost that special primes are chosen by."""
    return digits * (limbs + special) + 2 * (special + dropped) + 2 * limbs


def _special(
    n: int, q_primes: tuple[int, ...], levels: tuple[tuple[int, ...], ...], spare: tuple[int, ...], security: int,
    digits: int,
) -> tuple[int, tuple[int, ...]] | None:  # fmt: skip
    top, modulus = levels[-1], math.prod(q_primes)
    best: tuple[int, tuple[int, ...]] | None = None
    for count in range(1, 31):
        for bits in range(LARGE, 24, -1):
            some = spare[:count] if bits == LARGE else _below(bits, n, count, q_primes)
            if len(some) < count or (security and security_level(n, modulus * math.prod(some)) < security):
                continue
            groups = digit_groups(q_primes, some)
            if groups is None or len(groups) < digits:
                break
            used = [q_primes.index(q) for q in top]
            edges = [sum(groups[: d + 1]) for d in range(len(groups))]
            met = len({next(d for d, e in enumerate(edges) if u < e) for u in used})
            cost = transforms(len(top), 2, count, met)
            if best is None or cost < best[0]:
                best = (cost, some)
            break
    return best


@cache
def _below(bits: int, n: int, count: int, taken: tuple[int, ...]) -> tuple[int, ...]:
    found: list[int] = []
    candidate = (1 << bits) - 2 * n + 1
    while len(found) < count and candidate > 1 << (bits - 1):
        if candidate not in taken and is_prime(candidate):
            found.append(candidate)
        candidate -= 2 * n
    return tuple(found)


def step(levels: tuple[tuple[int, ...], ...], level: int) -> Fraction:
    """What a rescale from ``level`` divides by."""
    return Fraction(math.prod(levels[level]), math.prod(levels[level - 1]))


def _top_scale(levels: tuple[tuple[int, ...], ...], scale_bits: int) -> Fraction:
    """The scale whose square at every level leads to the next, about 2^scale_bits at level 0: from below, by roots."""
    scale = Fraction(1 << scale_bits)
    for level in range(1, len(levels)):
        square = scale * step(levels, level)
        scale = Fraction(math.isqrt(math.floor(square * (1 << 2 * _PRECISION))), 1 << _PRECISION)
    return scale


def scales(levels: tuple[tuple[int, ...], ...], top: Fraction) -> tuple[Fraction, ...]:
    """The scale of every level: ``s_(l-1) = s_l^2 / step_l``, so that products stay on it, whatever the primes.

    Rounded to 2^-160; the error doubles at each level and stays below 2^-100 for 50 levels.
    """
    out = [top]
    for level in range(len(levels) - 1, 0, -1):
        exact = out[0] ** 2 / step(levels, level)
        out.insert(0, Fraction(round(exact * (1 << _PRECISION)), 1 << _PRECISION))
    return tuple(out)
