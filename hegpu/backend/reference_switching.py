"""The executable definition of changes of modulus and products with a key, from simpler primitives."""

import math
from collections.abc import Sequence

import numpy as np

from hegpu.backend import checks_switching as checks
from hegpu.backend.protocol import U32, Backend, Gadget, GadgetKey, Moduli


class SwitchingReference:
    """The part of the reference that changes moduli and keys."""

    def switch_modulus(self: Backend, x: U32, source: Moduli, target: Moduli, factor: int = 1) -> U32:
        n = checks.switch("switch_modulus", x, source, target)
        dropped, gained = checks.difference(source, target), checks.difference(target, source)
        d, g = math.prod(dropped), math.prod(gained)
        scaled = self.mul_scalar(x, [factor * g] * len(source), source)
        at = [source.index(q) for q in dropped]
        low = self.intt(np.ascontiguousarray(scaled[..., at, :]), dropped)
        rest = self.ntt(self.convert_basis(low, dropped, target), target)
        full = np.zeros((*x.shape[:-2], len(target), n), np.uint32)
        for t, q in enumerate(target):
            if q in source:
                full[..., t, :] = scaled[..., source.index(q), :]
        return self.mul_scalar(self.sub(full, rest, target), [pow(d, -1, q) for q in target], target)

    def decompose(self: Backend, x: U32, gadget: Gadget) -> U32:
        n = checks.decompose("decompose", x, gadget)
        out = np.empty((*x.shape[:-2], len(gadget.digits), len(gadget.extended), n), np.uint32)
        first = 0
        for d, count in enumerate(gadget.digits):
            own = gadget.moduli[first : first + count]
            part = np.ascontiguousarray(x[..., first : first + count, :])
            out[..., d, :, :] = self.ntt(
                self.convert_basis(self.intt(part, own), own, gadget.extended), gadget.extended
            )
            out[..., d, first : first + count, :] = part
            first += count
        return out

    def gadget_product(
        self: Backend, digits: U32, addend: U32, keys: Sequence[GadgetKey], elements: Sequence[int], gadget: Gadget
    ) -> U32:
        checks.gadget_product("gadget_product", digits, addend, keys, elements, gadget)
        out = [
            self.automorphism(_inner(self, digits, addend, key, gadget), g, gadget.extended, evaluations=True)
            for key, g in zip(keys, elements, strict=True)
        ]
        shape = (0, *digits.shape[:-3], 2, *digits.shape[-2:])
        return np.stack(out) if out else np.empty(shape, np.uint32)

    def switch_keys(
        self: Backend, digits: U32, addend: U32, keys: Sequence[GadgetKey], elements: Sequence[int], gadget: Gadget,
        target: Moduli,
    ) -> U32:  # fmt: skip
        n = checks.gadget_product("switch_keys", digits, addend, keys, elements, gadget)
        out = [
            self.automorphism(
                self.switch_modulus(_inner(self, digits, addend, key, gadget), gadget.extended, target),
                g, target, evaluations=True,
            )
            for key, g in zip(keys, elements, strict=True)
        ]  # fmt: skip
        return np.stack(out) if out else np.empty((0, *digits.shape[:-3], 2, len(target), n), np.uint32)

    def switch_key(self: Backend, x: U32, key: GadgetKey, element: int, gadget: Gadget, target: Moduli) -> U32:
        checks.switch_key("switch_key", x, key, element, gadget, target)
        digits = self.decompose(np.ascontiguousarray(x[..., -1, :, :]), gadget)
        total = _inner(self, digits, np.ascontiguousarray(x[..., 0, :, :]), key, gadget)
        if x.shape[-3] == 3:
            limbs = len(gadget.moduli)
            lifted = self.mul_scalar(
                np.ascontiguousarray(x[..., 1, :, :]), [math.prod(gadget.special)] * limbs, gadget.moduli
            )
            total[..., 1, :limbs, :] = self.add(np.ascontiguousarray(total[..., 1, :limbs, :]), lifted, gadget.moduli)
        switched = self.switch_modulus(total, gadget.extended, target)
        return self.automorphism(switched, element, target, evaluations=True)

    def multiply_switch(self: Backend, x: U32, y: U32, key: GadgetKey, gadget: Gadget, target: Moduli) -> U32:
        checks.multiply("multiply_switch", x, y, key, gadget, target)
        return self.switch_key(self.tensor_sum(x[None], y[None], gadget.moduli), key, 1, gadget, target)

    def tensor_sum(self: Backend, x: U32, y: U32, moduli: Moduli) -> U32:
        checks.tensor("tensor_sum", x, y, moduli)
        a, b = np.ascontiguousarray(x[..., 0, :, :]), np.ascontiguousarray(x[..., 1, :, :])
        c, d = np.ascontiguousarray(y[..., 0, :, :]), np.ascontiguousarray(y[..., 1, :, :])
        parts = [
            self.mul(a, c, moduli),
            self.multiply_accumulate(self.mul(a, d, moduli), b, c, moduli),
            self.mul(b, d, moduli),
        ]
        return _summed(np.stack(parts, axis=-3), moduli)

    def sum_of_products(self: Backend, x: U32, y: U32, moduli: Moduli) -> U32:
        checks.sum_of_products("sum_of_products", x, y, moduli)
        wide = y.reshape(len(y), *([1] * (x.ndim - 3)), *y.shape[1:])
        return _summed(self.mul(x, wide, moduli), moduli)


def _summed(terms: U32, moduli: Moduli) -> U32:
    """The sum over the first axis."""
    total = terms.sum(axis=0, dtype=np.uint64) % np.array(moduli, np.uint64)[:, None]
    return np.asarray(total.astype(np.uint32))


def _inner(self: Backend, digits: U32, addend: U32, key: GadgetKey, gadget: Gadget) -> U32:
    """``[..., 2, extended, n]``, no automorphism."""
    extended, limbs = gadget.extended, len(gadget.moduli)
    second = key.second
    if second is None:
        objects = np.arange(len(key.first), dtype=np.uint32)
        second = self.sample_uniform(key.seed, key.domain, objects, digits.shape[-1], key.moduli)
    out = np.zeros((*digits.shape[:-3], 2, *digits.shape[-2:]), np.uint32)
    for half, rows in enumerate((key.first, second)):
        total = np.zeros((*digits.shape[:-3], *digits.shape[-2:]), np.uint32)
        for d, number in enumerate(gadget.key_digits):
            row = np.ascontiguousarray(rows[number][list(gadget.key_rows)])
            total = self.multiply_accumulate(total, np.ascontiguousarray(digits[..., d, :, :]), row, extended)
        out[..., half, :, :] = total
    lifted = self.mul_scalar(addend, [math.prod(gadget.special)] * limbs, gadget.moduli)
    out[..., 0, :limbs, :] = self.add(np.ascontiguousarray(out[..., 0, :limbs, :]), lifted, gadget.moduli)
    return out
