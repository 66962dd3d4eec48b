"""Random patches of low- and full-dose slices. Step t depends on the seed and t alone, so a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hegpu.ct.hounsfield import HU_MAX, HU_MIN, WINDOWS
from hegpu.ct.simulate import Pairs
from hegpu.errors import ImageError
from hegpu.train.config import TrainConfig

F32 = NDArray[np.float32]
BODY_HU = -900.0
TRIES = 10
FLOOR_HU = 5.0
STRESS_WEIGHT = 0.1  # such patches are there for the ranges; their edges must not rule the loss


@dataclass(frozen=True, eq=False)
class Batch:
    """``low`` and ``full`` ``[batch, y, x]`` in HU; ``weight`` ``[2, batch]`` in HU^-2.

    The weights are one over the mean square error of the low-dose slice that a patch was cut from: in the full range,
    and in the abdomen window. So every slice and dose counts alike, as it does in a mean of PSNRs.
    """

    low: F32
    full: F32
    weight: F32


def slice_weights(low: NDArray[np.int16], full: NDArray[np.int16]) -> F32:
    """``[z, 2]``: see ``Batch.weight``; slices with errors below ``FLOOR_HU`` do not count for more."""
    result = []
    for noisy, clean in zip(low.astype(np.float32), full.astype(np.float32), strict=True):
        errors = noisy - clean, np.clip(noisy, *WINDOWS["abdomen"]) - np.clip(clean, *WINDOWS["abdomen"])
        result.append([1 / (float(np.mean(error**2)) + FLOOR_HU**2) for error in errors])
    return np.array(result, np.float32)


def _stress(low: F32, full: F32, rng: np.random.Generator) -> tuple[F32, F32]:
    """The patch with the values that scans hold rarely and ranges must hold always: discs of metal, half planes and
    whole patches of one value, the sharpest edges among them; the patch's noise is kept.
    """
    size, noise = len(full), low - full
    y, x = np.ogrid[:size, :size]
    centre, kind = rng.uniform(0, size, 2), int(rng.integers(3))
    if kind == 0:
        where, value = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= rng.uniform(2, size / 3) ** 2, float(HU_MAX)
    else:
        angle = rng.uniform(0, 2 * np.pi)
        where = np.cos(angle) * (y - centre[0]) + np.sin(angle) * (x - centre[1]) > (0 if kind == 1 else -2 * size)
        value = float(rng.choice([HU_MIN, HU_MAX, rng.uniform(HU_MIN, HU_MAX)]))
        if rng.integers(2):
            full = np.full_like(full, rng.choice([HU_MIN, HU_MAX]))
    full = np.where(where, np.float32(value), full)
    return np.clip(full + noise, HU_MIN, HU_MAX), full


class Patches:
    """Draws batches from ``pairs``: slice, dose (with odds as its root), place and one of the 8 symmetries, each at random.

    Patches of nothing but air are drawn again, up to ten times. Raises ``ImageError`` for slices smaller than a patch.
    """

    def __init__(self, pairs: Sequence[Pairs], config: TrainConfig) -> None:
        small = [p.name for p in pairs if min(p.full.shape[1:]) < config.patch]
        if not pairs or small:
            raise ImageError(
                f"train: {'no series' if not pairs else 'series ' + small[0] + ' has smaller slices than a patch'}; "
                f"give slices of at least {config.patch} pixels a side"
            )
        self.pairs, self.config = list(pairs), config
        self.slices = [(number, z) for number, p in enumerate(pairs) for z in range(len(p.full))]
        self.odds = [np.sqrt(p.doses) / np.sum(np.sqrt(p.doses)) for p in pairs]
        self.weights = [np.stack([slice_weights(low, p.full) for low in p.low]) for p in pairs]

    def batch(self, step: int) -> Batch:
        """The patches of step ``step``."""
        config = self.config
        rng = np.random.default_rng((config.seed, step))
        chosen = [self._patch(rng) for _ in range(config.batch)]
        low, full, weight = zip(*chosen, strict=True)
        return Batch(np.stack(low), np.stack(full), np.stack(weight, axis=1))

    def _patch(self, rng: np.random.Generator) -> tuple[F32, F32, F32]:
        size = self.config.patch
        for _ in range(TRIES):
            number, z = self.slices[int(rng.integers(len(self.slices)))]
            pair = self.pairs[number]
            dose = int(rng.choice(len(pair.doses), p=self.odds[number]))
            top, left = (int(rng.integers(side - size + 1)) for side in pair.full.shape[1:])
            window = (slice(top, top + size), slice(left, left + size))
            full = pair.full[z][window].astype(np.float32)
            if full.mean() > BODY_HU:
                break
        low = pair.low[dose, z][window].astype(np.float32)
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        weight = self.weights[number][dose, z]
        if rng.random() < self.config.stress:
            low, full = _stress(low, full, rng)
            weight = weight * np.float32(STRESS_WEIGHT)
        low, full = (np.rot90(image.T if mirror else image, turns).copy() for image in (low, full))
        return low, full, weight
