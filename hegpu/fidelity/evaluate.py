"""Fidelity of denoisers against the normal dose: tables, noise spectra and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hegpu.ct.hounsfield import HU_MAX, HU_MIN, WINDOWS
from hegpu.ct.metrics import compare
from hegpu.ct.noise import power_spectrum, uniform_tissue
from hegpu.ct.simulate import Pairs
from hegpu.fidelity.baselines import Denoiser
from hegpu.nets.description import Network

F64 = NDArray[np.float64]
REGIONS = ("window", "full", "window_inner", "full_inner")
INNER = 20
LOW_DOSE = "low dose"


def denoiser(net: Network) -> Denoiser:
    """``net`` by torch where it is installed, by NumPy otherwise."""
    try:
        from hegpu.nets.torch_net import TorchNetwork, run_torch
    except ModuleNotFoundError:
        from hegpu.nets.plaintext import run

        return lambda hu: run(net, hu)
    module = TorchNetwork(net)
    return lambda hu: run_torch(module, hu)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """``table``: one row a (model, dose, series, slice, region) with ``psnr_db``, ``ssim``, ``rmse_hu``; ``spectra``: mm^-1 and HU^2 mm^2 by model, of the first series at its highest dose; ``examples``: one slice by model, its lowest dose."""

    table: pd.DataFrame
    spectra: Mapping[str, tuple[F64, F64]]
    examples: Mapping[str, F64]
    example_dose: float

    def summary(self, region: str = "window") -> pd.DataFrame:
        """Mean and standard deviation over slices, and the gain in PSNR over the low dose, by dose and model."""
        rows = self.table[self.table.region == region]
        low = rows[rows.model == LOW_DOSE].set_index(["dose", "series", "slice"]).psnr_db
        gain = rows.psnr_db.to_numpy() - low.loc[list(zip(rows.dose, rows.series, rows.slice, strict=True))].to_numpy()
        grouped = rows.assign(gain_db=gain).groupby(["dose", "model"], sort=False)
        result = grouped.agg(
            psnr_db=("psnr_db", "mean"), psnr_sd=("psnr_db", "std"), gain_db=("gain_db", "mean"),
            ssim=("ssim", "mean"), ssim_sd=("ssim", "std"), rmse_hu=("rmse_hu", "mean"), rmse_sd=("rmse_hu", "std"),
            slices=("rmse_hu", "count"),
        )  # fmt: skip
        return result.reset_index().sort_values(["dose", "psnr_db"], ascending=[False, True])


def evaluate(
    models: Mapping[str, Denoiser],
    pairs: Sequence[Pairs],
    *,
    every: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Run every model on every ``every``-th slice and dose of ``pairs``.

    Regions: the abdomen window [-160, 240] HU and the full range, over the whole slice and without its outer 20
    pixels ("inner"), where a network sees past the border.
    """
    rows, spectra_fields, examples, example_dose = (
        list[dict[str, object]](),
        dict[str, list[F64]](),
        dict[str, F64](),
        0.0,
    )
    jobs = [(pair, d, z) for pair in pairs for d in range(len(pair.doses)) for z in range(0, len(pair.full), every)]
    for done, (pair, d, z) in enumerate(jobs):
        full, low = pair.full[z].astype(np.float64), pair.low[d, z].astype(np.float64)
        middle = pair is pairs[0] and z == (len(pair.full) // 2) // every * every
        if middle and d == int(np.argmin(pair.doses)):
            examples["normal dose"], example_dose = full, pair.doses[d]
        for name, model in ((LOW_DOSE, _unchanged), *models.items()):
            result = model(low)
            facts = {"model": name, "dose": pair.doses[d], "series": pair.name, "slice": z}
            rows.extend({**facts, "region": region, **_metrics(result, full, region)} for region in REGIONS)
            if middle and d == int(np.argmin(pair.doses)):
                examples[name] = result
            if pair is pairs[0] and d == int(np.argmax(pair.doses)):
                spectra_fields.setdefault(name, []).extend(_tissue_error(result, full))
        if progress:
            progress(pair.name, done + 1, len(jobs))
    spectra = {
        name: power_spectrum(fields, pairs[0].spacing_mm, 32) for name, fields in spectra_fields.items() if fields
    }
    return Evaluation(pd.DataFrame(rows), spectra, examples, example_dose)


def _unchanged(hu: F64) -> F64:
    return hu


def _metrics(result: F64, full: F64, region: str) -> dict[str, float]:
    if region.endswith("inner"):
        if min(full.shape) < 2 * INNER + 11:
            return {"psnr_db": float("nan"), "ssim": float("nan"), "rmse_hu": float("nan")}
        result, full = (image[INNER:-INNER, INNER:-INNER] for image in (result, full))
    m = compare(result, full, WINDOWS["abdomen"] if region.startswith("window") else (HU_MIN, HU_MAX))
    return {"psnr_db": m.psnr_db, "ssim": m.ssim, "rmse_hu": m.rmse_hu}


def _tissue_error(result: F64, full: F64, size: int = 32, most: int = 8) -> list[F64]:
    """Square pieces of ``result - full`` where the tissue of ``full`` is uniform."""
    try:
        _, (mask,) = uniform_tissue([full])
    except ValueError:
        return []
    share = [
        (float(mask[y : y + size, x : x + size].mean()), y, x)
        for y in range(0, full.shape[0] - size + 1, size // 2)
        for x in range(0, full.shape[1] - size + 1, size // 2)
    ]
    best = sorted(share, reverse=True)[:most]
    return [(result - full)[y : y + size, x : x + size] for fraction, y, x in best if fraction > 0.5]


def spread(mean: float, deviation: float, digits: int) -> str:
    """``mean ± deviation``; the mean alone for a single slice, which has no deviation."""
    return f"{mean:.{digits}f}" + ("" if np.isnan(deviation) else f" ± {deviation:.{digits}f}")


def markdown(evaluation: Evaluation) -> str:
    """The table of the window and the full range, mean and standard deviation over slices, as Markdown."""
    head = (
        "Mean ± standard deviation over slices; clipped to the window [-160, 240] HU (data range 400) or to the full "
        "range [-1024, 3071]; Gaussian SSIM 11x11, sigma 1.5."
    )
    columns = "| dose | model | slices | PSNR window [dB] | gain | SSIM | RMSE [HU] | PSNR full [dB] | gain | SSIM | RMSE [HU] | gain without the outer 20 pixels, window / full |"
    lines = [head, "", columns, "|" + "---|" * 12]
    tables = {region: evaluation.summary(region).set_index(["dose", "model"]) for region in REGIONS}
    for key in tables["window"].index:
        cells = [f"{key[0]:.0%}", str(key[1]), str(int(tables["window"].loc[key].slices))]
        for region in ("window", "full"):
            row = tables[region].loc[key]
            cells += [spread(row.psnr_db, row.psnr_sd, 2), f"{row.gain_db:+.2f}", f"{row.ssim:.4f}",
                      spread(row.rmse_hu, row.rmse_sd, 2)]  # fmt: skip
        cells.append(" / ".join(f"{tables[f'{region}_inner'].loc[key].gain_db:+.2f}" for region in ("window", "full")))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_report(evaluation: Evaluation, out: Path) -> list[Path]:
    """``fidelity.csv``, ``summary.csv``, ``fidelity.png``, ``spectrum.png`` and ``panel.png`` in the folder ``out``."""
    from hegpu.fidelity import plots

    out.mkdir(parents=True, exist_ok=True)
    evaluation.table.to_csv(out / "fidelity.csv", index=False, float_format="%.5g")
    summary = pd.concat([evaluation.summary(region).assign(region=region) for region in REGIONS])
    summary.to_csv(out / "summary.csv", index=False, float_format="%.5g")
    plots.gains(evaluation, out / "fidelity.png")
    plots.spectra(evaluation, out / "spectrum.png")
    plots.panel(evaluation, out / "panel.png")
    return [out / name for name in ("fidelity.csv", "summary.csv", "fidelity.png", "spectrum.png", "panel.png")]
