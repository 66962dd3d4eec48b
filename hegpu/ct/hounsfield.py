"""Hounsfield units (HU): water 0, air -1000."""

from typing import Any

import numpy as np
import numpy.typing as npt

from hegpu.errors import ImageError

HU_MIN, HU_MAX = -1024, 3071  # the 12 bits of a CT scanner
WINDOWS: dict[str, tuple[int, int]] = {
    "abdomen": (-160, 240),
    "chest": (-1350, 150),
    "full": (HU_MIN, HU_MAX),
}


def check(operation: str, hu: Any) -> npt.NDArray[np.float64]:
    """A finite float64 slice ``[H, W]``. Errors: :class:`ImageError`."""
    array = np.asarray(hu)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iuf":
        raise ImageError(
            f"{operation}: a slice is a 2-D array of numbers, not {array.dtype}{array.shape}; pick one slice"
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ImageError(f"{operation}: the slice holds NaN or infinity; replace them by {HU_MIN} HU (air)")
    return array


def clip(hu: Any) -> tuple[npt.NDArray[np.float64], int]:
    """``hu`` ``[H, W]`` clipped to [-1024, 3071] as float64, and how many pixels that changed."""
    array = check("clip", hu)
    clipped = np.clip(array, HU_MIN, HU_MAX)
    return clipped, int((clipped != array).sum())
