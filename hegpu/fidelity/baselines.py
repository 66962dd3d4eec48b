"""Classical denoisers of scikit-image, to hold networks against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hegpu.ct.hounsfield import HU_MAX, HU_MIN, WINDOWS

F64 = NDArray[np.float64]
Denoiser = Callable[[F64], F64]
CLASSICAL = ("non-local means", "wavelets", "total variation")


def classical(name: str) -> Denoiser:
    """A baseline of scikit-image by name, tuned by its own noise estimate: "non-local means", "wavelets", "total variation"."""
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet, estimate_sigma

    def denoise(hu: F64) -> F64:
        low, high = WINDOWS["abdomen"]
        x = (hu - HU_MIN) / (HU_MAX - HU_MIN)
        soft = (np.clip(hu, low, high) - HU_MIN) / (HU_MAX - HU_MIN)  # the noise of tissue, not the edges of bone
        sigma = max(float(estimate_sigma(soft)), 1e-5)
        if name == "non-local means":
            y = denoise_nl_means(x, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, fast_mode=True)
        elif name == "wavelets":
            y = denoise_wavelet(x, sigma=sigma, method="BayesShrink", mode="soft", rescale_sigma=True)
        else:
            y = denoise_tv_chambolle(x, weight=sigma)
        return np.asarray(y * (HU_MAX - HU_MIN) + HU_MIN, np.float64)

    return denoise
