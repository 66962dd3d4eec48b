"""Dose reduction in the projection domain: the noise that fewer photons add to a slice, and nothing else.

Model (parallel beam): ``y = Poisson(k I0 exp(-p)) + N(0, sigma_e^2)``, p the line integrals of the slice, k the dose
fraction; filtered back-projection with a named kernel. The slice already carries the noise of its own full dose, so
only the difference is added: the photons of dose k are a random subset of those of the full dose (thinning), which
makes the variance of the added noise exactly that of dose k minus that of the full dose. Reprojection blurs nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hegpu.ct import projector
from hegpu.ct.hounsfield import check
from hegpu.errors import ParameterError

F64 = npt.NDArray[np.float64]
MU_WATER_PER_MM = 0.0192  # at about 70 keV
I0 = 2e5
ELECTRONIC_VARIANCE = 10.0
KERNELS = ("ramp", "shepp-logan", "cosine", "hamming", "hann")  # sharp to smooth
KERNEL = "hann"


class Scan:
    """The line integrals of one slice, and reconstruction of what is wrong with them.

    ``hu`` is ``[H, W]`` in HU, sides of at least 11, ``pixel_spacing_mm`` the distance of its pixels. As many views as
    pixels across. ``device``: None projects with scikit-image, "cpu" and "cuda" with torch; the noise is the same up
    to rounding. Raises ``ParameterError``, ``ImageError`` and, where torch or the GPU is missing, ``BackendError``. A
    512 x 512 slice takes one to two seconds on one core, each reconstruction one.
    """

    def __init__(self, hu: Any, pixel_spacing_mm: float, kernel: str = KERNEL, device: str | None = None) -> None:
        self.image = check("Scan", hu)
        if min(self.image.shape) < 11 or self.image.min() < -2000 or not 0 < pixel_spacing_mm < 100:
            raise ParameterError(
                f"Scan: a slice of {self.image.shape}, spacing {pixel_spacing_mm} mm; use slices of at least 11x11 "
                "with HU above -2000 and a spacing of 0 to 100 mm"
            )
        if kernel not in KERNELS:
            raise ParameterError(f"Scan: the kernel {kernel!r} is unknown; use one of {', '.join(KERNELS)}")
        self.kernel, self.device, self.mu = kernel, device, MU_WATER_PER_MM * pixel_spacing_mm
        side = max(self.image.shape)
        self.place = tuple(slice((side - own) // 2, (side - own) // 2 + own) for own in self.image.shape)
        square = np.full((side, side), -1000.0)
        square[self.place] = self.image
        y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
        # The corners outside the inscribed circle are air to the scanner; projection needs them to be zero.
        attenuation = np.where(np.hypot(x, y) <= side / 2 - 1, np.maximum(square / 1000 + 1, 0) * self.mu, 0)
        self.angles = np.linspace(0, 180, side, endpoint=False)
        self.integrals = self._project(attenuation)

    def _project(self, attenuation: F64) -> F64:
        if self.device is not None:
            sinogram = projector.project(projector.to_device(attenuation, self.device), self.angles)
            return np.asarray(sinogram.cpu().numpy(), np.float64)
        from skimage.transform import radon

        return np.asarray(radon(attenuation, self.angles, circle=True), np.float64)

    def reconstruct(self, error: F64) -> F64:
        """The change in HU ``[H, W]`` that an error of the line integrals ``[bins, views]`` makes."""
        return np.asarray(self._backproject(error)[self.place] * (1000 / self.mu), np.float64)

    def _backproject(self, sinogram: F64) -> F64:
        side = max(self.image.shape)
        if self.device is not None:
            moved = projector.to_device(sinogram, self.device)
            return np.asarray(projector.backproject(moved, self.angles, self.kernel, side).cpu().numpy(), np.float64)
        from skimage.transform import iradon

        image = iradon(sinogram, self.angles, filter_name=self.kernel, circle=False, output_size=side)
        return np.asarray(image, np.float64)

    def full_noise(self, i0: float, electronic_variance: float, rng: np.random.Generator) -> F64:
        """The noise in HU of a scan with ``i0`` photons a ray."""
        counts = rng.poisson(i0 * np.exp(-self.integrals)) + rng.normal(
            0, np.sqrt(electronic_variance), self.integrals.shape
        )
        return self.reconstruct(-np.log(np.maximum(counts, 1) / i0) - self.integrals)

    def added_noise(self, dose: float, i0: float, electronic_variance: float, rng: np.random.Generator) -> F64:
        """The noise in HU that the fraction ``dose`` of ``i0`` photons has beyond that of all of them."""
        photons = i0 * np.exp(-self.integrals)
        kept, lost = rng.poisson(dose * photons), rng.poisson((1 - dose) * photons)
        electronic = rng.normal(0, np.sqrt(electronic_variance * (1 - dose**2)), photons.shape)
        low = np.maximum(kept + electronic, 1) / dose
        return self.reconstruct(-np.log(low / np.maximum(kept + lost, 1)))


def lower_dose(
    hu: Any,
    pixel_spacing_mm: float,
    dose: float,
    *,
    seed: int | Sequence[int],
    i0: float = I0,
    electronic_variance: float = ELECTRONIC_VARIANCE,
    kernel: str = KERNEL,
    device: str | None = None,
) -> F64:
    """The slice ``hu`` ``[H, W]`` as a scan with the fraction ``dose`` (0, 1] of its photons would show it.

    ``i0``: photons a ray at full dose (``hegpu.ct.noise.calibrate`` finds that of a series). ``kernel``: one of
    ``KERNELS``. ``device``: see :class:`Scan`. The same ``seed`` gives the same slice. The logarithm of few photons,
    n = dose I0 exp(-p) a ray, is biased upwards by about 1 / 2n, as in a real scanner: +0.4 HU within 18 cm of water
    at 5 %, tens of HU where n falls below about 10; below about 2 the floor of one photon turns it downwards.
    """
    slices = lower_doses(
        hu, pixel_spacing_mm, (dose,), seed=seed, i0=i0, electronic_variance=electronic_variance, kernel=kernel,
        device=device,
    )  # fmt: skip
    return np.asarray(slices[0], np.float64)


def lower_doses(
    hu: Any,
    pixel_spacing_mm: float,
    doses: Sequence[float],
    *,
    seed: int | Sequence[int],
    i0: float = I0,
    electronic_variance: float = ELECTRONIC_VARIANCE,
    kernel: str = KERNEL,
    device: str | None = None,
) -> F64:
    """:func:`lower_dose` for several doses, ``[dose, H, W]``, with the line integrals computed once."""
    seeds = (seed,) if isinstance(seed, int) else tuple(seed)
    if (
        len(doses) == 0
        or not all(0 < dose <= 1 for dose in doses)
        or not 1 < i0 < 1e12
        or not 0 <= electronic_variance < 1e6
        or not all(part >= 0 for part in seeds)
    ):
        raise ParameterError(
            f"lower_dose: doses {list(doses)}, I0 {i0}, electronic variance {electronic_variance}, seed {seed}; use "
            "one or more 0 < dose <= 1, 1 < I0 < 1e12, a variance of 0 to 1e6 and seeds of at least 0"
        )
    scan = Scan(hu, pixel_spacing_mm, kernel, device)
    return np.stack(
        [
            scan.image + scan.added_noise(dose, i0, electronic_variance, np.random.default_rng((*seeds, index)))
            for index, dose in enumerate(doses)
        ]
    )
