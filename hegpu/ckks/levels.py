"""What levels and scales demand of operands, and how they are brought together."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np

from hegpu.backend.protocol import Backend
from hegpu.ckks import noise as estimate
from hegpu.ckks.chain import step
from hegpu.ckks.ciphertext import Ciphertext, Plaintext, log2
from hegpu.ckks.evaluation_keys import EvaluationKeys
from hegpu.ckks.params import LEVELLED, Parameters, preset
from hegpu.errors import BudgetError, KeyMismatchError, ParameterError

# Scales closer than this are taken for equal; the difference is counted as noise.
TOLERANCE = Fraction(1, 1 << 25)
# A change of level may multiply by an integer that is rounded, so not by a small one.
MIN_FACTOR = 1 << 20


def agree(operation: str, x: Ciphertext, y: Ciphertext | Plaintext | EvaluationKeys) -> None:
    """Keys, parameters and domains. Errors: :class:`KeyMismatchError`, :class:`ParameterError`."""
    if isinstance(y, Plaintext):
        if x.moduli != y.moduli:
            raise ParameterError(
                f"{operation}: the ciphertext is at level {x.level} ({len(x.moduli)} primes), the plaintext has "
                f"{len(y.moduli)} primes or others; encode it at level {x.level}"
            )
        if x.evaluations != y.evaluations:
            raise ParameterError(
                f"{operation}: one operand holds evaluations, the other coefficients; convert one of them"
            )
        return
    if x.params is not y.params and x.params != y.params:
        raise ParameterError(
            f"{operation}: the operands have parameters {x.params.name!r} ({x.params.hash[:8]}) and {y.params.name!r} "
            f"({y.params.hash[:8]}); use one set of parameters"
        )
    if x.fingerprint != y.fingerprint:
        raise KeyMismatchError(
            f"{operation}: the operands are under keys {x.fingerprint.hex()} and {y.fingerprint.hex()}; use one key"
        )
    if isinstance(y, Ciphertext) and x.evaluations != y.evaluations:
        raise ParameterError(f"{operation}: one operand holds evaluations, the other coefficients; convert one of them")


def require_evaluations(operation: str, x: Ciphertext, keys: EvaluationKeys) -> None:
    """Under these keys, and in the domain where products are pointwise."""
    agree(operation, x, keys)
    if not x.evaluations:
        raise ParameterError(f"{operation}: the ciphertext holds coefficients; transform it to evaluations")


def require_turnable(operation: str, x: Ciphertext, keys: EvaluationKeys) -> None:
    """Also of degree one."""
    require_evaluations(operation, x, keys)
    if x.degree != 1:
        raise ParameterError(f"{operation}: the ciphertext has degree two; relinearise it first")


def broadcast(operation: str, x: Ciphertext, y: Ciphertext | Plaintext) -> tuple[int, ...]:
    """The common shape of two batches. Errors: :class:`ParameterError` if there is none."""
    other = y.shape if isinstance(y, Ciphertext) else y.data.shape[:-2]
    if x.shape == other:
        return x.shape
    try:
        return np.broadcast_shapes(x.shape, other)
    except ValueError as cause:
        raise ParameterError(f"{operation}: batches {x.shape} and {other} do not broadcast; make them equal or one of them 1") from cause  # fmt: skip


def after_rescale(params: Parameters, level: int, scale: Fraction) -> Fraction:
    """The scale one level below ``level``: divided by exactly what the modulus is divided by. The squares of the
    parameters' own scales differ from the next of them by their rounding (2^-100), and become it."""
    exact = scale / step(params.levels, level)
    canonical = params.scales[level - 1]
    return canonical if abs(exact / canonical - 1) < Fraction(1, 1 << 80) else exact


def deeper_preset(params: Parameters) -> str:
    """What to do when the levels are used up."""
    deeper = sorted((depth, name) for name, (_, depth) in LEVELLED.items() if depth > params.depth and name[0] == "c")
    if not deeper:
        return "make deeper parameters with levelled(..., depth)"
    depth, name = deeper[0]
    return f"use fewer products or preset {name!r} (n = {preset(name).n}, {depth} levels)"


def room(bound: float, x: Ciphertext) -> float:
    """A bound on values, not above what the modulus can hold: beyond that a result has wrapped anyway."""
    return float(min(bound, 2.0 ** min(1000.0, x.params.level_bits[x.level] - log2(x.scale) - 1)))


def at_level(operation: str, backend: Backend, x: Ciphertext, level: int, scale: Fraction | None = None) -> Ciphertext:
    """``round(x c / R)``, R the ratio of the moduli, c an integer that brings the scale to that of ``level``.

    Primes are first forgotten, which changes nothing, down to the lowest level that holds none but x's.
    """
    if level == x.level and scale is None:
        return x
    if not 0 <= level < x.level:
        raise BudgetError(f"{operation}: level {x.level} cannot become level {level}; only lower ones, down to 0")
    if not x.evaluations:
        raise ParameterError(f"{operation}: the ciphertext holds coefficients; transform it to evaluations")
    if x.degree != 1:
        raise ParameterError(f"{operation}: a ciphertext of degree two keeps its level; relinearise it first")
    params = x.params
    source = next(l for l in range(level + 1, x.level + 1) if set(params.levels[l]) <= set(x.moduli))
    if source < x.level:
        places = [x.moduli.index(q) for q in params.levels[source]]
        x = replace(x, data=np.ascontiguousarray(x.data[..., places, :]), level=source)
    wanted = params.scales[level] if scale is None else scale
    ratio = math.prod((step(params.levels, l) for l in range(level + 1, x.level + 1)), start=Fraction(1))
    factor = round(wanted * ratio / x.scale)
    exact = x.scale * factor / ratio
    gap = abs(float(exact / wanted - 1))
    if factor < MIN_FACTOR or gap > TOLERANCE:
        raise ParameterError(
            f"{operation}: scale 2^{log2(x.scale):.2f} at level {x.level} cannot become 2^{log2(wanted):.2f} at level "
            f"{level}; rescale first"
        )
    data = backend.switch_modulus(x.data, x.moduli, params.levels[level], factor)
    n = params.n
    noise = math.hypot(x.noise, estimate.slots(n, estimate.rounding(n)) / float(wanted), gap * x.bound)
    moved = replace(x, data=data, level=level, scale=wanted, noise=noise)
    return replace(moved, bound=room(x.bound, moved))


def matched(operation: str, backend: Backend, x: Ciphertext, y: Ciphertext) -> tuple[Ciphertext, Ciphertext, float]:
    """Both at the lower level and one scale, and by how much (relative) the scales differ.

    Errors: :class:`ParameterError` that names both scales.
    """
    if x.level > y.level:
        x = at_level(operation, backend, x, y.level, y.scale)
    elif y.level > x.level:
        y = at_level(operation, backend, y, x.level, x.scale)
    if x.scale is y.scale:
        return x, y, 0.0
    gap = abs(x.scale / y.scale - 1)
    if gap > TOLERANCE:
        raise ParameterError(
            f"{operation}: the scales are 2^{log2(x.scale):.6f} and 2^{log2(y.scale):.6f}; rescale one operand or encode "
            "to one scale"
        )
    return x, y, float(gap)
