"""What the ``linear`` protocol's modulus must hold: weights, image, flooding; and the error that results.

With integers w = round(k 2^f) of the filter, a pixel at scale Sx (units per HU) comes out at scale Sx 2^f. Inputs are
encoded as HU - CENTRE, so |x| <= 2048. Noise of a fresh ciphertext is CBD(21), so the output carries
``sigma_in = sqrt(10.5) |w|_2``, which depends on the filter and which the client, who knows its own noise, could read.
Flooding of ``sigma = 0.4 2^LAMBDA sigma_in sqrt(coefficients released)`` hides it statistically, |w|_2 being taken at a
bound for all filters alike (a width that followed the filter told it apart in bench/privacy) (facts of the design:
noise flooding, Gaussian-like sum of 8 uniform words).
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hegpu.ckks.params import Parameters
from hegpu.errors import BudgetError

CENTRE = 1024  # HU subtracted before encoding: the middle of [-1024, 3071], which saves one bit of modulus
HALF_RANGE = 2048
LAMBDA = 40
LARGEST = 12 * 1024  # HU that a filter may reach, |input| at most 2048: weights of 1-norm 5 or so
NORM = 1.0  # 2-norm of a filter's weights at most: true of what averages
MAX_WEIGHT_BITS = 28
MIN_WEIGHT_BITS = 12
VARIANCE = 10.5  # of CBD(21)


@dataclass(frozen=True, slots=True)
class Budget:
    """Fixed-point filter and what it costs. ``rms_hu`` is the predicted difference to the clear filter."""

    weights: npt.NDArray[np.int64]
    weight_bits: int
    constant_hu: float
    flood_bits: int
    rms_hu: float


def plan_budget(kernel: npt.NDArray[np.float64], bias_hu: float, params: Parameters, released: int) -> Budget:
    """Fixed point for a filter, and the flooding for ``released`` output coefficients: both of :func:`public_bits`.

    ``kernel`` ``[K, K]`` and ``bias_hu`` map HU to HU. Errors: :class:`BudgetError` for a filter beyond the public bounds
    and for parameters that leave fewer than 12 bits.
    """
    bits, flood_bits = public_bits(params, released)
    constant = CENTRE * (float(kernel.sum()) - 1.0) + bias_hu
    largest = HALF_RANGE * float(np.abs(kernel).sum()) + abs(constant) + 1.0
    norm = float(np.sqrt((kernel**2).sum()))
    if largest > LARGEST or norm > NORM * (1 + 1e-6):
        raise BudgetError(
            f"linear: there is no room for this filter (outputs up to {largest:.5g} HU, root of the sum of squares "
            f"{norm:.4g}); it may reach {LARGEST} HU and {NORM:g}, bounds for all filters alike, since what follows a "
            "filter would tell it; use a filter of smaller gain"
        )
    scale = params.scale * 2**bits
    q, last = math.prod(params.q_primes), params.q_primes[0]
    switched = scale * Fraction(last, q)
    switch_variance = (2 * params.n / 3 + 1 + 4.0**params.c0_drop_down) / 12
    variance = (math.sqrt(2 / 3) * 2.0**flood_bits / float(scale)) ** 2 + switch_variance / float(switched) ** 2
    return Budget(fixed_point(kernel, bits), bits, constant, flood_bits, math.sqrt(variance))


def public_bits(params: Parameters, released: int) -> tuple[int, int]:
    """(bits of a weight, bits of the flooding) from the parameters and the number of coefficients released alone.

    A client sees both: the scale is in the answer's header, the width in its noise. Errors: :class:`BudgetError`.
    """
    q = math.prod(params.q_primes)
    drop_variance = 4.0**params.c0_drop_up / 12 if params.c0_drop_up else 0.0
    for bits in range(MAX_WEIGHT_BITS, MIN_WEIGHT_BITS - 1, -1):
        sigma_in = math.sqrt(VARIANCE + drop_variance) * NORM * 2.0**bits
        sigma = 0.4 * 2.0**LAMBDA * sigma_in * math.sqrt(released)
        flood_bits = math.ceil(math.log2(sigma * math.sqrt(1.5)))
        if flood_bits <= 96 and 2 * (LARGEST * params.scale * 2**bits + 2 ** (flood_bits + 2)) < q:
            return bits, flood_bits
    raise BudgetError(
        f"linear: preset {params.name!r} (log2 q = {math.log2(q):.1f}, scale 2^{math.log2(params.scale):.0f} per HU) "
        f"has no room for {MIN_WEIGHT_BITS} bits of weight and the flooding; use the preset 'linear'"
    )


def fixed_point(kernel: npt.NDArray[np.float64], bits: int) -> npt.NDArray[np.int64]:
    """``round(k 2^bits)``, the roundings chosen so that the sum is right too: an image is locally constant, so the
    sum's error would be the largest part of the filter's."""
    exact = kernel * 2.0**bits
    rounded = np.rint(exact)
    excess = int(np.rint(exact.sum()) - rounded.sum())
    if excess:
        order = np.argsort((exact - rounded).ravel())
        chosen = order[::-1][:excess] if excess > 0 else order[:-excess]
        rounded.ravel()[chosen] += np.sign(excess)
    return rounded.astype(np.int64)
