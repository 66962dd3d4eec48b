"""Measured noise: in uniform tissue of a slice, as a spectrum, and the photon count that explains it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hegpu.ct.dose import ELECTRONIC_VARIANCE, I0, KERNEL, Scan
from hegpu.ct.hounsfield import check
from hegpu.errors import ImageError

F64 = npt.NDArray[np.float64]
NEIGHBOURHOOD = 9
TISSUE_HU = (0.0, 120.0)


def local_moments(image: F64, size: int = NEIGHBOURHOOD) -> tuple[F64, F64]:
    """Mean and standard deviation of the ``size`` x ``size`` neighbourhood of every pixel."""
    from scipy.ndimage import uniform_filter

    mean = uniform_filter(image, size)
    variance = uniform_filter((image - image.mean()) ** 2, size) - (mean - image.mean()) ** 2
    return mean, np.sqrt(np.maximum(variance, 0) * size**2 / (size**2 - 1))


def uniform_tissue(slices: Sequence[Any]) -> tuple[float, list[npt.NDArray[np.bool_]]]:
    """The noise of slices ``[y, x]`` of one series, in HU, and the pixels it was read from.

    The global noise level of Christianson et al. (AJR 2015): over soft tissue, the most frequent standard deviation of
    a 9 x 9 neighbourhood; structure only makes larger ones. The pixels are those within 20 % of it. Raises
    ``ImageError`` where there is too little soft tissue.
    """
    deviations, tissues = [], []
    for hu in slices:
        image = check("uniform_tissue", hu)
        mean, deviation = local_moments(image)
        tissue = (mean > TISSUE_HU[0]) & (mean < TISSUE_HU[1])
        deviations.append(deviation)
        tissues.append(tissue)
    values = np.concatenate([d[t] for d, t in zip(deviations, tissues, strict=True)]) if deviations else np.zeros(0)
    if values.size < 500:
        raise ImageError(
            f"uniform_tissue: {values.size} pixels of soft tissue ({TISSUE_HU[0]:.0f} to {TISSUE_HU[1]:.0f} HU); the "
            "noise cannot be measured; give the photon count I0 (--i0)"
        )
    counts, edges = np.histogram(values, bins=200, range=(0.0, float(np.percentile(values, 90)) + 1e-6))
    smooth = np.convolve(counts, np.hanning(13), mode="same")
    peak = int(smooth.argmax())
    level = float(edges[peak] + edges[peak + 1]) / 2
    least = 0.8 * level if peak else 0.0  # an image without noise has its peak in the first bin
    chosen = [t & (d >= least) & (d <= 1.2 * level) for d, t in zip(deviations, tissues, strict=True)]
    return level, chosen


@dataclass(frozen=True)
class Calibration:
    """``i0`` photons a ray at full dose; the noise in uniform tissue, HU, measured and as simulated with ``i0``."""

    i0: float
    measured_hu: float
    simulated_hu: float


def calibrate(
    slices: Sequence[Any],
    pixel_spacing_mm: float,
    *,
    kernel: str = KERNEL,
    electronic_variance: float = ELECTRONIC_VARIANCE,
    seed: int = 0,
    device: str | None = None,
) -> Calibration:
    """The I0 at which simulated full-dose noise equals the noise in uniform tissue of these slices ``[y, x]``.

    Two to four slices of a series are enough. Raises ``ImageError`` where there is too little soft
    tissue, or where no photon count explains its noise.
    """
    measured, pixels = uniform_tissue(slices)
    scans = [Scan(hu, pixel_spacing_mm, kernel, device) for hu in slices]

    def simulated(i0: float) -> float:
        rng = np.random.default_rng(seed)
        fields = [scan.full_noise(i0, electronic_variance, rng) for scan in scans]
        values = [local_moments(field)[1][mask] for field, mask in zip(fields, pixels, strict=True)]
        return float(np.median(np.concatenate(values)))

    i0, noise = I0, simulated(I0)
    for _ in range(3):
        if abs(noise / measured - 1) < 0.01:
            break
        i0 = float(np.clip(i0 * (noise / measured) ** 2, 1e3, 1e9))
        noise = simulated(i0)
    if abs(noise / measured - 1) > 0.1:
        raise ImageError(
            f"calibrate: no I0 from 1e3 to 1e9 explains {measured:.1f} HU of noise in uniform tissue ({noise:.1f} HU at "
            f"I0 = {i0:.3g}); give the photon count I0 (--i0)"
        )
    return Calibration(i0, measured, noise)


def power_spectrum(fields: Sequence[F64], pixel_spacing_mm: float, size: int = 64) -> tuple[F64, F64]:
    """Radial noise power spectrum: spatial frequencies in 1/mm and power in HU^2 mm^2, averaged over tiles.

    ``fields`` are noise images ``[y, x]`` in HU, each cut into half-overlapping ``size`` x ``size`` tiles; a tile's
    mean is taken off (ICRU report 87).
    """
    total, count = np.zeros((size, size)), 0
    for noise in fields:
        for top in range(0, noise.shape[0] - size + 1, size // 2):
            for left in range(0, noise.shape[1] - size + 1, size // 2):
                tile = noise[top : top + size, left : left + size]
                total += np.abs(np.fft.fft2(tile - tile.mean())) ** 2
                count += 1
    if count == 0:
        raise ImageError(f"power_spectrum: no field holds a {size}x{size} tile; give larger fields or a smaller size")
    power = total / count * (pixel_spacing_mm / size) ** 2
    frequency = np.fft.fftfreq(size, pixel_spacing_mm)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    step = 1 / (size * pixel_spacing_mm)
    ring = np.rint(radius / step).astype(int)
    rings = size // 2 + 1
    sums = np.bincount(ring.ravel(), power.ravel(), minlength=rings)[:rings]
    mean = sums / np.bincount(ring.ravel(), minlength=rings)[:rings]
    return np.asarray(np.arange(rings) * step, np.float64), np.asarray(mean, np.float64)
