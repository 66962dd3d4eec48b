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


def as_planes(value: Any, other: Planes) -> Planes:
    """``value``, or a constant of one number or one a channel as planes like ``other``."""
    if isinstance(value, Planes):
        return value
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    if not isinstance(value, (int, float, Tensor)) or shape.count(1) < len(shape) - (other.channels in shape):
        kind = f"a tensor of shape {shape}" if shape else type(value).__name__
        raise ModelError(
            f"its constant is {kind}; use a number or one value a channel, of shape [{other.channels}, 1, 1]"
        )
    return Planes({(): torch.as_tensor(value).detach().to(torch.float64).flatten()}, other.channels, other.crop)


def add(first: Planes, second: Planes) -> Planes:
    """The sum of planes of one layer, or of planes and a constant."""
    terms = dict(first.terms)
    for product, factor in second.terms.items():
        terms[product] = terms.get(product, 0) + factor
    return _combined(first, second, terms)


def multiply(first: Planes, second: Planes) -> Planes:
    """The product of planes of one layer, or of planes and a constant; raises ``ModelError`` above degree 2."""
    terms: Terms = {}
    for (left, factor), (right, other) in itertools.product(first.terms.items(), second.terms.items()):
        product = tuple(sorted(left + right))
        terms[product] = terms.get(product, 0) + factor * other
    if max(map(len, terms)) > 2:
        raise ModelError("it multiplies three planes; an activation has at most degree 2")
    return _combined(first, second, terms)


def _combined(first: Planes, second: Planes, terms: Terms) -> Planes:
    if (first.channels, first.crop) != (second.channels, second.crop):
        raise ModelError("its operands differ in channels or crop; crop after the activation")
    return Planes(terms, first.channels, first.crop)
