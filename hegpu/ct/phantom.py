"""Random anthropomorphic phantoms, for tests and for users with no data."""

import numpy as np
import numpy.typing as npt

from hegpu.errors import ParameterError


def phantom(shape: tuple[int, int], *, seed: int) -> npt.NDArray[np.float64]:
    """An axial body in HU, whole numbers, ``[H, W]``, sides 32..1024: fat, muscle, lungs or organs, spine, vessels."""
    height, width = shape
    if not (type(height) is type(width) is int) or not (32 <= height <= 1024 and 32 <= width <= 1024):
        raise ParameterError(f"phantom: {height}x{width} is out of range; use sides of 32..1024")
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    hu = np.full(shape, -1000.0)

    def ellipse(cy: float, cx: float, ry: float, rx: float, value: float) -> None:
        angle = rng.uniform(-0.3, 0.3)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        hu[(u / rx) ** 2 + (v / ry) ** 2 <= 1] = value

    ry, rx = rng.uniform(0.6, 0.75), rng.uniform(0.75, 0.92)
    ellipse(0, 0, ry, rx, rng.uniform(-110, -80))
    ellipse(0, 0, ry - 0.08, rx - 0.08, rng.uniform(40, 65))
    if rng.random() < 0.5:
        for side in (-1, 1):
            ellipse(rng.uniform(-0.1, 0.05), side * rng.uniform(0.35, 0.42), 0.4, 0.27, rng.uniform(-880, -800))
    else:
        ellipse(-0.05, -0.35, 0.35, 0.33, rng.uniform(90, 120))
        ellipse(0, 0.4, 0.2, 0.17, rng.uniform(100, 130))
    for _ in range(14):
        radius = rng.uniform(0.015, 0.07)
        ellipse(rng.uniform(-0.45, 0.35), rng.uniform(-0.55, 0.55), radius, radius, rng.uniform(-20, 220))
    ellipse(0.42, 0, 0.13, 0.12, rng.uniform(250, 500))
    ellipse(0.42, 0, 0.08, 0.08, rng.uniform(120, 220))
    return np.asarray(np.rint(hu), np.float64)
