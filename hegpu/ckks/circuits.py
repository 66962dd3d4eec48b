"""Circuits on slots: inner sums, matrix-vector products, polynomials. What rotations they need is asked beforehand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import U32
from hegpu.ckks.ciphertext import Ciphertext
from hegpu.ckks.encoder import encode_slots
from hegpu.ckks.evaluation_keys import gadget_at, rotation_element
from hegpu.ckks.evaluator import Evaluator
from hegpu.ckks.levels import after_rescale, agree, deeper_preset, require_turnable, room
from hegpu.ckks.noise import ENCODING, key_switch, rounding, slots
from hegpu.errors import BudgetError, ParameterError


def _power_of_two(operation: str, size: int, most: int) -> None:
    if not 1 <= size <= most or size & (size - 1):
        raise ParameterError(f"{operation}: {size} is not a power of two from 1 to {most}")


def sum_rotations(size: int) -> list[int]:
    """What :func:`inner_sum` over ``size`` slots rotates by."""
    return [1 << k for k in range(size.bit_length() - 1)]


def inner_sum(evaluator: Evaluator, x: Ciphertext, size: int) -> Ciphertext:
    """Slot j becomes the sum of slots j .. j + size - 1 (modulo n/2), ``size`` a power of two: log2(size) rotations."""
    _power_of_two("inner_sum", size, x.params.n // 2)
    for steps in sum_rotations(size):
        x = evaluator.add(x, evaluator.rotate(x, steps))
    return x


def sum_of_rotations(evaluator: Evaluator, x: Ciphertext, steps: Sequence[int], weights: npt.ArrayLike) -> Ciphertext:
    """``sum_i weights[i] rotate(x, steps[i])``, one level lower: one decomposition, one division for the whole sum.

    ``weights``: a number for each of ``steps`` (distinct modulo n/2), or slots ``[len(steps), m <= n/2]``. Rotated terms
    stay modulo QP until they are summed, so the sum has the noise of about one key switch.
    """
    require_turnable("sum_of_rotations", x, evaluator.keys)
    params, n = x.params, x.params.n
    turns = np.array([s % (n // 2) for s in steps], np.int64)
    w = np.asarray(weights)
    if w.ndim not in (1, 2) or not 0 < len(turns) == len(w) == len(set(turns.tolist())):
        raise ParameterError(f"sum_of_rotations: weights {w.shape} do not match {len(turns)} steps, which must differ")
    if x.level < 1:
        raise BudgetError(f"sum_of_rotations: level 0 has no rescale left; {deeper_preset(params)}")
    order = np.argsort(turns)
    slots_ = np.repeat(w[:, None], n // 2, axis=1) if w.ndim == 1 else w
    extended, scale = gadget_at(params, x.level).extended, params.scales[x.level]
    plain = encode_slots(evaluator.backend, slots_[order], scale, n, extended)
    terms = _extended_rotations(evaluator, x, turns[order].tolist())
    total = evaluator.backend.sum_of_products(terms, evaluator.backend.ntt(plain.data, extended), extended)
    norm = float(np.abs(slots_).sum(axis=0).max())
    return _divided(evaluator, x, total, scale, norm, len(turns))


def _divided(evaluator: Evaluator, x: Ciphertext, total: U32, scale: Fraction, norm: float, terms: int) -> Ciphertext:
    """Weighted rotations of ``x`` summed modulo QP, divided by P and rescaled. ``norm``: of the weights of a slot."""
    params, n = x.params, x.params.n
    data = evaluator.backend.switch_modulus(total, gadget_at(params, x.level).extended, params.levels[x.level - 1])
    after = after_rescale(params, x.level, x.scale * scale)
    single = slots(n, key_switch(params, x.level)) / float(x.scale)
    noise = math.hypot(
        norm * math.hypot(x.noise, single), math.sqrt(terms) * x.bound * slots(n, ENCODING) / float(scale),
        slots(n, rounding(n)) / float(after),
    )  # fmt: skip
    result = replace(x, data=data, level=x.level - 1, scale=after, noise=noise)
    return replace(result, bound=room(max(norm, 1e-300) * x.bound, result))


@dataclass(frozen=True, eq=False)
class Matrix:
    """A plain matrix encoded for :func:`matrix_vector`: ``data`` ``[giant, baby, extended limb, n]``, evaluations."""

    data: U32
    level: int
    scale: Fraction
    period: int
    babies: tuple[int, ...]
    giants: tuple[int, ...]
    norm: float  # largest sum of absolute values of a row
    largest: float  # largest absolute value


def _split(period: int) -> int:
    """Baby steps: about the square root, a little more since a hoisted rotation costs less than a giant step."""
    return 1 << ((period.bit_length()) // 2)


def matrix_rotations(period: int) -> list[int]:
    """What :func:`matrix_vector` with a full ``period`` x ``period`` matrix rotates by."""
    babies = _split(period)
    return [*range(1, babies), *range(babies, period, babies)]


def encode_matrix(evaluator: Evaluator, matrix: npt.ArrayLike, level: int) -> Matrix:
    """A real or complex ``matrix`` ``[d, d]``, d a power of two up to n/2, for products with ciphertexts of ``level``
    whose slots repeat with period d.

    The diagonals are encoded modulo Q and P, shifted for their giant steps; diagonals that are zero are left out.
    """
    m = np.asarray(matrix)
    params = evaluator.keys.params
    n, period = params.n, len(m) if m.ndim else 0
    if m.shape != (period, period) or not np.isfinite(m).all():
        raise ParameterError(f"encode_matrix: shape {m.shape} is not square, or values are not finite")
    _power_of_two("encode_matrix", period, n // 2)
    if not 1 <= level <= params.depth:
        raise BudgetError(f"encode_matrix: level {level} is not one of 1..{params.depth}; a product takes one level")
    step = _split(period)
    rows = np.arange(period)
    diagonals = np.stack([m[rows, (rows + r) % period] for r in range(period)])
    used = np.flatnonzero(np.abs(diagonals).max(axis=1))
    babies = tuple(sorted({int(r) % step for r in used})) or (0,)
    giants = tuple(sorted({int(r) - int(r) % step for r in used})) or (0,)
    shifted = np.array([[np.roll(diagonals[g + b], g) for b in babies] for g in giants], dtype=np.complex128)
    extended = gadget_at(params, level).extended
    scale = params.scales[level]
    plain = encode_slots(evaluator.backend, np.tile(shifted, n // 2 // period), scale, n, extended)
    norm = float(np.abs(m).sum(axis=1).max(initial=0))
    return Matrix(evaluator.backend.ntt(plain.data, extended), level, scale, period, babies, giants, norm, plain.bound)


def matrix_vector(evaluator: Evaluator, matrix: Matrix, x: Ciphertext) -> Ciphertext:
    """``matrix @ v`` for slots v that repeat with the matrix's period; one level lower.

    Diagonals by baby steps and giant steps, doubly hoisted: x is decomposed once, baby rotations stay modulo QP, each
    giant step decomposes once more, and the last division by P takes the rescale with it (Bossuat et al., EUROCRYPT
    2021, section 4).
    """
    if x.level != matrix.level:
        x = evaluator.at_level(x, matrix.level)
    require_turnable("matrix_vector", x, evaluator.keys)
    backend, n = evaluator.backend, x.params.n
    gadget = gadget_at(x.params, x.level)
    keys = {
        steps: evaluator.keys.galois("matrix_vector", rotation_element(n, steps))
        for steps in {*matrix.babies, *matrix.giants} - {0}
    }
    baby = _extended_rotations(evaluator, x, matrix.babies)
    total: U32 | None = None
    for row, giant in zip(matrix.data, matrix.giants, strict=True):
        part = backend.sum_of_products(baby, np.ascontiguousarray(row), gadget.extended)
        if giant:
            low = backend.switch_modulus(part, gadget.extended, gadget.moduli)
            digits = backend.decompose(np.ascontiguousarray(low[..., 1, :, :]), gadget)
            c0 = np.ascontiguousarray(low[..., 0, :, :])
            part = backend.gadget_product(digits, c0, [keys[giant]], [rotation_element(n, giant)], gadget)[0]
        total = part if total is None else backend.add(total, part, gadget.extended)
    assert total is not None
    terms = len(matrix.babies) * len(matrix.giants)
    result = _divided(evaluator, x, total, matrix.scale, matrix.norm, terms)
    giants = math.sqrt(len(matrix.giants)) * slots(n, rounding(n)) / float(x.scale * matrix.scale)
    return replace(result, noise=math.hypot(result.noise, giants))


def _extended_rotations(evaluator: Evaluator, x: Ciphertext, steps: Sequence[int]) -> U32:
    """P times the rotations of x modulo QP, before any division: ``[steps, batch..., 2, extended, n]``."""
    backend, n = evaluator.backend, x.params.n
    gadget = gadget_at(x.params, x.level)
    turning = [s for s in steps if s]
    keys = [evaluator.keys.galois("matrix_vector", rotation_element(n, s)) for s in turning]
    digits = backend.decompose(np.ascontiguousarray(x.data[..., 1, :, :]), gadget)
    c0 = np.ascontiguousarray(x.data[..., 0, :, :])
    out = backend.gadget_product(digits, c0, keys, [rotation_element(n, s) for s in turning], gadget)
    if len(turning) == len(steps):
        return out
    unturned = np.zeros((1, *x.shape, 2, len(gadget.extended), n), np.uint32)
    factor = [math.prod(gadget.special)] * len(gadget.moduli)
    unturned[0, ..., : len(gadget.moduli), :] = backend.mul_scalar(x.data, factor, gadget.moduli)
    return np.concatenate([unturned, out])  # steps are sorted: 0 comes first


@dataclass(frozen=True)
class _Plan:
    """Powers below ``block`` are made, then the polynomial is halved at block 2^k."""

    block: int
    depth: int
    products: int


def _plans(degree: int) -> list[_Plan]:
    plans = []
    block = 2
    while block <= 2 * degree:
        giants = max(0, math.ceil(math.log2((degree + 1) / block))) if degree >= block else 0
        babies = block - 2 if degree >= block else max(0, degree - 1)
        leaves = math.ceil((degree + 1) / block)
        depth = max(1, math.ceil(math.log2(min(block - 1, degree))) + 1) + giants if degree else 0
        plans.append(_Plan(block, depth, babies + giants + leaves - 1))
        block *= 2
    return plans


def polynomial_depth(degree: int) -> int:
    """The fewest levels that :func:`evaluate_polynomial` of this degree takes."""
    return min((p.depth for p in _plans(degree)), default=0)


def evaluate_polynomial(evaluator: Evaluator, x: Ciphertext, coefficients: Sequence[float]) -> Ciphertext:
    """``sum_k coefficients[k] x^k`` in every slot, by Paterson and Stockmeyer (SIAM J. Computing 2, 1973).

    Of the splits that fit the levels left, the one with the fewest products of ciphertexts is taken.
    Errors: :class:`BudgetError` if none fits; :class:`ParameterError` for no coefficients or NaN.
    """
    c = np.trim_zeros(np.atleast_1d(np.asarray(coefficients, np.float64)), "b")
    if c.ndim != 1 or not np.isfinite(c).all():
        raise ParameterError("evaluate_polynomial: the coefficients must be one row of finite real numbers")
    agree("evaluate_polynomial", x, evaluator.keys)
    if len(c) <= 1:
        zero = evaluator.sub(x, x)
        return evaluator.add(replace(zero, bound=abs(c).max(initial=0) or 1.0), float(c.sum()))
    plans = [p for p in _plans(len(c) - 1) if p.depth <= x.level]
    if not plans:
        raise BudgetError(
            f"evaluate_polynomial: degree {len(c) - 1} takes at least {polynomial_depth(len(c) - 1)} levels, {x.level} are "
            f"left; use a preset with more, or a lower degree"
        )
    plan = min(plans, key=lambda p: (p.products, p.depth))
    powers = {1: x}
    for k in range(2, min(plan.block, len(c))):
        powers[k] = evaluator.multiply(powers[(k + 1) // 2], powers[k // 2])
    giant = plan.block
    while giant < len(c):
        powers[giant] = evaluator.square(powers[giant // 2])
        giant *= 2
    return _evaluate(evaluator, powers, c, plan.block)


def _evaluate(
    evaluator: Evaluator, powers: dict[int, Ciphertext], c: npt.NDArray[np.float64], block: int
) -> Ciphertext:
    if len(c) <= block:
        return _combination(evaluator, powers, c)
    split = block
    while 2 * split < len(c):
        split *= 2
    high, low = c[split:], c[:split]
    top = powers[split]
    if len(high) == 1:  # a multiple of a power is a leaf by itself
        result = evaluator.multiply_plain(top, float(high[0]))
    else:
        result = evaluator.multiply(_evaluate(evaluator, powers, high, block), top)
    if not np.any(low[1:]):
        return evaluator.add(result, float(low[0])) if low[0] else result
    return evaluator.add(result, _evaluate(evaluator, powers, np.trim_zeros(low, "b"), block))


def _combination(evaluator: Evaluator, powers: dict[int, Ciphertext], c: npt.NDArray[np.float64]) -> Ciphertext:
    """``sum c_k x^k`` with one rescale."""
    used = [k for k in range(1, len(c)) if c[k]]
    if not used:
        zero = evaluator.multiply_plain(powers[1], 0.0)
        return evaluator.add(zero, float(c[0]))
    level = min(powers[k].level for k in used)
    total: Ciphertext | None = None
    for k in used:
        term = evaluator.multiply_plain(evaluator.at_level(powers[k], level), float(c[k]), rescale=False)
        total = term if total is None else evaluator.add(total, term)
    assert total is not None
    total = evaluator.rescale(total)
    return evaluator.add(total, float(c[0])) if c[0] else total
