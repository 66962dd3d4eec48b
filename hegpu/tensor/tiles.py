"""``CoefficientTiles``: a plane cut into overlapping w x h tiles, pixel (y, x) of a tile at coefficient ``w y + x``.

A valid convolution of a tile is one negacyclic polynomial product: with the kernel reversed at
``w (K-1-dy) + (K-1-dx)`` the output for the window at (y, x) appears at coefficient ``w (y+K-1) + (x+K-1)``;
coefficients whose window leaves the tile hold garbage and are never read.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hegpu.errors import ParameterError

MAX_SIDE = 1024
MAX_HALO = 20
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tiles of ``tile_w`` x ``tile_h`` <= n for an ``height`` x ``width`` plane with ``halo`` pixels around it.

    Each tile yields ``step_w`` x ``step_h`` output pixels; tiles are in row-major order.
    """

    n: int
    height: int
    width: int
    halo: int
    tile_w: int
    tile_h: int

    def __post_init__(self) -> None:
        if not (1 <= self.height <= MAX_SIDE and 1 <= self.width <= MAX_SIDE):
            raise ParameterError(
                f"Tiling: an image of {self.height}x{self.width} is out of range; use sides of 1..{MAX_SIDE}"
            )
        if not 0 <= self.halo <= MAX_HALO:
            raise ParameterError(f"Tiling: halo {self.halo} is out of range; use 0..{MAX_HALO} (kernels up to 41x41)")
        if self.tile_w * self.tile_h > self.n or self.step_w < 1 or self.step_h < 1:
            raise ParameterError(
                f"Tiling: {self.tile_w}x{self.tile_h} tiles do not fit n = {self.n} with a halo of {self.halo}; "
                "use plan() to choose them"
            )

    @property
    def step_w(self) -> int:
        return self.tile_w - 2 * self.halo

    @property
    def step_h(self) -> int:
        return self.tile_h - 2 * self.halo

    @property
    def columns(self) -> int:
        return -(-self.width // self.step_w)

    @property
    def rows(self) -> int:
        return -(-self.height // self.step_h)

    @property
    def tiles(self) -> int:
        return self.rows * self.columns

    def corners(self) -> Iterator[tuple[int, int, int]]:
        """(tile, y, x): the output pixel at which each tile starts."""
        for t in range(self.tiles):
            yield t, t // self.columns * self.step_h, t % self.columns * self.step_w

    def valid_coefficients(self) -> npt.NDArray[np.int64]:
        """Coefficients ``[step_h * step_w]`` of a tile's output pixels, row-major, after a kernel of radius halo."""
        y, x = np.mgrid[0 : self.step_h, 0 : self.step_w]
        return np.asarray(self.tile_w * (y + 2 * self.halo) + x + 2 * self.halo, np.int64).ravel()


def plan(height: int, width: int, halo: int, n: int) -> Tiling:
    """The tiling with the fewest tiles; among equals the fewest output coefficients, then the squarest tile."""
    best: tuple[tuple[int, int, int], Tiling] | None = None
    for tile_w in range(2 * halo + 1, min(n // (2 * halo + 1), width + 2 * halo) + 1):
        tile_h = min(n // tile_w, height + 2 * halo)
        if tile_h <= 2 * halo:
            continue
        t = Tiling(n, height, width, halo, tile_w, tile_h)
        t = Tiling(n, height, width, halo, -(-width // t.columns) + 2 * halo, -(-height // t.rows) + 2 * halo)
        score = (t.tiles, t.tiles * t.step_w * t.step_h, abs(t.tile_w - t.tile_h))
        if best is None or score < best[0]:
            best = (score, t)
    if best is None:
        raise ParameterError(f"plan: no tile with a halo of {halo} fits n = {n}; use a smaller halo or a larger n")
    return best[1]


def cut(plane: npt.NDArray[np.float64], tiling: Tiling) -> F64:
    """``[height, width]`` -> ``[tiles, n]``: the plane, its edge pixels repeated into the halo, cut into tiles."""
    r = tiling.halo
    bottom = tiling.rows * tiling.step_h - tiling.height + r
    right = tiling.columns * tiling.step_w - tiling.width + r
    padded = np.pad(plane, ((r, bottom), (r, right)), mode="edge")
    out = np.zeros((tiling.tiles, tiling.n))
    for t, y, x in tiling.corners():
        out[t, : tiling.tile_w * tiling.tile_h] = padded[y : y + tiling.tile_h, x : x + tiling.tile_w].ravel()
    return out


def assemble(values: F64, tiling: Tiling) -> F64:
    """Output pixels ``[tiles, step_h * step_w]`` -> ``[height, width]``."""
    out = np.empty((tiling.rows * tiling.step_h, tiling.columns * tiling.step_w))
    for t, y, x in tiling.corners():
        out[y : y + tiling.step_h, x : x + tiling.step_w] = values[t].reshape(tiling.step_h, tiling.step_w)
    return np.array(out[: tiling.height, : tiling.width])


def kernel_positions(size: int, tiling: Tiling) -> npt.NDArray[np.uint32]:
    """Where the taps ``[size, size]`` of a kernel go, row-major, so that outputs land on
    :meth:`Tiling.valid_coefficients` whatever the (odd) kernel size up to 2 halo + 1."""
    if size % 2 == 0 or not 1 <= size <= 2 * tiling.halo + 1:
        raise ParameterError(
            f"kernel_positions: a kernel of {size} pixels needs an odd square size of at most "
            f"{2 * tiling.halo + 1} for a halo of {tiling.halo}; encrypt with a larger --halo"
        )
    reach = size - 1 + tiling.halo - size // 2 - np.arange(size)
    return np.asarray(tiling.tile_w * reach[:, None] + reach, np.uint32).ravel()
