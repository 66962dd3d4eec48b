"""From a path to low- and normal-dose pairs, with a progress bar: the way that training and evaluation share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hegpu.ct.collection import read_collection
from hegpu.ct.phantom import phantom
from hegpu.ct.series import Series
from hegpu.ct.simulate import Pairs, pairs_of

DOSES = (0.25, 0.10, 0.05)
PHANTOM_I0 = 2e5


def bars(console: Console) -> Progress:
    """The progress bar of every long step."""
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                    console=console)  # fmt: skip


def phantom_series(count: int = 6, size: int = 192, slices: int = 4) -> list[Series]:
    """Random phantoms as series, each a patient of its own, for users with no data."""
    return [
        Series(
            f"phantom-{number}",
            f"phantom-{number}",
            np.stack([phantom((size, size), seed=slices * number + z) for z in range(slices)]).astype(np.float32),
            (1.8, 1.8),
            (),
            facts={"citation": "random phantom of hegpu"},
        )
        for number in range(count)
    ]


def load_series(data: Path | None) -> list[Series]:
    """The series of a collection, phantoms where ``data`` is None."""
    return phantom_series() if data is None else read_collection(data)


def low_dose_pairs(
    series: Sequence[Series],
    console: Console,
    *,
    doses: Sequence[float] = DOSES,
    i0: float | None = None,
    seed: int = 0,
) -> list[Pairs]:
    """Low and normal dose of every series, simulated where it is not measured. A calibrated I0 is printed."""
    loaded = []
    with bars(console) as progress:
        task = progress.add_task("simulating low dose")
        for one in series:
            progress.update(task, description=f"simulating {one.name}", completed=0, total=len(one.hu))
            pair = pairs_of(one, doses, i0=i0, seed=seed, workers=os.cpu_count() or 1,
                            progress=lambda _, done, total: progress.update(task, completed=done, total=total))  # fmt: skip
            progress.update(task, completed=len(one.hu), total=len(one.hu))
            if pair.calibration and i0 is None:
                c = pair.calibration
                progress.console.print(f"{one.name}: noise in uniform tissue {c.measured_hu:.1f} HU, simulated "
                                       f"{c.simulated_hu:.1f} HU with I0 = {c.i0:.3g} photons a ray", highlight=False)  # fmt: skip
            loaded.append(pair)
    return loaded
