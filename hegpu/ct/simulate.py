"""Low-dose versions of whole series, simulated once and kept in a cache that is keyed by content."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hegpu.ct.dose import ELECTRONIC_VARIANCE, KERNEL, lower_doses
from hegpu.ct.hounsfield import HU_MAX, HU_MIN
from hegpu.ct.noise import Calibration, calibrate
from hegpu.ct.series import Series
from hegpu.errors import ImageError
from hegpu.files import write_atomic

VERSION = 1  # raise it when the simulation changes, so that no old slice is taken for a new one
CALIBRATION_SLICES = 3
I16 = npt.NDArray[np.int16]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Pairs:
    """``full`` ``[z, y, x]`` and ``low`` ``[dose, z, y, x]`` of one series, int16 HU in [-1024, 3071]; ``doses`` are fractions.

    ``calibration`` is None where the low dose was measured, not simulated.
    """

    name: str
    patient: str
    full: I16
    low: I16
    doses: tuple[float, ...]
    spacing_mm: float
    calibration: Calibration | None


def cache_folder() -> Path:
    """``$HEGPU_CACHE``, or ``hegpu`` in the user's cache folder."""
    named = os.environ.get("HEGPU_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else (Path(base) if base else Path.home() / ".cache") / "hegpu"


def to_hu16(hu: npt.NDArray[np.floating]) -> I16:
    """Whole HU in [-1024, 3071], as a scanner stores them."""
    return np.asarray(np.clip(np.rint(hu), HU_MIN, HU_MAX), np.int16)


def pairs_of(
    series: Series,
    doses: Sequence[float],
    *,
    i0: float | None = None,
    kernel: str = KERNEL,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
    device: str | None = None,
) -> Pairs:
    """The low-dose slices of one series: its own where it is paired, simulated ones otherwise.

    ``i0``: photons a ray at full dose; None calibrates it to the noise in uniform tissue. Simulated slices come from
    the cache when the same slice, spacing, I0, kernel, doses and seed were simulated before. ``workers`` processes
    share the work (more than one needs a script with a ``__main__`` guard). ``device`` is that of
    :class:`hegpu.ct.dose.Scan`; with one, this process simulates alone. Raises ``ImageError`` where calibration finds
    no soft tissue.
    """
    full = to_hu16(series.hu)
    if series.low is not None:
        if series.dose is None:
            raise ImageError(f"pairs_of {series.name}: the dose of the low-dose scan is unknown; name it in the series")
        return Pairs(series.name, series.patient, full, to_hu16(series.low)[np.newaxis], (series.dose,),
                     series.spacing_mm[0], None)  # fmt: skip
    spacing = series.spacing_mm[0]
    if abs(series.spacing_mm[1] / spacing - 1) > 0.01:
        raise ImageError(
            f"pairs_of {series.name}: pixels of {series.spacing_mm[0]} x {series.spacing_mm[1]} mm; the simulation needs "
            "square ones, resample the series"
        )
    if i0 is None:
        calibration = _calibration(series.name, full, spacing, kernel, device)
    else:
        calibration = Calibration(i0, float("nan"), float("nan"))
    jobs = [(plane, spacing, tuple(doses), calibration.i0, kernel, seed) for plane in full]
    missing = [job for job in jobs if not (cache_folder() / f"{_key(*job)}.npy").is_file()]
    count = workers
    if count == 1 or device is not None or len(missing) < 2:
        for done, job in enumerate(missing):
            _simulate(job, device)
            if progress:
                progress(series.name, done + 1, len(missing))
    else:
        with ProcessPoolExecutor(min(count, len(missing)), mp_context=get_context("spawn")) as pool:
            for done, _ in enumerate(pool.map(_simulate, missing)):
                if progress:
                    progress(series.name, done + 1, len(missing))
    low = np.stack([_simulate(job, device) for job in jobs], axis=1)
    return Pairs(series.name, series.patient, full, low, tuple(doses), spacing, calibration)


Job = tuple[I16, float, tuple[float, ...], float, str, int]


def _key(plane: I16, spacing: float, doses: tuple[float, ...], i0: float, kernel: str, seed: int) -> str:
    facts = json.dumps([VERSION, plane.shape, spacing, doses, i0, kernel, seed, ELECTRONIC_VARIANCE])
    return hashlib.blake2b(facts.encode() + plane.tobytes(), digest_size=16).hexdigest()


def _simulate(job: Job, device: str | None = None) -> I16:
    plane, spacing, doses, i0, kernel, seed = job
    path = cache_folder() / f"{_key(*job)}.npy"
    stored = _stored(path, (len(doses), *plane.shape))
    if stored is not None:
        return stored
    content = int.from_bytes(hashlib.blake2b(plane.tobytes(), digest_size=8).digest(), "little")
    low = to_hu16(lower_doses(plane, spacing, doses, seed=(seed, content), i0=i0, kernel=kernel, device=device))
    buffer = io.BytesIO()
    np.save(buffer, low)
    write_atomic(path, buffer.getvalue())
    return low


def _stored(path: Path, shape: tuple[int, ...]) -> I16 | None:
    """The slices in a file of the cache, None where it is missing or damaged."""
    try:
        stored = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        return np.asarray(stored, np.int16) if stored.dtype == np.int16 and stored.shape == shape else None
    except Exception:  # numpy raises many kinds
        return None


def _calibration(name: str, full: I16, spacing: float, kernel: str, device: str | None) -> Calibration:
    digest = hashlib.blake2b(f"{VERSION} {spacing} {kernel} {full.shape}".encode() + full.tobytes(), digest_size=16)
    path = cache_folder() / f"{digest.hexdigest()}.json"
    try:
        stored = json.loads(path.read_text())
        found = Calibration(float(stored["i0"]), float(stored["measured_hu"]), float(stored["simulated_hu"]))
        if 1 < found.i0 < 1e12:
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    chosen = np.linspace(0, len(full) - 1, min(len(full), CALIBRATION_SLICES) + 2).round().astype(int)[1:-1]
    try:
        result = calibrate([full[z] for z in sorted(set(chosen))], spacing, kernel=kernel, device=device)
    except ImageError as cause:
        raise ImageError(f"pairs_of {name}: {cause}") from cause
    rounded = Calibration(float(f"{result.i0:.3g}"), result.measured_hu, result.simulated_hu)
    write_atomic(path, json.dumps(vars(rounded)).encode())
    return rounded
