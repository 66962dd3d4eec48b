"""Arithmetic on batches of ciphertexts: one call of the backend an operation.

A ciphertext of level l has the scale ``params.scales[l]``, unless a product was not rescaled. Operands at different
levels are brought to the lower one; what cannot be brought together is an error that names it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import U32, Backend
from hegpu.ckks import noise as estimate
from hegpu.ckks.ciphertext import Ciphertext, Plaintext, log2
from hegpu.ckks.encoder import encode_slots
from hegpu.ckks.evaluation_keys import EvaluationKeys, conjugation_element, gadget_at, rotation_element
from hegpu.ckks.levels import (
    TOLERANCE,
    after_rescale,
    agree,
    at_level,
    broadcast,
    deeper_preset,
    matched,
    require_evaluations,
    require_turnable,
    room,
)
from hegpu.errors import BudgetError, ParameterError

Values = npt.ArrayLike
Operand = Ciphertext | Plaintext | Values


@dataclass(frozen=True, eq=False)
class Evaluator:
    """What a server does with ciphertexts under one key set. Holds no secret; safe to use from several threads."""

    backend: Backend
    keys: EvaluationKeys

    # -- plaintexts ------------------------------------------------------------------------------------
    def encode(self, values: Values, level: int, scale: Fraction | None = None) -> Plaintext:
        """Slots ``[batch..., m <= n/2]`` (or one number for all slots) as evaluations; default: the level's scale."""
        params = self.keys.params
        if not 0 <= level <= params.depth:
            raise ParameterError(f"encode: level {level} is not one of 0..{params.depth} of {params.name!r}")
        scale = params.scales[level] if scale is None else scale
        z = np.asarray(values)
        if z.ndim == 0:
            return self._constant(complex(z), level, scale)
        plain = encode_slots(self.backend, z, scale, params.n, params.levels[level])
        return replace(plain, data=self.backend.ntt(plain.data, plain.moduli), evaluations=True)

    def _constant(self, value: complex, level: int, scale: Fraction) -> Plaintext:
        """The same number in every slot: a constant, or for complex ones also the coefficient of X^(n/2)."""
        params = self.keys.params
        moduli = params.levels[level]
        if not np.isfinite(value):
            raise ParameterError("encode: the value is NaN or infinite; replace it")
        if value.imag:
            return self.encode(np.full(params.n // 2, value), level, scale)
        whole = round(Fraction(value.real) * scale)
        if 2 * abs(whole) >= math.prod(moduli):
            raise ParameterError(
                f"encode: {value.real:.4g} at scale 2^{log2(scale):.1f} exceeds the modulus; scale less"
            )
        data = np.empty((len(moduli), params.n), np.uint32)
        data[:] = np.array([whole % q for q in moduli], np.uint32)[:, None]
        return Plaintext(data, moduli, scale, True, abs(value.real))

    # -- sums ------------------------------------------------------------------------------------------
    def add(self, x: Ciphertext, y: Operand) -> Ciphertext:
        """x + y; noise adds. Values and single numbers are encoded at the level and scale of x."""
        return self._sum("add", x, y)

    def sub(self, x: Ciphertext, y: Operand) -> Ciphertext:
        """x - y; noise adds."""
        return self._sum("sub", x, y)

    def negate(self, x: Ciphertext) -> Ciphertext:
        """-x."""
        return replace(x, data=self.backend.neg(x.data, x.moduli))

    def _sum(self, operation: str, x: Ciphertext, y: Operand) -> Ciphertext:
        if not isinstance(y, Ciphertext):
            return self._sum_plain(operation, x, y)
        agree(operation, x, y)
        same = x is y
        x, y, gap = matched(operation, self.backend, x, y)
        broadcast(operation, x, y)
        if x.degree != y.degree:
            x, y = _padded(x, y.degree), _padded(y, x.degree)
        data = (self.backend.add if operation == "add" else self.backend.sub)(x.data, y.data, x.moduli)
        noise = 2 * x.noise if same else math.hypot(x.noise, y.noise, gap * min(x.bound, y.bound))
        return replace(x, data=data, noise=noise, bound=room(x.bound + y.bound, x))

    def _sum_plain(self, operation: str, x: Ciphertext, y: Plaintext | Values) -> Ciphertext:
        plain = y if isinstance(y, Plaintext) else self.encode(y, x.level, x.scale)
        agree(operation, x, plain)
        if abs(plain.scale / x.scale - 1) > TOLERANCE:
            raise ParameterError(
                f"{operation}: the scales are 2^{log2(x.scale):.6f} and 2^{log2(plain.scale):.6f}; encode the plaintext "
                "at the ciphertext's scale"
            )
        lead = broadcast(operation, x, plain)
        data = np.array(np.broadcast_to(x.data, (*lead, *x.data.shape[-3:])))
        first = np.ascontiguousarray(data[..., 0, :, :])
        data[..., 0, :, :] = (self.backend.add if operation == "add" else self.backend.sub)(
            first, np.broadcast_to(plain.data, first.shape), x.moduli
        )
        n = x.params.n
        noise = math.hypot(x.noise, estimate.slots(n, estimate.ENCODING) / float(plain.scale))
        return replace(x, data=data, noise=noise, bound=room(x.bound + plain.bound, x))

    # -- products --------------------------------------------------------------------------------------
    def multiply(self, x: Ciphertext, y: Operand, *, relinearise: bool = True, rescale: bool = True) -> Ciphertext:
        """x y, one level lower. The division by special primes and the rescale are one step.

        ``relinearise=False`` keeps degree two (for sums, see :meth:`relinearise`), ``rescale=False`` the level; a
        degree-two ciphertext is never rescaled, so that the former implies the latter.
        """
        if not isinstance(y, Ciphertext):
            if not relinearise:
                raise ParameterError("multiply: a product with plain values keeps its degree; leave out relinearise")
            return self.multiply_plain(x, y, rescale=rescale)
        agree("multiply", x, y)
        same = x is y
        if x.level != y.level:
            low = min(x.level, y.level)
            x, y = self.at_level(x, low), self.at_level(y, low)
        if x.degree != 1 or y.degree != 1:
            raise ParameterError("multiply: an operand has degree two; relinearise it first")
        broadcast("multiply", x, y)
        scale, level = self._product_scale("multiply", x, y, rescale and relinearise)
        a, b = (x.data, x.data) if same else np.broadcast_arrays(x.data, y.data)
        noise = estimate.product(x.noise, x.bound, y.noise, y.bound)
        bound = x.bound * y.bound
        if not relinearise:
            data = self.backend.tensor_sum(a[None], a[None] if same else b[None], x.moduli)
            return replace(x, data=data, scale=scale, noise=noise, bound=room(bound, x))
        key = self.keys.relinearisation("multiply")
        target = x.params.levels[level]
        a = np.ascontiguousarray(a)
        data = self.backend.multiply_switch(
            a, a if same else np.ascontiguousarray(b), key, gadget_at(x.params, x.level), target
        )
        noise = estimate.switched(self.keys.params, noise, x.level, level, x.scale * y.scale)
        return Ciphertext(data, x.params, level, scale, x.fingerprint, noise, room(bound, x), x.evaluations)

    def square(self, x: Ciphertext, *, relinearise: bool = True, rescale: bool = True) -> Ciphertext:
        """x^2, cheaper than a product of two."""
        return self.multiply(x, x, relinearise=relinearise, rescale=rescale)

    def multiply_plain(self, x: Ciphertext, y: Plaintext | Values, *, rescale: bool = True) -> Ciphertext:
        """x y for known values: noise grows by the largest of them."""
        plain = y if isinstance(y, Plaintext) else self.encode(y, x.level)
        agree("multiply_plain", x, plain)
        if rescale and x.degree != 1:
            raise ParameterError("multiply_plain: a ciphertext of degree two is never rescaled; pass rescale=False")
        scale, _ = self._product_scale("multiply_plain", x, plain, False)
        lead = broadcast("multiply_plain", x, plain)
        wide = np.broadcast_to(x.data, (*lead, *x.data.shape[-3:]))
        data = self.backend.mul(wide, plain.data[..., None, :, :] if plain.data.ndim > 2 else plain.data, x.moduli)
        n = x.params.n
        rounding = estimate.slots(n, estimate.ENCODING) / float(plain.scale)
        noise = math.hypot(x.noise * plain.bound, x.bound * rounding)
        result = replace(x, data=data, scale=scale, noise=noise, bound=room(x.bound * plain.bound, x))
        return self.rescale(result) if rescale else result

    def sum_of_products(self, x: Ciphertext, y: Ciphertext, *, rescale: bool = True) -> Ciphertext:
        """``sum_i x_i y_i`` over the first batch axis, relinearised once."""
        agree("sum_of_products", x, y)
        if x.level != y.level:
            low = min(x.level, y.level)
            x, y = self.at_level(x, low), self.at_level(y, low)
        if x.shape != y.shape or not x.shape or not x.shape[0] or x.degree != 1 or y.degree != 1:
            raise ParameterError(
                f"sum_of_products: batches {x.shape} and {y.shape} must be equal, of degree one, not empty"
            )
        scale, _ = self._product_scale("sum_of_products", x, y, False)
        data = self.backend.tensor_sum(x.data, y.data, x.moduli)
        terms = x.shape[0]
        noise = math.sqrt(terms) * estimate.product(x.noise, x.bound, y.noise, y.bound)
        bound = room(terms * x.bound * y.bound, x)
        return self.relinearise(replace(x, data=data, scale=scale, noise=noise, bound=bound), rescale=rescale)

    def relinearise(self, x: Ciphertext, *, rescale: bool = True) -> Ciphertext:
        """Degree two to degree one, and by default one level lower in the same step."""
        if x.degree != 2:
            raise ParameterError(f"relinearise: the ciphertext has degree {x.degree}; only degree two needs it")
        require_evaluations("relinearise", x, self.keys)
        level = self._below("relinearise", x) if rescale else x.level
        key = self.keys.relinearisation("relinearise")
        gadget = gadget_at(x.params, x.level)
        data = self.backend.switch_key(x.data, key, 1, gadget, x.params.levels[level])
        scale = after_rescale(x.params, x.level, x.scale) if rescale else x.scale
        return replace(
            x,
            data=data,
            level=level,
            scale=scale,
            noise=estimate.switched(self.keys.params, x.noise, x.level, level, x.scale),
        )

    def rescale(self, x: Ciphertext) -> Ciphertext:
        """One level lower; the scale is divided by exactly the ratio of the moduli."""
        if x.degree != 1:
            raise ParameterError(
                "rescale: a ciphertext of degree two is never rescaled (noise times 200); relinearise it"
            )
        require_evaluations("rescale", x, self.keys)
        level = self._below("rescale", x)
        data = self.backend.switch_modulus(x.data, x.moduli, x.params.levels[level])
        scale = after_rescale(x.params, x.level, x.scale)
        if scale < 1:
            raise BudgetError(
                f"rescale: the scale 2^{log2(x.scale):.1f} would fall below 1; nothing is left to rescale"
            )
        noise = math.hypot(x.noise, estimate.slots(x.params.n, estimate.rounding(x.params.n)) / float(scale))
        return replace(x, data=data, level=level, scale=scale, noise=noise)

    def at_level(self, x: Ciphertext, level: int, scale: Fraction | None = None) -> Ciphertext:
        """The same values at a lower ``level`` and its scale (or ``scale``): a product with an integer, one switch."""
        return at_level("at_level", self.backend, x, level, scale)

    # -- automorphisms ---------------------------------------------------------------------------------
    def rotate(self, x: Ciphertext, steps: int) -> Ciphertext:
        """Slot j takes slot j + steps, modulo n/2: ``np.roll(values, -steps)``. Negative steps go to the right."""
        return self._turn("rotate", x, rotation_element(x.params.n, steps))

    def conjugate(self, x: Ciphertext) -> Ciphertext:
        """The complex conjugate of every slot."""
        return self._turn("conjugate", x, conjugation_element(x.params.n))

    def rotate_many(self, x: Ciphertext, steps: Sequence[int]) -> Ciphertext:
        """Rotations by each of ``steps``, as a first batch axis: x is decomposed once, each costs about half a
        rotation."""
        require_turnable("rotate_many", x, self.keys)
        elements = [rotation_element(x.params.n, s) for s in steps]
        turning = [g for g in elements if g != 1]
        keys = [self.keys.galois("rotate_many", g) for g in turning]
        gadget = gadget_at(x.params, x.level)
        digits = self.backend.decompose(np.ascontiguousarray(x.data[..., 1, :, :]), gadget)
        c0 = np.ascontiguousarray(x.data[..., 0, :, :])
        data = self.backend.switch_keys(digits, c0, keys, turning, gadget, x.moduli)
        if len(turning) < len(elements):
            rows = iter(data)
            data = np.stack([x.data if g == 1 else next(rows) for g in elements])
        return replace(x, data=data, noise=estimate.switched(self.keys.params, x.noise, x.level, x.level, x.scale))

    def _turn(self, operation: str, x: Ciphertext, element: int) -> Ciphertext:
        require_turnable(operation, x, self.keys)
        if element == 1:
            return x
        key = self.keys.galois(operation, element)
        data = self.backend.switch_key(x.data, key, element, gadget_at(x.params, x.level), x.moduli)
        return replace(x, data=data, noise=estimate.switched(self.keys.params, x.noise, x.level, x.level, x.scale))

    # -- shared ----------------------------------------------------------------------------------------
    def _below(self, operation: str, x: Ciphertext) -> int:
        if x.level < 1:
            raise BudgetError(
                f"{operation}: level 0 has no rescale left, {x.params.name!r} allows {x.params.depth} in a row; "
                f"{deeper_preset(x.params)}"
            )
        return x.level - 1

    def _product_scale(
        self, operation: str, x: Ciphertext, y: Ciphertext | Plaintext, rescale: bool
    ) -> tuple[Fraction, int]:
        require_evaluations(operation, x, self.keys)
        level = self._below(operation, x) if rescale else x.level
        canonical = x.params.scales
        if rescale and x.scale is y.scale and x.scale is canonical[x.level]:
            return canonical[level], level
        if log2(x.scale) + log2(y.scale) >= x.params.level_bits[x.level] - 1:
            raise BudgetError(
                f"{operation}: the product's scale 2^{log2(x.scale) + log2(y.scale):.1f} exceeds the modulus "
                f"2^{x.params.level_bits[x.level]:.1f} of level {x.level}; {deeper_preset(x.params)}"
            )
        scale = x.scale * y.scale
        return after_rescale(x.params, x.level, scale) if rescale else scale, level


def _padded(x: Ciphertext, degree: int) -> Ciphertext:
    """With zero polynomials up to ``degree``."""
    missing = degree - x.degree
    if missing <= 0:
        return x
    zeros: U32 = np.zeros((*x.shape, missing, *x.data.shape[-2:]), np.uint32)
    return replace(x, data=np.concatenate([x.data, zeros], axis=-3))
