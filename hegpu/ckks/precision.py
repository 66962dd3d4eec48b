"""Precision as a distribution, not one number."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hegpu.errors import ParameterError


@dataclass(frozen=True)
class Precision:
    """Bits per slot, ``-log2 |error|``: errors in units of 1.0, at most 60 bits counted."""

    min: float
    median: float
    mean: float
    max: float
    slots: int

    def __str__(self) -> str:
        return (
            f"precision of {self.slots} slots in bits: min {self.min:.2f}, median {self.median:.2f}, "
            f"mean {self.mean:.2f}, max {self.max:.2f}"
        )


def precision(values: npt.ArrayLike, expected: npt.ArrayLike) -> Precision:
    """How many bits after the point of ``values`` agree with ``expected`` (same shape; complex: of the absolute error)."""
    got, want = np.asarray(values, np.complex128), np.asarray(expected, np.complex128)
    if got.shape != want.shape or not got.size:
        raise ParameterError(f"precision: shapes {got.shape} and {want.shape} must be equal and not empty")
    bits = -np.log2(np.maximum(np.abs(got - want), 2.0**-60))
    return Precision(float(bits.min()), float(np.median(bits)), float(bits.mean()), float(bits.max()), bits.size)
