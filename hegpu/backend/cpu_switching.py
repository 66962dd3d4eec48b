"""The compiled kernels that change moduli and keys."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from hegpu.backend import checks_switching as checks
from hegpu.backend import pool
from hegpu.backend.protocol import U32, Gadget, GadgetKey, Moduli

_NONE = np.empty(0, np.uint32)


@lru_cache(maxsize=1024)
def words(values: tuple[int, ...]) -> U32:
    """A read-only array of these words."""
    array = np.array(values, np.uint32)
    array.flags.writeable = False
    return array


class CpuSwitching:
    """The part of the CPU backend that changes moduli and keys."""

    _kernels: Any

    def switch_modulus(self, x: U32, source: Moduli, target: Moduli, factor: int = 1) -> U32:
        n = checks.switch("switch_modulus", x, source, target)
        out = pool.empty((*x.shape[:-2], len(target), n), np.uint32)
        if out.size:
            factors = words(tuple(factor % q for q in source))
            self._kernels.switch_modulus(out, np.ascontiguousarray(x), words(source), words(target), factors, n)
        return out

    def decompose(self, x: U32, gadget: Gadget) -> U32:
        n = checks.decompose("decompose", x, gadget)
        out = pool.empty((*x.shape[:-2], len(gadget.digits), len(gadget.extended), n), np.uint32)
        if out.size:
            self._kernels.decompose(out, np.ascontiguousarray(x), *_gadget(gadget), n)
        return out

    def gadget_product(
        self, digits: U32, addend: U32, keys: Sequence[GadgetKey], elements: Sequence[int], gadget: Gadget
    ) -> U32:
        n = checks.gadget_product("gadget_product", digits, addend, keys, elements, gadget)
        out = pool.empty((len(keys), *addend.shape[:-2], 2, len(gadget.extended), n), np.uint32)
        if out.size:
            self._kernels.gadget_product(out, *_prepared(digits, addend, keys, elements, gadget, n), n)
        return out

    def switch_keys(
        self, digits: U32, addend: U32, keys: Sequence[GadgetKey], elements: Sequence[int], gadget: Gadget,
        target: Moduli,
    ) -> U32:  # fmt: skip
        n = checks.gadget_product("switch_keys", digits, addend, keys, elements, gadget)
        checks.targets("switch_keys", n, gadget, target)
        out = pool.empty((len(keys), *addend.shape[:-2], 2, len(target), n), np.uint32)
        if out.size:
            self._kernels.switch_keys(out, *_prepared(digits, addend, keys, elements, gadget, n), words(target), n)
        return out

    def switch_key(self, x: U32, key: GadgetKey, element: int, gadget: Gadget, target: Moduli) -> U32:
        n = checks.switch_key("switch_key", x, key, element, gadget, target)
        out = pool.empty((*x.shape[:-3], 2, len(target), n), np.uint32)
        if out.size:
            self._kernels.switch_key(
                out, np.ascontiguousarray(x), x.shape[-3], *_key(key), element % (2 * n), *_gadget(gadget),
                words(gadget.key_rows), words(gadget.key_digits), words(target), n,
            )  # fmt: skip
        return out

    def multiply_switch(self, x: U32, y: U32, key: GadgetKey, gadget: Gadget, target: Moduli) -> U32:
        n = checks.multiply("multiply_switch", x, y, key, gadget, target)
        out = pool.empty((*x.shape[:-3], 2, len(target), n), np.uint32)
        if out.size:
            a = np.ascontiguousarray(x)
            self._kernels.multiply_switch(
                out, a, a if y is x else np.ascontiguousarray(y), *_key(key), *_gadget(gadget),
                words(gadget.key_rows), words(gadget.key_digits), words(target), n,
            )  # fmt: skip
        return out

    def tensor_sum(self, x: U32, y: U32, moduli: Moduli) -> U32:
        n = checks.tensor("tensor_sum", x, y, moduli)
        out = pool.empty((*x.shape[1:-3], 3, len(moduli), n), np.uint32)
        if out.size:
            a = np.ascontiguousarray(x)
            self._kernels.tensor_sum(out, a, a if y is x else np.ascontiguousarray(y), len(x), words(moduli), n)
        return out

    def sum_of_products(self, x: U32, y: U32, moduli: Moduli) -> U32:
        n = checks.sum_of_products("sum_of_products", x, y, moduli)
        out = pool.empty(x.shape[1:], np.uint32)
        if out.size:
            self._kernels.sum_of_products(
                out, np.ascontiguousarray(x), np.ascontiguousarray(y), len(x), words(moduli), n
            )
        return out


def _gadget(gadget: Gadget) -> tuple[U32, U32, U32]:
    return words(gadget.moduli), words(gadget.special), words(gadget.digits)


def _key(key: GadgetKey) -> tuple[U32, U32, bytes, int, int]:
    second = _NONE if key.second is None else np.ascontiguousarray(key.second)
    return np.ascontiguousarray(key.first), second, key.seed, key.domain, len(key.moduli)


def _prepared(
    digits: U32, addend: U32, keys: Sequence[GadgetKey], elements: Sequence[int], gadget: Gadget, n: int
) -> tuple[Any, ...]:
    parts = [_key(key) for key in keys]
    return (
        np.ascontiguousarray(digits), np.ascontiguousarray(addend), [p[0] for p in parts], [p[1] for p in parts],
        [p[2] for p in parts], [p[3] for p in parts], parts[0][4], [g % (2 * n) for g in elements], *_gadget(gadget),
        words(gadget.key_rows), words(gadget.key_digits),
    )  # fmt: skip
