"""The training loop: deterministic with a seed, resumable after a kill, the same on CPU and GPU."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hegpu.ct.hounsfield import WINDOWS
from hegpu.ct.metrics import compare
from hegpu.ct.simulate import Pairs
from hegpu.errors import BackendError, FormatError, ModelError, ParameterError
from hegpu.files import write_atomic
from hegpu.nets.description import Layer, Network
from hegpu.nets.family import make, widen
from hegpu.nets.file import network_bytes
from hegpu.nets.lifting import lift
from hegpu.nets.torch_net import TorchNetwork, run_torch
from hegpu.train.config import TrainConfig
from hegpu.train.patches import Batch, Patches

CHECKPOINT = "checkpoint.pt"
WARM_UP = 0.05
SPIKE = 20.0
RANGE_SHARE = 4  # ranges are watched and penalised on a quarter of each batch, which is enough and costs less
CLAMP = 1.5  # times the range limit; a trained network stays below it, so the clamp changes nothing in the end
Progress = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Schedule:
    """How often, in steps, to save and to validate, and on which device to compute."""

    save_every: int = 200
    validate_every: int = 200
    device: str = "cpu"


def train(
    config: TrainConfig,
    pairs: Sequence[Pairs],
    held: Sequence[Pairs],
    out: Path,
    *,
    start: Network | None = None,
    schedule: Schedule | None = None,
    progress: Progress | None = None,
    stop_after: int | None = None,
) -> tuple[Network, list[dict[str, float]]]:
    """Train a network of the family; returns it, not yet rounded, and its curves (one record a validation).

    ``out`` receives ``checkpoint.pt``; a run that finds one goes on from there and ends with the same weights as one
    that was never stopped. ``start``: a network to begin from, widened to ``config.width`` where it is narrower.
    ``stop_after``: leave after that many steps of this call. Raises ``ParameterError`` when the checkpoint belongs to
    another configuration, ``FormatError`` when it is damaged, ``BackendError`` for a device that is not here.
    """
    schedule = schedule or Schedule()
    torch.use_deterministic_algorithms(True)
    device = check_device(schedule.device)
    net = first_network(config, start)
    module = TorchNetwork(net).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(module.parameters(), lr=config.peak_lr, betas=(0.9, 0.99))
    patches, history, first, usual = Patches(pairs, config), list[dict[str, float]](), 0, math.inf
    path, identity = out / CHECKPOINT, _identity(config, pairs, start)
    if path.exists():
        state = _load(path, identity)
        try:
            module.load_state_dict(state["module"])
            optimiser.load_state_dict(state["optimiser"])
            first, history, usual = int(state["step"]), [dict(one) for one in state["history"]], float(state["usual"])
        except Exception as cause:  # torch raises many kinds
            raise FormatError(f"train: {path} does not fit its own description ({cause!r:.100}); remove it") from cause
    losses, largest, skipped = list[float](), 0.0, 0
    for step in range(first, config.steps):
        if stop_after is not None and step - first >= stop_after:
            break
        rounded = config.fraction_bits is not None and step >= config.steps * (1 - config.rounded_share)
        module.fraction_bits = config.fraction_bits if rounded else None
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step)
        loss, penalty, peak = _losses(module, patches.batch(step), config, device, config.bfloat16(step))
        value = float(loss.detach())
        optimiser.zero_grad()
        (loss + penalty).backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(module.parameters(), config.clip))
        if math.isfinite(value) and math.isfinite(norm) and value < SPIKE * usual:
            optimiser.step()
            usual = value if math.isinf(usual) else 0.98 * usual + 0.02 * value
        else:
            skipped += 1
        losses.append(value)
        largest = max(largest, peak)
        done = step + 1
        if done % schedule.validate_every == 0 or done == config.steps:
            record = {"step": float(done), "loss": float(np.mean(losses)), "largest_pre_activation": largest,
                      "skipped_steps": float(skipped), **validate(module, held)}  # fmt: skip
            history.append(record)
            losses, largest, skipped = [], 0.0, 0
            if progress:
                progress(record)
        if done % schedule.save_every == 0 or done == config.steps:
            _save(path, identity, module, optimiser, done, history, usual)
    module.fraction_bits = None
    return module.network(), history


def check_device(name: str) -> torch.device:
    """The device by name. Raises ``BackendError`` where it is not here."""
    if name != "cpu" and not (re.fullmatch(r"cuda(:\d+)?", name) and torch.cuda.is_available()):
        raise BackendError(
            f"train: the device {name!r:.40} is not here (torch {torch.__version__}, CUDA "
            f"{'available' if torch.cuda.is_available() else 'not available'}); use 'cpu', or 'cuda' with a GPU and a CUDA build of torch"
        )
    if name != "cpu":
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # cuBLAS is deterministic only with a fixed workspace
    return torch.device(name)


def first_network(config: TrainConfig, start: Network | None) -> Network:
    """The network that training begins with. Raises ``ParameterError`` where ``start`` does not fit."""
    fresh = make(config.kind, config.width, config.depth, seed=config.seed, lifting=config.lifting)
    if start is None:
        return fresh
    fits = len(start.layers) == config.depth and start.layers[0].activation == fresh.layers[0].activation
    wide = start if not fits or start.layers == fresh.layers else widen(start, config.width, seed=config.seed)
    if (
        (wide.residual, wide.border) != (fresh.residual, fresh.border)
        or wide.layers != fresh.layers
        or wide.lifting != fresh.lifting
    ):
        raise ParameterError(
            f"train: {start.name!r} cannot start a {config.kind} of width {config.width} and depth {config.depth}; "
            "give a network of the same kind, depth and input planes that is no wider"
        )
    return Network(fresh.name, fresh.layers, wide.weights, start.hu_offset, start.hu_scale, fresh.border,
                   fresh.phases, fresh.lifting, fresh.residual)  # fmt: skip


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then half a cosine."""
    warm = max(1, round(config.steps * WARM_UP))
    if step < warm:
        return config.peak_lr * (step + 1) / warm
    return config.peak_lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm)))


