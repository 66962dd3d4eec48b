"""The layers that were read as a network's: their order, weights and border rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hegpu.errors import ModelError
from hegpu.nets.description import Layer, Network
from hegpu.nets.fx.algebra import Atom, Planes
from hegpu.nets.fx.drafts import Draft, Drafts


def build(drafts: Drafts, result: Planes, name: str, **options: Any) -> Network:
    """The checked network whose last output is ``result``; ``options`` are further fields of :class:`Network`."""
    layers: list[Layer] = []
    weights: dict[str, NDArray[np.float32]] = {}
    for draft in _order(drafts, drafts.settle(result)):
        conv, planes = draft.conv, 2 if draft.activation == "gate" else 1
        transposed, outputs = isinstance(conv, nn.ConvTranspose2d), conv.out_channels // planes
        op, source = "conv_transpose2d" if transposed else "conv2d", drafts.title(draft.source.layer)
        skip = None if draft.skip is None else drafts.title(draft.skip.layer)
        layers.append(
            Layer(draft.name, op, conv.kernel_size[0], conv.in_channels, outputs, source, skip, draft.activation)
        )
        weight, bias = conv.weight, torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
        if draft.swapped:
            weight, bias = weight.roll(outputs, int(transposed)), bias.roll(outputs)
        for part, array in {"weight": weight, "bias": bias, **draft.coefficients}.items():
            weights[f"{draft.name}.{part}"] = array.detach().to(torch.float32).numpy()
    net = Network(name, tuple(layers), weights, border=_border(drafts, result), **options)
    if drafts.pad not in (0, net.radius):
        first, amounts = drafts.title(0), f"by {drafts.pad}, but the network sees {net.radius} pixels far"
        raise ModelError(f"{first!r}: its input is padded {amounts}; pad by just that")
    return net


def _order(drafts: Drafts, result: Atom) -> list[Draft]:
    """The drafts, each after the outputs it uses, in the order of the module where that leaves a choice."""
    uses = [{atom for atom in (d.source, d.skip) if atom is not None and atom.layer >= 0} for d in drafts.layers]
    users = [*(repr(draft.name) for draft in drafts.layers), "the module's result"]
    for user, atoms in zip(users, [*uses, {result}], strict=True):
        if early := [drafts.title(atom.layer) for atom in atoms if drafts.layers[atom.layer].current != atom]:
            raise ModelError(
                f"{user}: it uses layer {early[0]!r} before an addition or activation that follows elsewhere; a layer "
                "passes on only what comes last (call the convolution twice to use it twice)"
            )
    needs = [{atom.layer for atom in atoms} for atoms in uses]
    if idle := set(range(len(needs))) - {result.layer}.union(*needs):
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
    padded = [draft.name for draft in drafts.layers if draft.padding]
    bare = [draft.name for draft in drafts.layers if not draft.padding and draft.conv.kernel_size != (1, 1)]
    if padded and drafts.pad:
        raise ModelError(f"{padded[0]!r}: it pads, and the input is padded too; use one of the two")
    if padded and bare:
        raise ModelError(f"{bare[0]!r}: padding 0 differs from that of {padded[0]!r}; pad all by kernel // 2, or none")
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
