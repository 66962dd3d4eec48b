"""One scan in memory, and what every reader of scans shares."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hegpu.ct.dicom import MAX_SIDE
from hegpu.ct.hounsfield import HU_MAX, HU_MIN
from hegpu.errors import ImageError

MAX_SLICES = 4096


@dataclass(frozen=True, eq=False)
class Series:
    """A scan at normal dose, and its low-dose partner where there is one.

    ``name`` is unique in its collection and safe as a file name; collections are split by ``patient``, never by slice.
    ``hu`` float32 ``[z, y, x]`` in [-1024, 3071] HU, feet to head; ``spacing_mm`` between rows, between columns;
    ``z_mm`` one per slice, ascending, or () when unknown. ``low`` is the scan at the fraction ``dose`` of the photons,
    of the shape of ``hu``; None where the dose is to be simulated. ``facts`` holds technical facts and attribution
    only; ``facts["clipped"]`` and ``facts["clipped_low"]`` count the pixels that the clipping changed.
    """

    name: str
    patient: str
    hu: NDArray[np.float32]
    spacing_mm: tuple[float, float]
    z_mm: tuple[float, ...]
    low: NDArray[np.float32] | None = None
    dose: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


def check_shape(what: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """``shape`` as [z, y, x] within the limits. ``what`` names the scan. Errors: :class:`ImageError`."""
    if len(shape) != 3 or not 1 <= shape[0] <= MAX_SLICES or not all(1 <= side <= MAX_SIDE for side in shape[1:]):
        raise ImageError(
            f"read_collection: {what} has the shape {tuple(shape)}; a scan is [z, y, x] with 1..{MAX_SLICES} slices and "
            f"sides of 1..{MAX_SIDE}; cut or resample it"
        )
    return int(shape[0]), int(shape[1]), int(shape[2])


def clipped(what: str, slices: Iterable[NDArray[Any]], shape: tuple[int, int, int]) -> tuple[NDArray[np.float32], int]:
    """The ``slices`` (each ``[y, x]``, HU, real numbers) in a float32 stack clipped to [-1024, 3071], and how many pixels that changed.

    Errors: :class:`ImageError` on NaN or infinity.
    """
    stack, changed = np.empty(shape, np.float32), 0
    for z, values in enumerate(slices):
        hu = values.astype(np.float64)
        if not np.isfinite(hu).all():
            raise ImageError(
                f"read_collection: slice {z} of {what} holds NaN or infinity; replace them by {HU_MIN} HU (air)"
            )
        changed += int(((hu < HU_MIN) | (hu > HU_MAX)).sum())
        stack[z] = np.clip(hu, HU_MIN, HU_MAX)
    return stack, changed


def check_spacing(what: str, spacing: Sequence[Any]) -> tuple[float, float]:
    """``spacing`` between rows and between columns in mm. Errors: :class:`ImageError` unless both lie in (0, 100)."""
    try:
        rows, columns = (float(value) for value in spacing)
    except (TypeError, ValueError):
        rows = columns = 0.0
    if not (0 < rows < 100 and 0 < columns < 100):
        raise ImageError(
            f"read_collection: {what} has the pixel spacing {spacing!r:.80}; two numbers in (0, 100) mm are needed; "
            "correct it"
        )
    return rows, columns


def safe_names(wanted: Sequence[str], identities: Sequence[str]) -> list[str]:
    """``wanted`` as file names that differ even where case is ignored; ties are broken by a hash of the identity."""
    names = [re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip(".")[:80] or "series" for text in wanted]
    keys = [name.lower() for name in names]
    return [
        name if keys.count(key) == 1 else f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
        for name, key, identity in zip(names, keys, identities, strict=True)
    ]
