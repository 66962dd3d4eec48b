"""Argument checks of the primitives that change moduli and keys."""

from collections.abc import Sequence

import numpy as np

from hegpu.backend.checks import galois_element, residues, ring
from hegpu.backend.protocol import U32, Gadget, GadgetKey, Moduli
from hegpu.errors import ParameterError


def difference(left: Moduli, right: Moduli) -> Moduli:
    """Those of ``left`` that are not in ``right``, in order."""
    others = set(right)
    return tuple(q for q in left if q not in others)


def switch(operation: str, x: U32, source: Moduli, target: Moduli) -> int:
    n = residues(operation, x, source)
    _switch(operation, n, source, target)
    return n


def _switch(operation: str, n: int, source: Moduli, target: Moduli) -> None:
    ring(operation, n, target)
    if len(set(source)) != len(source) or len(set(target)) != len(target):
        raise ParameterError(f"{operation}: the primes are not distinct")
    dropped = len(difference(source, target))
    if not 1 <= dropped <= 32:
        raise ParameterError(f"{operation}: {dropped} of {len(source)} primes are dropped; it must be 1..32")


def gadget(operation: str, n: int, g: Gadget, keys: Sequence[GadgetKey]) -> None:
    ring(operation, n, g.extended)
    if len(set(g.extended)) != len(g.extended) or not 1 <= len(g.special) <= 30:
        raise ParameterError(f"{operation}: the primes are not distinct, or the special ones not 1..30")
    if not 1 <= len(g.digits) <= 14 or sum(g.digits) != len(g.moduli) or not all(1 <= d <= 32 for d in g.digits):
        raise ParameterError(
            f"{operation}: digits {g.digits} do not cut {len(g.moduli)} limbs into 1..14 groups of 1..32"
        )
    for key in keys:
        if key.moduli != keys[0].moduli:
            raise ParameterError(f"{operation}: the keys are modulo different primes")
        if key.first.dtype != np.uint32 or key.first.ndim != 3 or key.first.shape[1:] != (len(key.moduli), n):
            raise ParameterError(f"{operation}: a key of {key.first.dtype}{key.first.shape} is not [digit, {len(key.moduli)}, {n}]")  # fmt: skip
        if key.second is not None and (key.second.dtype != np.uint32 or key.second.shape != key.first.shape):
            raise ParameterError(f"{operation}: the halves of a key differ in shape")
        if not isinstance(key.seed, bytes) or len(key.seed) != 32:
            raise ParameterError(f"{operation}: a key's seed is 32 bytes")
        rows = [key.moduli[r] if 0 <= r < len(key.moduli) else 0 for r in g.key_rows]
        if tuple(rows) != g.extended:
            raise ParameterError(f"{operation}: the key's rows are not those of the gadget's primes")
        if len(g.key_digits) != len(g.digits) or not all(0 <= d < len(key.first) for d in g.key_digits):
            raise ParameterError(f"{operation}: the key has {len(key.first)} digits, {g.key_digits} are asked for")


def decompose(operation: str, x: U32, g: Gadget) -> int:
    n = residues(operation, x, g.moduli)
    gadget(operation, n, g, ())
    return n


def gadget_product(
    operation: str, digits: U32, addend: U32, keys: Sequence[GadgetKey], elements: Sequence[int], g: Gadget
) -> int:
    n = residues(operation, digits, g.extended)
    residues(operation, addend, g.moduli)
    if digits.ndim < 3 or digits.shape[-3] != len(g.digits) or addend.shape[:-2] != digits.shape[:-3]:
        raise ParameterError(f"{operation}: digits {digits.shape} do not fit the gadget or the addend {addend.shape}")
    if len(keys) != len(elements):
        raise ParameterError(f"{operation}: {len(keys)} keys for {len(elements)} Galois elements")
    for element in elements:
        galois_element(operation, element, n)
    gadget(operation, n, g, keys)
    return n


def switch_key(operation: str, x: U32, key: GadgetKey, element: int, g: Gadget, target: Moduli) -> int:
    n = residues(operation, x, g.moduli)
    if x.ndim < 3 or x.shape[-3] not in (2, 3):
        raise ParameterError(f"{operation}: shape {x.shape} is not [..., 2 or 3, limb, n]")
    galois_element(operation, element, n)
    gadget(operation, n, g, (key,))
    _switch(operation, n, g.extended, target)
    return n


def targets(operation: str, n: int, g: Gadget, target: Moduli) -> None:
    _switch(operation, n, g.extended, target)


def multiply(operation: str, x: U32, y: U32, key: GadgetKey, g: Gadget, target: Moduli) -> int:
    n = tensor(operation, x[None], y[None], g.moduli)
    gadget(operation, n, g, (key,))
    _switch(operation, n, g.extended, target)
    return n


def tensor(operation: str, x: U32, y: U32, moduli: Moduli) -> int:
    n = residues(operation, x, moduli)
    residues(operation, y, moduli)
    if x.shape != y.shape or x.ndim < 4 or x.shape[-3] != 2 or not x.shape[0]:
        raise ParameterError(f"{operation}: {x.shape} and {y.shape} are not equal shapes [1.., ..., 2, limb, n]")
    return n


def sum_of_products(operation: str, x: U32, y: U32, moduli: Moduli) -> int:
    n = residues(operation, x, moduli)
    residues(operation, y, moduli)
    if y.ndim != 3 or x.ndim < 3 or x.shape[0] != y.shape[0] or not len(y):
        raise ParameterError(f"{operation}: {x.shape} and {y.shape} are not [i, ..., limb, n] and [i, limb, n], i > 0")
    return n
