"""Classical denoisers of scikit-image, to hold networks against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hegpu.ct.hounsfield import HU_MAX, HU_MIN
from hegpu.ct.noise import uniform_tissue
from hegpu.errors import ImageError

F64 = NDArray[np.float64]
Denoiser = Callable[[F64], F64]
CLASSICAL = ("non-local means", "wavelets", "total variation")
STRENGTH = {
    "non-local means": 0.8,
    "wavelets": 0.7,
    "total variation": 0.6,
}  # the best on training series at 25 and 10 %


def classical(name: str) -> Denoiser:
    """A baseline of scikit-image by name, one of ``CLASSICAL``, tuned by the noise in the tissue of the slice it is given."""
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

    def denoise(hu: F64) -> F64:
        x = (hu - HU_MIN) / (HU_MAX - HU_MIN)
        sigma = max(noise_level(hu) / (HU_MAX - HU_MIN), 1e-5)
        if name == "non-local means":
            y = denoise_nl_means(
                x, patch_size=5, patch_distance=6, h=STRENGTH[name] * sigma, sigma=sigma, fast_mode=True
            )
        elif name == "wavelets":
            y = denoise_wavelet(x, sigma=STRENGTH[name] * sigma, method="BayesShrink", mode="soft", rescale_sigma=True)
        else:
            y = denoise_tv_chambolle(x, weight=STRENGTH[name] * sigma)
        return np.asarray(y * (HU_MAX - HU_MIN) + HU_MIN, np.float64)

    return denoise


def noise_level(hu: F64) -> float:
    """The noise of a slice in HU: in its soft tissue where it has some, over the whole slice otherwise."""
    from skimage.restoration import estimate_sigma

    try:
        return uniform_tissue([hu])[0]
    except ImageError:
        return float(estimate_sigma(hu))
