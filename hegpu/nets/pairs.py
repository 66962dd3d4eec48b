"""Pairs of low-dose and full-dose slices to fit a network to, split by patient."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hegpu.ct.dose import lower_dose
from hegpu.ct.phantom import phantom
from hegpu.errors import ImageError

HELD_OUT = "crlm_1006"
PHANTOM_SPACING_MM = 0.7
Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Split:
    """``(low-dose, full-dose)`` slices ``[y, x]`` in HU: to fit on, and of other patients to judge the fit by."""

    train: list[Pair]
    held: list[Pair]


def npz_split(path: Path, dose: float, slices: int) -> Split:
    """Some slices of every series of ``path``, evenly spaced; the held-out patient is ``crlm_1006``.

    ``path`` holds int16 series ``[z, y, x]`` in HU; the JSON beside it gives the pixel spacing in mm. ``dose`` is the
    fraction simulated, with a fixed seed per slice. Raises ``ImageError`` for a file that is not of this form.
    """
    try:
        described = json.loads(path.with_suffix(".json").read_text())["volumes"]
        spacing = {volume["key"]: float(volume["pixel_spacing_mm"][0]) for volume in described}
        split = Split([], [])
        with np.load(path, allow_pickle=False) as series:
            for number, key in enumerate(sorted(series.files)):
                volume = series[key]
                count = min(slices, len(volume))
                for z in np.linspace(0, len(volume) - 1, count + 2).round().astype(int)[1:-1]:
                    full = volume[z].astype(np.float64)
                    low = lower_dose(full, spacing[key], dose, seed=1000 * number + int(z))
                    (split.held if key == HELD_OUT else split.train).append((np.asarray(low, np.float64), full))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageError(
            f"npz_split {path}: the series or the JSON beside it cannot be read ({error}); give an npz of series "
            "[z, y, x] in HU with pixel_spacing_mm per series in a JSON of the same name"
        ) from error
    return split


def phantom_split(dose: float, shape: tuple[int, int] = (128, 128)) -> Split:
    """Eight phantoms to fit on and four others, at the fraction ``dose``."""
    pairs: list[Pair] = []
    for seed in range(12):
        full = np.asarray(phantom(shape, seed=seed), np.float64)
        pairs.append((np.asarray(lower_dose(full, PHANTOM_SPACING_MM, dose, seed=seed), np.float64), full))
    return Split(pairs[:8], pairs[8:])
