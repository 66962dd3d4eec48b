"""From data on disk to a network file with its card: what ``hegpu train`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hegpu.ct.collection import split_by_patient
from hegpu.ct.loading import PHANTOM_I0, bars, load_series, low_dose_pairs
from hegpu.ct.series import Series
from hegpu.ct.simulate import Pairs
from hegpu.errors import ModelError, ParameterError
from hegpu.fidelity.baselines import Denoiser
from hegpu.fidelity.evaluate import denoiser, evaluate, markdown
from hegpu.fidelity.plots import curves
from hegpu.files import write_atomic
from hegpu.nets.description import Network
from hegpu.nets.file import save_network
from hegpu.nets.torch_net import round_weights
from hegpu.train.card import model_card
from hegpu.train.config import TrainConfig
from hegpu.train.linear import fit_linear, weighted_slices
from hegpu.train.loop import Schedule, check_device, first_network, train
from hegpu.train.ranges import calibrate_ranges


def train_to_file(
    config: TrainConfig,
    out: Path,
    console: Console,
    *,
    data: Path | None = None,
    held: Sequence[str] = (),
    start: Network | None = None,
    name: str | None = None,
    device: str = "cpu",
    every: int = 4,
    i0: float | None = None,
    save_every: int = 200,
) -> Network:
    """Train, round, calibrate the ranges and evaluate; the folder ``out`` receives ``<name>.safetensors``, its card
    ``<name>.md``, ``curves.png`` and ``checkpoint.pt``, from which a stopped run goes on.
    """
    out.mkdir(parents=True, exist_ok=True)
    check_device(device)
    first = first_network(config, start)
    name = dataclasses.replace(first, name=name or first.name).name  # a bad name is refused now, not after hours
    loaded = _data(data, held, console, i0)
    with bars(console) as progress:
        task = progress.add_task("training", total=config.steps)

        def report(record: dict[str, float]) -> None:
            progress.update(task, completed=int(record["step"]))
            progress.console.print("  ".join(f"{key} {value:.4g}" for key, value in record.items()), highlight=False)

        net, history = train(config, loaded.pairs, loaded.validation, out, start=start,
                             schedule=Schedule(save_every, save_every, device), progress=report)  # fmt: skip
    net = dataclasses.replace(net, name=name)
    models = {}
    if config.fraction_bits is not None:
        models["before rounding"] = denoiser(net)
        net = round_weights(net, config.fraction_bits)
    try:
        net = calibrate_ranges(net, loaded.pairs)
    except ModelError as error:  # the training is not lost for it, but no encrypted executor will take the network
        console.print(f"no ranges are recorded: {error}", highlight=False, markup=False)
    models[net.name] = denoiser(net)
    recipe = config.recipe(start)
    _ship(net, recipe, models, loaded, out, console, every)
    curves(history, out / "curves.png")
    return net


def fit_to_file(
    out: Path,
    console: Console,
    *,
    data: Path | None = None,
    held: Sequence[str] = (),
    name: str = "linear",
    every: int = 4,
    i0: float | None = None,
) -> Network:
    """The linear denoiser, fitted in closed form; ``out`` receives ``<name>.safetensors`` and its card."""
    out.mkdir(parents=True, exist_ok=True)
    loaded = _data(data, held, console, i0)
    with console.status("fitting"):
        net = fit_linear(weighted_slices(loaded.pairs), name=name)
    recipe = "One affine filter, least squares over every second slice at every dose, symmetric under the 8 symmetries of the square."
    _ship(net, recipe, {name: denoiser(net)}, loaded, out, console, every)
    return net


@dataclass(frozen=True, eq=False)
class Data:
    """What a network is trained on, what it is validated on, and the series of both."""

    pairs: list[Pairs]
    validation: list[Pairs]
    series: list[Series]


def _data(data: Path | None, held: Sequence[str], console: Console, i0: float | None) -> Data:
    series = load_series(data)
    if data is None and not held:
        held = (series[-1].patient,)
    if not held:
        patients = ", ".join(sorted({one.patient for one in series}))
        raise ParameterError(f"train: no patient is held out; name some of {patients} with --held")
    i0 = i0 or (PHANTOM_I0 if data is None else None)
    train_on, validate_on = split_by_patient(series, held)
    return Data(
        low_dose_pairs(train_on, console, i0=i0),
        low_dose_pairs(validate_on, console, i0=i0),
        series,
    )


def _ship(
    net: Network,
    recipe: str,
    models: Mapping[str, Denoiser],
    data: Data,
    out: Path,
    console: Console,
    every: int,
) -> None:
    with bars(console) as progress:
        task = progress.add_task("evaluating")
        result = evaluate(models, data.validation, every=every,
                          progress=lambda _, done, total: progress.update(task, completed=done, total=total))  # fmt: skip
    used = f"One in {every} slices of the validation series. " if every > 1 else ""
    card = model_card(net, recipe, data.pairs, data.validation, data.series, used + markdown(result))
    save_network(net, out / f"{net.name}.safetensors")
    write_atomic(out / f"{net.name}.md", card.encode())
