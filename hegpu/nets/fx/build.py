"""The network of the layers that were read: their order, border rule and weights."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hegpu.errors import ModelError
from hegpu.nets.description import Layer, Network
from hegpu.nets.fx.algebra import Planes
from hegpu.nets.fx.drafts import Draft, Drafts


def build(
    drafts: Drafts,
    result: Planes,
    name: str,
    hu_offset: float,
    hu_scale: float,
    lifting: tuple[str, ...],
    residual: bool,
) -> Network:
    """The checked network whose last output is ``result``."""
    layers: list[Layer] = []
    weights: dict[str, NDArray[np.float32]] = {}
    for draft in _order(drafts, drafts.settle(result).layer):
        layers.append(_layer(drafts, draft))
        weights |= _weights(draft, layers[-1])
    border = _border(drafts, result)
    net = Network(name, tuple(layers), weights, hu_offset, hu_scale, border, lifting=lifting, residual=residual)
    if border == "replicate" and net.radius != drafts.pad:
        raise ModelError(
            f"{drafts.layers[0].name!r}: its input is padded by {drafts.pad}, but the network sees {net.radius} pixels "
            "far; pad by just that"
        )
    return net


def _order(drafts: Drafts, last: int) -> list[Draft]:
    """The drafts, each after the outputs it uses, in the order of the module where that leaves a choice."""
    needs: list[set[int]] = []
    for draft in drafts.layers:
        needs.append(set())
        for atom in (draft.source, draft.skip):
            if atom is None or atom.layer < 0:
                continue
            used = drafts.layers[atom.layer]
            if used.current != atom:
                raise ModelError(
                    f"{draft.name!r}: it uses layer {used.name!r} before an addition or activation that follows "
                    "elsewhere; a layer passes on only what comes last (call the convolution twice to use it twice)"
                )
            needs[-1].add(atom.layer)
    idle = set(range(len(needs))) - {last}.union(*needs)
    if idle:
        raise ModelError(
            f"{drafts.title(min(idle))!r}: nothing uses its output; remove it (after y += z, another name of the old y "
            "does not see the sum)"
        )
    order: list[int] = []
    while len(order) < len(needs):
        order.append(next(i for i, before in enumerate(needs) if i not in order and before <= set(order)))
    return [drafts.layers[index] for index in order]


def _border(drafts: Drafts, result: Planes) -> str:
    last, excess = drafts.title(result.layer), drafts.excess(result)
    padded = [draft for draft in drafts.layers if draft.padding]
    bare = [draft for draft in drafts.layers if not draft.padding and draft.conv.kernel_size != (1, 1)]
    if padded and drafts.pad:
        raise ModelError(f"{padded[0].name!r}: it pads, and the input is padded too; use one of the two")
    if padded and bare:
        raise ModelError(
            f"{bare[0].name!r}: padding 0 differs from that of {padded[0].name!r}; pad all by kernel // 2, or none"
        )
    if excess:
        raise ModelError(
            f"{last!r}: the module's result is {abs(excess)} pixels a side {'larger' if excess > 0 else 'smaller'} than "
            "its input; match convolutions and transposed convolutions, or pad the input by the radius and crop the result"
        )
    if drafts.pad:
        return "replicate"
    if result.crop:
        raise ModelError(f"{last!r}: its result is cropped, but the input is not padded; use ReplicationPad2d")
    return "unpadded" if bare else "zero"


def _layer(drafts: Drafts, draft: Draft) -> Layer:
    conv = draft.conv
    return Layer(
        draft.name,
        "conv_transpose2d" if isinstance(conv, nn.ConvTranspose2d) else "conv2d",
        conv.kernel_size[0],
        conv.in_channels,
        conv.out_channels // (2 if draft.activation == "gate" else 1),
        drafts.title(draft.source.layer),
        None if draft.skip is None else drafts.title(draft.skip.layer),
        draft.activation,
    )


def _weights(draft: Draft, layer: Layer) -> dict[str, NDArray[np.float32]]:
    """The arrays of one layer, the planes of ``u`` first where it is a gate."""
    conv = draft.conv
    weight, bias = conv.weight, torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    if draft.swapped:
        weight = weight.roll(layer.outputs, 0 if layer.op == "conv2d" else 1)
        bias = bias.roll(layer.outputs)
    arrays = {"weight": weight, "bias": bias, **draft.coefficients}
    return {f"{layer.name}.{part}": array.detach().to(torch.float32).numpy() for part, array in arrays.items()}
