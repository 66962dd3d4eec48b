"""Estimates of noise: root mean squares of a slot's error, in units of the slots' values.

A polynomial with independent coefficients of standard deviation sigma has slots of root mean square ``sqrt(n) sigma``
(canonical embedding; Cheon, Kim, Kim, Song, ASIACRYPT 2017, section 3.2). Errors are CBD(21), variance 10.5; ternary
secrets have variance 2/3.
"""

import math
from fractions import Fraction
from functools import lru_cache

from hegpu.ckks.params import Parameters

ERROR = 10.5
SECRET = 2 / 3
ENCODING = math.sqrt(1 / 12)  # coefficients of a plaintext, rounded to integers


def slots(n: int, sigma: float) -> float:
    """Of coefficients of standard deviation ``sigma``."""
    return math.sqrt(n) * sigma


def public(n: int, special: int) -> float:
    """Coefficients of a public-key encryption, ``(e u + e0 + e1 s) / P`` and the division's rounding."""
    return math.hypot(math.sqrt(ERROR * (2 * SECRET * n + 1)) / special, rounding(n))


def symmetric() -> float:
    return math.sqrt(ERROR)


def rounding(n: int) -> float:
    """Coefficients of a rescale: both polynomials rounded to integers, uniform in [-1/2, 1/2]."""
    return math.sqrt((SECRET * n + 1) / 12)


def product(x: float, x_bound: float, y: float, y_bound: float) -> float:
    """Of a product. The terms are added as if they had one sign: in powers they have."""
    return x_bound * y + y_bound * x + x * y


@lru_cache(maxsize=512)
def key_switch(params: Parameters, level: int) -> float:
    """Coefficients of a key switch at ``level``, before the division's rounding: ``sum_d digit_d e_d / P``."""
    at, variance, live = 0, 0.0, set(params.levels[level])
    special = math.log2(math.prod(params.p_primes))
    for size in params.digits:
        group = math.prod(q for q in params.q_primes[at : at + size] if q in live)
        variance += params.n * ERROR / 12 * 4 ** (math.log2(group) - special) if group > 1 else 0.0
        at += size
    return math.sqrt(variance)


def switched(params: Parameters, noise: float, source: int, level: int, scale: Fraction) -> float:
    """Of slots, after a key switch from ``source`` to ``level`` of a ciphertext of ``scale`` and ``noise``."""
    added = slots(params.n, key_switch(params, source)) / float(scale)
    after = float(scale) if level == source else float(scale) / params.step_sizes[source]
    return math.hypot(noise, added, slots(params.n, rounding(params.n)) / after)
