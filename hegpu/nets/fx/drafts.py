"""The layers of a module while its graph is read: convolutions, and the skips and activations that close them."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hegpu.errors import ModelError
from hegpu.nets.description import INPUT
from hegpu.nets.fx.algebra import WHOLE, Atom, Planes, Terms, is_one

Convolution = nn.Conv2d | nn.ConvTranspose2d


@dataclass(eq=False)
class Draft:
    """A layer that is being read; ``current`` is what it passes on so far.

    ``growth``: pixels a side by which its planes exceed the slice. ``swapped``: its gate is ``v * (1 + u)``.
    """

    name: str
    conv: Convolution
    source: Atom
    growth: int
    padding: int
    current: Atom
    skip: Atom | None = None
    activation: str = "none"
    swapped: bool = False
    coefficients: dict[str, Tensor] = field(default_factory=dict)

    def activate(self, activation: str, *allowed: Atom) -> Atom:
        """Close the layer, which must be at one of the ``allowed`` atoms."""
        if self.activation != "none" or self.current not in allowed:
            raise ModelError(
                f"layer {self.name!r} already has its addition or activation; a layer is a convolution, one addition "
                "and one activation, and passes on only what comes last (call a convolution twice to use it twice)"
            )
        self.activation, self.current = activation, Atom(self.current.layer, step=self.current.step + 1)
        return self.current


class Drafts:
    """All layers read so far; ``pad`` is the replicate padding of the input, known from the first convolution on."""

    def __init__(self) -> None:
        self.layers: list[Draft] = []
        self.pad = 0

    def title(self, layer: int) -> str:
        return INPUT if layer < 0 else self.layers[layer].name

    def excess(self, planes: Planes) -> int:
        """Pixels a side by which ``planes`` exceed the slice."""
        return (0 if planes.layer < 0 else self.layers[planes.layer].growth) - planes.crop

    def _growth(self, atom: Atom) -> int:
        return self.pad if atom.layer < 0 else self.layers[atom.layer].growth

    def convolve(self, target: str, conv: Convolution, planes: Planes) -> Planes:
        """Begin the layer of the module ``target``."""
        padding, source = _padding(conv), self.settle(planes)
        if not self.layers:
            self.pad = max(0, -planes.crop)
        if self.excess(planes) != self._growth(source):
            raise ModelError(
                "it convolves cropped planes, or the input padded otherwise than before; crop only before an addition "
                "and at the end, and pad the input once, before all else"
            )
        if planes.channels != conv.in_channels:
            title = self.title(source.layer)
            raise ModelError(f"it takes {conv.in_channels} channels, {title!r} has {planes.channels}")
        step = conv.kernel_size[0] // 2 - padding
        growth = self._growth(source) + (step if isinstance(conv, nn.ConvTranspose2d) else -step)
        base = re.sub(r"[^A-Za-z0-9_.\-]", "_", target)[-56:]
        taken = {INPUT, *(draft.name for draft in self.layers)}
        names = itertools.chain([base], (f"{base}-{i}" for i in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        atom = Atom(len(self.layers))
        self.layers.append(Draft(name, conv, source, growth, padding, atom))
        return Planes.of(atom, conv.out_channels)

    def half(self, planes: Planes, part: int) -> Planes:
        """The first (0) or second (1) half of the channels of a bare convolution."""
        atom = self.settle(planes)
        if atom.layer < 0 or atom.step or planes.crop:
            title = self.title(atom.layer)
            raise ModelError(f"it halves {title!r}; for a gate, halve a bare convolution and add the skip to u")
        return Planes.of(atom._replace(part=part), planes.channels // 2)

    def skip(self, first: Planes, second: Planes) -> Planes:
        """The addition of two layers' planes; the later that is a bare convolution, or half of one, takes the other."""
        first, second = sorted((first, second), key=lambda planes: planes.layer, reverse=True)
        value, other = (first, second) if self._is_bare(first) else (second, first)
        if (atom := value.atom) is None or not self._is_bare(value):
            raise ModelError(
                f"it adds {self.title(first.layer)!r} and {self.title(second.layer)!r}, neither of which is a "
                "convolution without addition and activation; put a convolution before it (1x1 will do)"
            )
        if value.channels != other.channels:
            raise ModelError(f"it adds {other.channels} channels to {value.channels}; make them equal")
        skip, draft, size = self.settle(other), self.layers[atom.layer], self.excess(value)
        if difference := abs(size - self.excess(other)):
            titles = f"{draft.name!r} and {self.title(skip.layer)!r}"
            raise ModelError(f"{titles} differ by {difference} pixels a side; crop the larger")
        draft.skip, draft.growth = skip, min(draft.growth, self._growth(skip))
        draft.current = atom._replace(step=1)
        return Planes.of(draft.current, value.channels, draft.growth - size)

    def _is_bare(self, planes: Planes) -> bool:
        atom = planes.atom
        if atom is None or atom.layer < 0:
            return False
        return atom.step == 0 and self.layers[atom.layer].current == Atom(atom.layer)

    def relu(self, planes: Planes) -> Planes:
        atom = self.settle(planes)
        if atom.layer < 0:
            raise ModelError("it applies an activation to the input; put a convolution before it")
        draft = self.layers[atom.layer]
        if draft.activation != "relu" or atom.step != draft.current.step - 1:
            draft.activate("relu", atom)
        return Planes.of(draft.current, planes.channels, planes.crop)

    def settle(self, planes: Planes) -> Atom:
        """The output that ``planes`` are; sums and products first become the activation that they match."""
        if (atom := planes.atom) is None:
            atom = self._match(planes)
            planes.become(Planes.of(atom, planes.channels, planes.crop))
        if atom.part != WHOLE:
            title = self.title(atom.layer)
            raise ModelError(f"it uses one half of the channels of {title!r}; supported is u * (1 + v) of both halves")
        return atom

    def _match(self, planes: Planes) -> Atom:
        """Close the layer of ``planes`` with the quadratic activation or the gate that they are."""
        terms, x = planes.terms, min(planes.atoms)
        if x.layer >= 0:
            draft = self.layers[x.layer]
            if x.part == WHOLE and (x, x) in terms and terms.keys() <= {(x,), (x, x)}:
                factors = {"linear": terms.get((x,), torch.zeros(1)), "square": terms[x, x]}
                draft.coefficients = {key: factor.expand(planes.channels) for key, factor in factors.items()}
                return draft.activate("quad", x)
            for u in planes.atoms:
                if _is_gate(u, terms):
                    draft.swapped = u.part == 1
                    return draft.activate("gate", u, u._replace(part=WHOLE))
        raise ModelError(
            f"it uses sums and products of {self.title(x.layer)!r} that are no supported activation; supported are ReLU, "
            "u * (1 + v) of the halves of one convolution, and b * x + a * x * x with one a and one b a channel"
        )


def _is_gate(u: Atom, terms: Terms) -> bool:
    """Whether the terms are ``u + u * v``."""
    v = Atom(u.layer, 1 - u.part)
    return terms.keys() == {(u,), tuple(sorted((u, v)))} and all(map(is_one, terms.values()))


def _padding(conv: Convolution) -> int:
    """The padding of a convolution that a network can express: 0 or ``kernel // 2``."""
    odd = conv.kernel_size[0] | 1
    required: dict[str, Any] = {"kernel_size": (odd, odd), "stride": (1, 1), "dilation": (1, 1), "groups": 1}
    for option, value in required.items():
        if (given := getattr(conv, option)) != value:
            raise ModelError(f"{type(conv).__name__} with {option} {given} is not supported; use {value}")
    radius = odd // 2
    paddings: dict[Any, int] = {"valid": 0, "same": radius, (radius, radius): radius, (0, 0): 0}
    if conv.padding not in paddings:
        raise ModelError(f"padding {conv.padding} is not supported; use 0 or kernel // 2 = {radius}")
    if paddings[conv.padding] and conv.padding_mode != "zeros":
        raise ModelError(f"padding_mode {conv.padding_mode!r} is not supported; use 'zeros', or pad the input once")
    return paddings[conv.padding]
