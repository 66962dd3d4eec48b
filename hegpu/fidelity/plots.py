"""The pictures of an evaluation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hegpu.ct.hounsfield import WINDOWS
from hegpu.files import write_atomic

if TYPE_CHECKING:
    from hegpu.fidelity.evaluate import Evaluation

COLOURS = ("#555555", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#bcbd22")
MARKERS = "os^Dv<>Pph*"


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    write_atomic(path, buffer.getvalue())


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def gains(evaluation: Evaluation, path: Path) -> None:
    """PSNR gained over the low dose, by dose and model, mean over slices."""
    figure = _figure(11, 4.6)
    for axis, region, title in zip(
        figure.subplots(1, 2), ("window", "full"), ("window [-160, 240] HU", "full range"), strict=True
    ):
        summary = evaluation.summary(region)
        models = [name for name in dict.fromkeys(evaluation.table.model) if name != "low dose"]
        doses = sorted(set(summary.dose), reverse=True)
        for number, model in enumerate(models):
            rows = summary[summary.model == model].set_index("dose")
            x = np.arange(len(doses)) + (number - (len(models) - 1) / 2) * 0.8 / max(1, len(models))
            axis.bar(x, rows.gain_db[doses].where(np.isfinite), 0.75 / max(1, len(models)), label=model,
                     color=COLOURS[number % len(COLOURS)])  # fmt: skip
        axis.set_xticks(range(len(doses)), [f"{dose:.0%}" for dose in doses])
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(title=title, xlabel="dose", ylabel="PSNR gain over the low dose [dB]")
        axis.grid(axis="y", alpha=0.3)
        if models:
            axis.legend(fontsize=8, loc="upper left")
    _save(figure, path)


def spectra(evaluation: Evaluation, path: Path) -> None:
    """Noise power spectra of what differs from the normal dose in uniform tissue, at the highest dose."""
    figure = _figure(7.5, 4.6)
    axis = figure.subplots()
    for number, (name, (frequency, power)) in enumerate(evaluation.spectra.items()):
        axis.plot(frequency, power, label=name, marker=MARKERS[number % len(MARKERS)], markersize=4,
                  color=COLOURS[number % len(COLOURS)])  # fmt: skip
    axis.set(xlabel="spatial frequency [1/mm]", ylabel="power [HU² mm²]", xlim=(0, None), ylim=(0, None),
             title="difference to the normal dose in uniform tissue of the first series")  # fmt: skip
    axis.grid(alpha=0.3)
    if evaluation.spectra:
        axis.legend(fontsize=8)
    else:
        axis.text(0.5, 0.5, "no uniform tissue in these slices", ha="center", transform=axis.transAxes)
    _save(figure, path)


def panel(evaluation: Evaluation, path: Path) -> None:
    """One slice by every model at its lowest dose, in the abdomen window."""
    low, high = WINDOWS["abdomen"]
    names = list(evaluation.examples)
    columns = min(4, max(1, len(names)))
    rows = -(-len(names) // columns)
    figure = _figure(3.2 * columns, 3.4 * rows + 0.4)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, name in zip(axes, names, strict=False):
        axis.imshow(evaluation.examples[name], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(name, fontsize=9)
    figure.suptitle(
        f"dose {evaluation.example_dose:.0%}, window [{low}, {high}] HU. Research software, not a medical device."
    )
    _save(figure, path)


def curves(history: list[dict[str, float]], path: Path) -> None:
    """Loss, PSNR and the largest pre-activation of a training run, against its steps."""
    figure = _figure(12, 3.6)
    steps = [record["step"] for record in history]
    panels = (("loss", "loss"), ("psnr_db", "PSNR [dB], window [-160, 240] HU"),
              ("largest_pre_activation", "largest |pre-activation|"))  # fmt: skip
    for axis, (key, label) in zip(figure.subplots(1, 3), panels, strict=True):
        axis.plot(steps, [record.get(key, float("nan")) for record in history], marker="o", markersize=3)
        if key == "psnr_db" and "psnr_low_db" in history[0]:
            axis.axhline(history[0]["psnr_low_db"], color="grey", linestyle="--", label="low dose")
            axis.legend(fontsize=8)
        if key != "psnr_db":
            axis.set_yscale("log")
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
    _save(figure, path)
