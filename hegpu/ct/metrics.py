"""Fidelity figures by scikit-image, with their convention named."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hegpu.ct.hounsfield import WINDOWS, check
from hegpu.errors import ImageError


@dataclass(frozen=True, slots=True)
class Metrics:
    """Of one slice, both images clipped to ``window`` HU, data range = its width; Gaussian SSIM, 11 x 11, sigma 1.5."""

    psnr_db: float
    ssim: float
    rmse_hu: float
    window: tuple[int, int]

    @property
    def convention(self) -> str:
        low, high = self.window
        return f"clipped to [{low}, {high}] HU, data range {high - low}, SSIM Gaussian 11x11 sigma 1.5, one slice"


def compare(image: Any, reference: Any, window: tuple[int, int] = (-160, 240)) -> Metrics:
    """``image`` and ``reference`` ``[H, W]`` in HU, at least 11 x 11. Identical images have a PSNR of infinity."""
    from skimage.metrics import structural_similarity

    a, b = check("compare", image), check("compare", reference)
    if a.shape != b.shape or min(a.shape) < 11:
        raise ImageError(f"compare: images of {a.shape} and {b.shape}; they must agree and be at least 11x11")
    low, high = window
    if not low < high:
        raise ImageError(f"compare: the window [{low}, {high}] is empty; give (low, high) in HU")
    a, b = np.clip(a, low, high), np.clip(b, low, high)
    rmse = float(np.sqrt(np.mean((a - b) ** 2)))
    psnr = float("inf") if rmse == 0 else 20 * float(np.log10((high - low) / rmse))
    ssim = structural_similarity(
        a, b, data_range=high - low, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return Metrics(psnr, float(ssim), rmse, window)


__all__ = ["WINDOWS", "Metrics", "compare"]
