"""Planes as polynomials, so that every way to write a gate or a quadratic activation gives one form."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hegpu.errors import ModelError

WHOLE = -1


class Atom(NamedTuple):
    """The planes of layer ``layer`` (-1: the input), all or half 0 or 1 of their channels.

    ``step`` counts what follows the convolution: 0 is its bare output; an addition and an activation add 1 each.
    """

    layer: int
    part: int = WHOLE
    step: int = 0


Terms = dict[tuple[Atom, ...], Tensor]


@dataclass(eq=False)
class Planes:
    """A polynomial: products of at most two atoms of one layer to a float64 coefficient ``[1]`` or ``[channels]``.

    ``crop`` pixels are cut from every side; below 0 they are padded, which only the input is.
    """

    terms: Terms
    channels: int
    crop: int = 0

    @classmethod
    def of(cls, atom: Atom, channels: int, crop: int = 0) -> Planes:
        """The planes of one atom as they are."""
        return cls({(atom,): torch.ones(1, dtype=torch.float64)}, channels, crop)

    @property
    def atom(self) -> Atom | None:
        """The one atom that this is, where it is no sum or product."""
        (product, factor), *more = self.terms.items()
        return product[0] if len(product) == 1 and not more and is_one(factor) else None

    @property
    def atoms(self) -> set[Atom]:
        return {atom for product in self.terms for atom in product}

    @property
    def layer(self) -> int:
        return max(atom.layer for atom in self.atoms)

    def become(self, other: Planes) -> None:
        """Change in place, under every name that this object has."""
        self.terms, self.channels, self.crop = other.terms, other.channels, other.crop


def is_one(coefficient: Tensor) -> bool:
    return bool((coefficient == 1).all())


def add(input: Any, other: Any) -> Planes:
    """The sum of planes of one layer, or of planes and a constant."""
    first, second = _as_planes(input, other), _as_planes(other, input)
    return _collect(first, second, [*first.terms.items(), *second.terms.items()])


def multiply(input: Any, other: Any) -> Planes:
    """The product of planes of one layer, or of planes and a constant; raises ``ModelError`` above degree 2."""
    first, second = _as_planes(input, other), _as_planes(other, input)
    pairs = itertools.product(first.terms.items(), second.terms.items())
    result = _collect(first, second, [(tuple(sorted(a + b)), factor * by) for (a, factor), (b, by) in pairs])
    if max(map(len, result.terms)) > 2:
        raise ModelError("it multiplies three planes; an activation has at most degree 2")
    return result


def _as_planes(value: Any, other: Any) -> Planes:
    """``value``, or a constant of one number or one a channel as planes like ``other``."""
    if isinstance(value, Planes):
        return value
    constant = torch.as_tensor(value).detach().to(torch.float64)
    if constant.numel() not in (1, other.channels):
        raise ModelError(f"its constant has shape {tuple(constant.shape)}; use a number or one value a channel")
    return Planes({(): constant.flatten()}, other.channels, other.crop)


def _collect(first: Planes, second: Planes, entries: list[tuple[tuple[Atom, ...], Tensor]]) -> Planes:
    """The sum of ``entries``, made of two operands."""
    if len({atom.layer for atom in first.atoms | second.atoms}) > 1:
        raise ModelError("it multiplies planes of different layers; supported are u * (1 + v) and b * x + a * x * x")
    if (first.channels, first.crop) != (second.channels, second.crop):
        raise ModelError("its operands differ in channels or crop; crop after the activation")
    terms: Terms = {}
    for product, factor in entries:
        terms[product] = terms.get(product, 0) + factor
    return Planes(terms, first.channels, first.crop)
