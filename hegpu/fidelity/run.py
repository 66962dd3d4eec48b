"""From data and network names to a folder of tables and plots: what ``hegpu evaluate`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hegpu.ct.loading import PHANTOM_I0, bars, load_series, low_dose_pairs
from hegpu.errors import ParameterError
from hegpu.fidelity.baselines import CLASSICAL, Denoiser, classical
from hegpu.fidelity.evaluate import LOW_DOSE, Evaluation, denoiser, evaluate, write_report
from hegpu.nets.file import load_network


def evaluate_to_folder(
    models: Sequence[str],
    out: Path,
    console: Console,
    *,
    data: Path | None = None,
    held: Sequence[str] = (),
    every: int = 1,
    i0: float | None = None,
    baselines: bool = True,
) -> Evaluation:
    """Evaluate networks (shipped names or files) on the series that ``held`` names, all where it names none."""
    if every < 1:
        raise ParameterError(f"evaluate: every {every} is not at least 1")
    out.mkdir(parents=True, exist_ok=True)
    chosen: dict[str, Denoiser] = {}
    for source in models:
        net = load_network(source)
        if net.name in (*chosen, *CLASSICAL, LOW_DOSE):
            raise ParameterError(f"evaluate: two denoisers are named {net.name!r}; give each its own name")
        chosen[net.name] = denoiser(net)
    if baselines:
        chosen = {**{name: classical(name) for name in CLASSICAL}, **chosen}
    series = load_series(data)
    if held:
        known = {one.name for one in series} | {one.patient for one in series}
        if unknown := [name for name in held if name not in known]:
            raise ParameterError(
                f"evaluate: there is no series or patient {unknown[0]!r}; there are {', '.join(sorted(known))}"
            )
        series = [one for one in series if one.name in held or one.patient in held]
    pairs = low_dose_pairs(series, console, i0=i0 or (None if data else PHANTOM_I0))
    with bars(console) as progress:
        task = progress.add_task("evaluating")
        result = evaluate(chosen, pairs, every=every,
                          progress=lambda name, done, total: progress.update(task, description=f"evaluating {name}", completed=done, total=total))  # fmt: skip
    write_report(result, out)
    return result
