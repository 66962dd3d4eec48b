"""Ciphertexts and plaintexts in batches."""

import math
from dataclasses import dataclass
from fractions import Fraction

from hegpu.backend.protocol import U32, Moduli
from hegpu.ckks.params import Parameters


@dataclass(frozen=True, slots=True, eq=False)
class Ciphertext:
    """``data`` ``[batch..., poly, limb, n]``: degree ``poly - 1`` in the secret, limbs modulo ``params.levels[level]``.

    level       -- how many rescales are left
    scale       -- units per 1.0, exact
    fingerprint -- of the public key, 16 bytes
    noise       -- estimated root mean square error of a slot, in units of the slots' values
    bound       -- what the slots' absolute values are promised to stay below; only the estimate depends on it
    evaluations -- the domain: evaluations (the usual one) or coefficients
    """

    data: U32
    params: Parameters
    level: int
    scale: Fraction
    fingerprint: bytes
    noise: float
    bound: float
    evaluations: bool = True

    @property
    def moduli(self) -> Moduli:
        return self.params.levels[self.level]

    @property
    def degree(self) -> int:
        """In the secret: 1, or 2 for a product that has not been relinearised."""
        return int(self.data.shape[-3]) - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the batch."""
        return tuple(self.data.shape[:-3])

    @property
    def remaining_bits(self) -> float:
        """log2 of the modulus over the scale, less one for the sign: values beyond 2^remaining_bits wrap."""
        return self.params.level_bits[self.level] - log2(self.scale) - 1

    @property
    def noise_budget(self) -> float:
        """Estimated bits after the point that are right in every slot: ``-log2(16 noise)``.

        A rounding error times the secret's slot is a product of two Gaussians, far from one: it passes eight root mean
        squares in one of a million slots, sixteen in one of 10^13.
        """
        return -math.log2(16 * self.noise) if self.noise else math.inf


@dataclass(frozen=True, slots=True, eq=False)
class Plaintext:
    """``data`` ``[batch..., limb, n]`` residues modulo ``moduli`` of a polynomial encoded at ``scale``.

    ``bound``: the largest absolute value encoded, where it is known.
    """

    data: U32
    moduli: Moduli
    scale: Fraction
    evaluations: bool
    bound: float = math.inf


def log2(x: Fraction) -> float:
    """Of a fraction whose parts may exceed float64."""
    return math.log2(x.numerator) - math.log2(x.denominator)
