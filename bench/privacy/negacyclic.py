"""Estimating a ternary secret from noisy real linear equations: conjugate gradients over FFTs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
C128 = npt.NDArray[np.complex128]
TRIT_VARIANCE = 2 / 3


@dataclass(frozen=True)
class Products:
    """``s -> (r_i s mod X^n + 1)`` at chosen coefficients, for many polynomials ``r`` ``[..., n]``, and its adjoint."""

    spectra: C128
    positions: npt.NDArray[np.int64]

    @staticmethod
    def of(r: F64, positions: npt.NDArray[np.int64]) -> "Products":
        return Products(np.fft.fft(r * _twist(r.shape[-1])), positions)

    def apply(self, s: F64) -> F64:
        n = s.shape[-1]
        product = np.fft.ifft(self.spectra * np.fft.fft(s * _twist(n))) * _twist(n).conj()
        return np.ascontiguousarray(product.real[..., self.positions])

    def adjoint(self, y: F64) -> F64:
        n = self.spectra.shape[-1]
        full = np.zeros((*y.shape[:-1], n))
        full[..., self.positions] = y
        total = (self.spectra.conj() * np.fft.fft(full * _twist(n))).reshape(-1, n).sum(axis=0)
        return np.asarray((np.fft.ifft(total) * _twist(n).conj()).real)


def _twist(n: int) -> C128:
    return np.asarray(np.exp(1j * np.pi * np.arange(n) / n))


def estimate(
    apply: Callable[[F64], F64], adjoint: Callable[[F64], F64], observed: F64, noise: float, n: int, steps: int = 60
) -> F64:
    """The least-squares secret, a priori of variance 2/3, from ``observed = A s + noise`` (its variance)."""
    ridge = noise / TRIT_VARIANCE
    x, residual = np.zeros(n), adjoint(observed)
    direction, size = residual.copy(), float(residual @ residual)
    least = 1e-20 * size
    for _ in range(steps):
        image = apply(direction)
        step = size / (float((image * image).sum()) + ridge * float(direction @ direction))
        x = x + step * direction
        residual = residual - step * (adjoint(image) + ridge * direction)
        following = float(residual @ residual)
        if following <= least:
            break
        direction, size = residual + following / size * direction, following
    return x


def to_trits(x: F64, ratio: float) -> npt.NDArray[np.int64]:
    """The nearest trits, after undoing the shrinking of an estimate whose signal-to-noise ratio a trit is ``ratio``."""
    gain = ratio / (ratio + 1 / TRIT_VARIANCE)
    return np.clip(np.rint(x / max(gain, 1e-12)), -1, 1).astype(np.int64)
