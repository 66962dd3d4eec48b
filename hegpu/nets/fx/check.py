"""Compares an imported network with its module on random slices."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hegpu.ct.hounsfield import HU_MAX, HU_MIN
from hegpu.errors import ModelError
from hegpu.nets.description import Network, growth
from hegpu.nets.lifting import lift
from hegpu.nets.torch_net import run_torch

TOLERANCE = 1e-5


def compare(module: nn.Module, net: Network) -> None:
    """Run both on random slices in float64; raises ``ModelError`` where they differ by more than ``TOLERANCE``."""
    low = min(growth(net.layers).values()) if net.border == "unpadded" else 0
    shape = max(48, 24 - 2 * low), max(52, 28 - 2 * low)
    for amplitude in (1.0, 0.03):
        spread = np.random.default_rng(0).uniform(-1, 1, shape) * max(HU_MAX - HU_MIN, net.hu_scale)
        hu = net.hu_offset + amplitude * spread
        expected = _run(module, lift(net.lifting, hu, net.hu_offset, net.hu_scale))
        if np.isfinite(expected).all():
            break
    else:
        raise ModelError("the module's result on a random slice is not finite; train it on a wider range")
    result = (run_torch(net, hu, dtype=torch.float64) - (hu if net.residual else net.hu_offset)) / net.hu_scale
    rounding = 1e-12 * (abs(net.hu_offset) + float(np.abs(hu).max())) / net.hu_scale
    size, difference = float(np.abs(expected).max()), float(np.abs(result - expected).max())
    if not difference <= TOLERANCE * size + rounding:
        raise ModelError(
            f"imported network differs from the module by {difference:.3g} where its results reach {size:.3g}; "
            "write in-place operations on shared tensors, hooks and custom attributes as plain layers"
        )


def _run(module: nn.Module, planes: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        with torch.inference_mode():
            result = module(torch.from_numpy(planes[np.newaxis].copy()))
    except Exception as error:
        raise ModelError(
            f"the module fails on a float64 slice of shape {planes.shape} ({str(error)[:200]}); make it run first"
        ) from error
    if result.shape != (1, 1, *planes.shape[1:]):
        raise ModelError(f"the module turns planes {planes.shape} into {tuple(result.shape)}; keep the size")
    array: NDArray[np.float64] = result[0, 0].to(torch.float64).numpy()
    return array
