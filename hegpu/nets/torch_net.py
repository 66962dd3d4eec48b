"""A network executed by torch: the same numbers as :mod:`hegpu.nets.plaintext`, faster, and trainable."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hegpu.ct.hounsfield import check
from hegpu.nets.description import INPUT, Layer, Network
from hegpu.nets.plaintext import finish, prepare, wrap_indices

Observer = Callable[[Layer, Tensor, Tensor], None]


class TorchNetwork(nn.Module):
    """The layers of ``net`` with its weights as parameters, float32."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net
        self.arrays = nn.ParameterDict({
            key.replace(".", "/"): nn.Parameter(torch.from_numpy(np.array(array))) for key, array in net.weights.items()
        })  # fmt: skip
        self.fraction_bits: int | None = None

    def array(self, layer: Layer, part: str) -> Tensor:
        """One array of a layer; weights rounded to ``fraction_bits`` where set, with the gradient passed straight through."""
        value: Tensor = self.arrays[f"{layer.name}/{part}".replace(".", "/")]
        if part == "weight" and self.fraction_bits is not None:
            step = 2.0**-self.fraction_bits
            value = value + (torch.round(value / step) * step - value).detach()
        return value

    def forward(
        self, planes: Tensor, observe: Observer | None = None, border: str | None = None, limit: float | None = None
    ) -> Tensor:
        """``[batch, c, y, x]`` in network units, padded as ``plaintext.prepare`` does, to ``[batch, 1, y', x']``.

        ``observe(layer, pre_activation, output)`` is called for every layer. ``border`` overrides the network's.
        ``limit`` clamps what enters a gate or a square, which keeps early training from running away.
        """
        net, border = self.net, border or self.net.border
        outputs, last_use = {INPUT: planes}, net.last_use()
        for index, layer in enumerate(net.layers):
            x, skip = self._convolve(layer, outputs[net.source_of(index)], border), None
            if layer.skip is not None:
                skip = outputs[layer.skip]
                rows, columns = min(x.shape[2], skip.shape[2]), min(x.shape[3], skip.shape[3])
                x, skip = _crop(x, rows, columns), _crop(skip, rows, columns)
            if skip is not None:
                x = x + (F.pad(skip, (0, 0, 0, 0, 0, layer.outputs)) if layer.activation == "gate" else skip)
            y = self._activate(layer, x if limit is None else F.hardtanh(x, -limit, limit))
            if observe is not None:
                observe(layer, x, y)
            outputs[layer.name] = y
            for name in [name for name in outputs if last_use.get(name, index) < index]:
                del outputs[name]
        return outputs[net.layers[-1].name]

    def _activate(self, layer: Layer, x: Tensor) -> Tensor:
        if layer.activation == "gate":
            # As [batch, y, x, 2, channel]: slices of the channel axis would cost a copy each way (measured: twice the time).
            last = x.permute(0, 2, 3, 1)
            u, v = last.reshape(*last.shape[:3], 2, layer.outputs).unbind(3)
            return (u * (1 + v)).permute(0, 3, 1, 2)
        if layer.activation == "quad":
            linear, square = (self.array(layer, part)[:, None, None] for part in ("linear", "square"))
            return x * (linear + square * x)
        return F.relu(x) if layer.activation == "relu" else x

    def _convolve(self, layer: Layer, planes: Tensor, border: str) -> Tensor:
        weight, bias = self.array(layer, "weight"), self.array(layer, "bias")
        same = border in ("zero", "slot-wrap")
        if border == "slot-wrap" and self.net.phases is not None:
            rows, columns = wrap_indices((planes.shape[2], planes.shape[3]), layer.radius, self.net.phases)
            planes = planes[:, :, torch.from_numpy(rows.copy()), torch.from_numpy(columns.copy())]
            return F.conv2d(planes, weight, bias)
        if layer.op == "conv2d":
            return F.conv2d(planes, weight, bias, padding=layer.radius if same else 0)
        return F.conv_transpose2d(planes, weight, bias, padding=layer.radius if same else 0)

    def network(self, **changes: Any) -> Network:
        """The description with the present weights. ``changes`` replace fields of it."""
        weights: dict[str, NDArray[np.float32]] = {
            key: self.arrays[key.replace(".", "/")].detach().cpu().numpy() for key in self.net.weights
        }
        return dataclasses.replace(self.net, weights=weights, **changes)


def _crop(planes: Tensor, rows: int, columns: int) -> Tensor:
    top, left = (planes.shape[2] - rows) // 2, (planes.shape[3] - columns) // 2
    return planes[:, :, top : top + rows, left : left + columns]


def round_weights(net: Network, fraction_bits: int) -> Network:
    """``net`` with every convolution weight rounded to the nearest multiple of ``2^-fraction_bits``."""
    weights = {
        key: np.ldexp(np.rint(np.ldexp(array.astype(np.float64), fraction_bits)), -fraction_bits).astype(np.float32)
        if key.endswith(".weight")
        else array
        for key, array in net.weights.items()
    }
    return dataclasses.replace(net, weights=weights, fraction_bits=fraction_bits)


@torch.inference_mode()
def run_torch(
    net: Network | TorchNetwork, hu: Any, *, observe: Observer | None = None, dtype: torch.dtype = torch.float32
) -> NDArray[np.float64]:
    """:func:`hegpu.nets.plaintext.run` by torch, on the device of the module (the CPU for a ``Network``)."""
    module = TorchNetwork(net) if isinstance(net, Network) else net
    plane = check(f"run {module.net.name!r}", hu)
    planes = torch.from_numpy(prepare(module.net, plane)[np.newaxis])
    device = next(module.parameters()).device
    if dtype == torch.float64:
        module = copy.deepcopy(module).double()
    result = module(planes.to(device, dtype).contiguous(memory_format=torch.channels_last), observe)
    return finish(module.net, result[0, 0].cpu().to(torch.float64).numpy(), plane)
