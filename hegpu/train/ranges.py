"""Ranges: how large the pre-activations and outputs of a network become, which an encrypted executor's modulus must hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hegpu.ct.hounsfield import HU_MAX, HU_MIN
from hegpu.ct.simulate import Pairs
from hegpu.errors import ModelError
from hegpu.nets.description import Layer, Network
from hegpu.nets.torch_net import TorchNetwork, run_torch

F64 = NDArray[np.float64]
MARGIN = 1.5
METAL_DISCS = 6
LARGEST = 1e9


def measure(net: Network, slices: Iterable[F64]) -> dict[str, tuple[float, float]]:
    """Per layer the largest ``|pre-activation|`` and ``|output|`` over ``slices`` ``[y, x]`` in HU, in network units. Raises ``ModelError`` above 1e9."""
    module, found = TorchNetwork(net), {layer.name: (0.0, 0.0) for layer in net.layers}

    def observe(layer: Layer, before: Tensor, after: Tensor) -> None:
        peaks = float(before.abs().amax()), float(after.abs().amax())
        if not all(peak <= LARGEST for peak in peaks):
            raise ModelError(
                f"measure: layer {layer.name!r} of {net.name!r} reaches {peaks[0]:.3g}, output {peaks[1]:.3g}; no "
                "modulus holds that, train longer or with a lower learning rate"
            )
        old = found[layer.name]
        found[layer.name] = (max(old[0], peaks[0]), max(old[1], peaks[1]))

    for hu in slices:
        run_torch(module, hu, observe=observe)
    return found


def with_metal(hu: F64, seed: int) -> F64:
    """The slice with discs of 3071 HU, 2 to 12 pixels in radius, at random places."""
    rng, result = np.random.default_rng(seed), np.array(hu, np.float64)
    y, x = np.ogrid[: hu.shape[0], : hu.shape[1]]
    for _ in range(METAL_DISCS):
        centre, radius = rng.uniform(0.2, 0.8, 2) * hu.shape, rng.uniform(2, 12)
        result[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2] = HU_MAX
    return result


def hard_slices(pairs: Sequence[Pairs], per_series: int = 1) -> Iterator[F64]:
    """What tests a range: the lowest dose of every series, with and without metal, pure air, pure metal, and a disc of
    metal in air."""
    shape = pairs[0].full.shape[1:]
    for pair in pairs:
        lowest = int(np.argmin(pair.doses))
        for z in np.linspace(0, len(pair.full) - 1, per_series + 2).round().astype(int)[1:-1]:
            yield (low := pair.low[lowest, z].astype(np.float64))
            yield with_metal(low, int(z))
    yield np.full(shape, float(HU_MIN))
    yield np.full(shape, float(HU_MAX))
    y, x = np.ogrid[: shape[0], : shape[1]]
    disc = np.hypot(y - shape[0] / 2, x - shape[1] / 2) < min(shape) / 8
    yield np.where(disc, float(HU_MAX), float(HU_MIN))


def calibrate_ranges(net: Network, pairs: Sequence[Pairs], margin: float = MARGIN) -> Network:
    """``net`` with the ranges that it reaches on :func:`hard_slices` of ``pairs`` and the margin to reserve."""
    return dataclasses.replace(net, ranges=measure(net, hard_slices(pairs)), margin=margin)


def exceeded(net: Network, slices: Iterable[F64]) -> dict[str, float]:
    """By layer, by what factor ``slices`` exceed the recorded range times the margin; empty where none does."""
    found = measure(net, slices)
    factors = {
        name: max(
            seen / (net.margin * limit) if limit else float(seen > 0)
            for seen, limit in zip(pair, net.ranges[name], strict=True)
        )
        for name, pair in found.items()
    }
    return {name: factor for name, factor in factors.items() if factor > 1}
