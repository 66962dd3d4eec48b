"""Ciphertexts in batches."""

from dataclasses import dataclass
from fractions import Fraction

from hegpu.backend.protocol import U32, Moduli
from hegpu.ckks.params import Parameters


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """``data`` ``[batch..., poly, limb, n]``: degree ``poly - 1`` in the secret; limbs modulo ``moduli``.

    ``scale``: units per 1.0, exact. ``evaluations``: the domain. ``fingerprint``: of the public key, 16 bytes.
    """

    data: U32
    params: Parameters
    moduli: Moduli
    scale: Fraction
    evaluations: bool
    fingerprint: bytes

    @property
    def level(self) -> int:
        """How many rescales by one prime are left."""
        return len(self.moduli) - 1


@dataclass(frozen=True, slots=True)
class Plaintext:
    """``data`` ``[batch..., limb, n]`` residues of an encoded polynomial at ``scale``."""

    data: U32
    moduli: Moduli
    scale: Fraction
    evaluations: bool