def _losses(
    module: TorchNetwork, batch: Batch, config: TrainConfig, device: torch.device, half: bool
) -> tuple[Tensor, Tensor, float]:
    """The square error relative to the low dose's, half in the full range and half in the window, the range penalty, and the largest pre-activation."""
    net = module.net
    planes = np.stack([lift(net.lifting, low.astype(np.float64), net.hu_offset, net.hu_scale) for low in batch.low])
    x = torch.from_numpy(planes.astype(np.float32)).to(device).contiguous(memory_format=torch.channels_last)
    base = torch.from_numpy(batch.low).to(device) if net.residual else torch.tensor(net.hu_offset, device=device)
    excess, peaks = list[Tensor](), list[Tensor]()

    def observe(layer: Layer, before: Tensor, after: Tensor) -> None:
        some = before[: max(1, len(before) // RANGE_SHARE)]
        peaks.append(some.detach().abs().amax())
        if config.levelled and config.range_weight:
            excess.append(F.softshrink(some.float(), config.range_limit).square().mean())

    # Past a patch's edge there is nothing to see: its outer pixels are left out of the loss, and zeros, which cost
    # less than wrapping, stand in for what the others miss.
    border = "zero" if net.border == "slot-wrap" else "unpadded"
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        y = module(x, observe, border, CLAMP * config.range_limit if config.levelled else None)
    m = config.margin
    inner = slice(m, batch.low.shape[1] - m)
    hu = (base + y[:, 0].float() * net.hu_scale)[:, inner, inner]
    target, weight = torch.from_numpy(batch.full).to(device)[:, inner, inner], torch.from_numpy(batch.weight).to(device)
    low, high = WINDOWS["abdomen"]
    errors = torch.stack([hu - target, hu.clamp(low, high) - target.clamp(low, high)])
    loss = 0.5 * (errors.square().mean(dim=(2, 3)) * weight).sum(dim=0).mean()
    penalty = config.range_weight * torch.stack(excess).sum() if excess else torch.zeros((), device=device)
    return loss, penalty, float(torch.stack(peaks).amax())


def validate(module: TorchNetwork, held: Sequence[Pairs], crop: int = 256, edge: int = 20) -> dict[str, float]:
    """PSNR in dB in the abdomen window, before and after, on the middle of the middle slice of every held series, at
    its highest dose; ``edge`` pixels, which see past the crop, do not count.
    """
    before, after = list[float](), list[float]()
    for pair in held:
        z, dose = len(pair.full) // 2, int(np.argmax(pair.doses))
        rows, columns = pair.full.shape[1:]
        top, left = max(0, (rows - crop) // 2), max(0, (columns - crop) // 2)
        window = (slice(top, top + crop), slice(left, left + crop))
        low, full = pair.low[dose, z][window].astype(np.float64), pair.full[z][window].astype(np.float64)
        try:
            result = run_torch(module, low)
        except ModelError:  # it diverged; the curve says so
            result = np.full(low.shape, np.nan)
        if min(full.shape) > 2 * edge + 11:
            result, low, full = (image[edge:-edge, edge:-edge] for image in (result, low, full))
        before.append(compare(low, full).psnr_db if (low != full).any() else 99.0)
        after.append(compare(result, full).psnr_db if np.isfinite(result).all() else float("nan"))
    return {"psnr_low_db": float(np.mean(before)), "psnr_db": float(np.mean(after))} if held else {}


def _identity(config: TrainConfig, pairs: Sequence[Pairs], start: Network | None) -> dict[str, Any]:
    """What a checkpoint belongs to. Its data are named by content, so that no run goes on with a patient held out from it."""
    digest = hashlib.blake2b(digest_size=16)
    for pair in pairs:
        digest.update(f"{pair.name} {pair.doses} {pair.low.shape}".encode() + pair.full.tobytes() + pair.low.tobytes())
    origin = hashlib.blake2b(network_bytes(start), digest_size=16).hexdigest() if start else ""
    return {"config": config.to_json(), "training data": digest.hexdigest(), "start": origin}


def _save(
    path: Path,
    identity: dict[str, Any],
    module: TorchNetwork,
    optimiser: torch.optim.Optimizer,
    step: int,
    history: list[dict[str, float]],
    usual: float,
) -> None:
    buffer = io.BytesIO()
    torch.save({**identity, "step": step, "module": module.state_dict(),
                "optimiser": optimiser.state_dict(), "history": history, "usual": usual}, buffer)  # fmt: skip
    write_atomic(path, buffer.getvalue())


def _load(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        found = {key: state[key] for key in wanted}
        differing = [key for key, value in wanted["config"].items() if found["config"].get(key) != value]
        complete = all(key in state for key in ("step", "module", "optimiser", "history", "usual"))
    except Exception as cause:  # pickle, zip and torch raise many kinds
        raise FormatError(f"train: {path} is no readable checkpoint ({cause!r:.100}); remove it") from cause
    if not complete:
        raise FormatError(f"train: {path} is incomplete; remove it")
    if found != wanted:
        names = [*differing, *(key for key in ("training data", "start") if found[key] != wanted[key])]
        raise ParameterError(
            f"train: {path} belongs to a run with another {', '.join(names)}; use the same options to go on, or "
            "another folder"
        )
    return state
