"""Argument checks that all backends share: dtype, shapes and ranges, before any kernel runs."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import I32, U8, U32, Moduli, Points, SignedInts, Stream, WordForm
from hegpu.errors import FormatError, ParameterError

MIN_DEGREE, MAX_DEGREE = 1 << 10, 1 << 16


def degree(operation: str, n: int) -> None:
    if not MIN_DEGREE <= n <= MAX_DEGREE or n & (n - 1):
        raise ParameterError(f"{operation}: ring degree n = {n} is not a power of two from 2^10 to 2^16")


def ring(operation: str, n: int, moduli: Moduli) -> None:
    degree(operation, n)
    if not moduli:
        raise ParameterError(f"{operation}: no moduli; give one prime for each limb")
    for q in moduli:
        if not 2 < q < 1 << 30 or q % (2 * n) != 1:
            raise ParameterError(f"{operation}: modulus {q} is not below 2^30 and 1 modulo 2n = {2 * n}")


def residues(operation: str, x: U32, moduli: Moduli) -> int:
    """Checks ``[..., limb, n]`` and returns n."""
    if not isinstance(x, np.ndarray) or x.dtype != np.uint32:
        raise ParameterError(f"{operation}: residues are a uint32 array, not {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim < 2 or x.shape[-2] != len(moduli):
        raise ParameterError(f"{operation}: an array of shape {x.shape} does not match [..., limb={len(moduli)}, n]")
    ring(operation, x.shape[-1], moduli)
    return int(x.shape[-1])


def scalars(operation: str, values: Sequence[int], moduli: Moduli) -> None:
    if len(values) != len(moduli):
        raise ParameterError(f"{operation}: {len(values)} scalars for {len(moduli)} limbs; give one for each limb")


def signed(operation: str, x: npt.NDArray[np.int64], moduli: Moduli) -> int:
    if not isinstance(x, np.ndarray) or x.dtype != np.int64 or x.ndim < 1:
        raise ParameterError(f"{operation}: values are an int64 array [..., n], not {getattr(x, 'dtype', type(x))}")
    if x.size and (int(x.max()) > 1 << 62 or int(x.min()) < -(1 << 62)):
        raise ParameterError(f"{operation}: a value lies outside [-2^62, 2^62]")
    ring(operation, x.shape[-1], moduli)
    return int(x.shape[-1])


def galois_element(operation: str, g: int, n: int) -> int:
    if g % 2 == 0:
        raise ParameterError(f"{operation}: Galois element {g} is even; use an odd number")
    return g % (2 * n)


def conversion(operation: str, source: Moduli, target: Moduli, n: int) -> None:
    ring(operation, n, target)
    distinct(operation, source)


def drop_count(operation: str, moduli: Moduli, count: int) -> None:
    if not 1 <= count < len(moduli):
        raise ParameterError(f"{operation}: cannot drop {count} of {len(moduli)} primes; at least one must remain")
    if count > 32 or len(set(moduli)) != len(moduli):
        raise ParameterError(f"{operation}: the primes are not distinct, or more than 32 are dropped")


def distinct(operation: str, moduli: Moduli) -> None:
    if not 1 <= len(moduli) <= 32 or len(set(moduli)) != len(moduli):
        raise ParameterError(f"{operation}: needs 1..32 distinct primes, not {len(moduli)} with repetitions or none")


def bits(operation: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ParameterError(f"{operation}: bits = {value} is out of range; use 1..{most}")


def points_shape(operation: str, rows: int, columns: int, n: int, moduli: Moduli) -> None:
    ring(operation, n, moduli)
    if rows < 0 or columns < 0:
        raise ParameterError(f"{operation}: {rows} rows and {columns} columns; neither may be negative")


def column_range(operation: str, points: Points, shape: tuple[int, ...], first: int, step: int) -> None:
    """``shape`` is ``[rows, count]`` of what is moved."""
    if len(shape) != 2 or shape[0] != points.rows:
        raise ParameterError(f"{operation}: shape {shape} does not match [rows={points.rows}, columns]")
    if step < 1 or first < 0 or (shape[1] and first + (shape[1] - 1) * step >= points.columns):
        raise ParameterError(
            f"{operation}: columns {first}, {first + step}, ... ({shape[1]} of them) leave the {points.columns} columns"
        )


def store_points(operation: str, points: Points, x: U32, first: int, step: int) -> None:
    n = residues(operation, x, points.moduli)
    if x.ndim != 4 or n != points.n:
        raise ParameterError(f"{operation}: shape {x.shape} does not match [rows, columns, limb, n={points.n}]")
    column_range(operation, points, x.shape[:2], first, step)


def matmul(operation: str, w: Points, x: Points) -> None:
    if w.columns != x.rows or w.n != x.n or w.moduli != x.moduli:
        raise ParameterError(
            f"{operation}: {w.rows}x{w.columns} (n={w.n}, {len(w.moduli)} limbs) times {x.rows}x{x.columns} "
            f"(n={x.n}, {len(x.moduli)} limbs): inner sizes, n and moduli must agree"
        )


def scalar_matmul(operation: str, w: npt.NDArray[np.int16], x: U32, moduli: Moduli) -> int:
    n = residues(operation, x, moduli)
    if w.dtype != np.int16 or w.ndim != 2 or x.ndim < 3 or w.shape[1] != x.shape[0]:
        raise ParameterError(f"{operation}: weights {w.dtype}{w.shape} must be int16 [o, i] for x {x.shape} [i, ...]")
    return n


def stream(operation: str, key: bytes, domain: int, objects: U32) -> None:
    if not isinstance(key, bytes) or len(key) != 32:
        raise ParameterError(f"{operation}: a stream key is 32 bytes")
    if not 0 <= domain < 1 << 32:
        raise ParameterError(f"{operation}: domain {domain} is not a 32-bit word")
    if not isinstance(objects, np.ndarray) or objects.dtype != np.uint32:
        raise ParameterError(f"{operation}: objects are a uint32 array of stream numbers")


def pack(operation: str, x: npt.NDArray[np.uint64], width: int) -> None:
    bits(operation, width, 64)
    if x.dtype != np.uint64 or x.ndim < 1:
        raise ParameterError(f"{operation}: values are a uint64 array [..., m], not {x.dtype}{x.shape}")


def unpack(operation: str, x: npt.NDArray[np.uint8], width: int, count: int) -> None:
    bits(operation, width, 64)
    if x.dtype != np.uint8 or x.ndim < 1 or count < 0 or x.shape[-1] != (count * width + 7) // 8:
        raise ParameterError(f"{operation}: {x.dtype}{x.shape} does not hold {count} values of {width} bits a row")


def value_bits(operation: str, moduli: Moduli, drop: int) -> int:
    """Bits of a value below Q without its ``drop`` lowest, rounded."""
    q = math.prod(moduli)
    if not 1 <= len(moduli) <= 2 or q >= 1 << 60 or not 0 <= drop <= 16:
        raise ParameterError(f"{operation}: {len(moduli)} moduli, Q = 2^{math.log2(q):.1f}, {drop} bits dropped; at most 2, 60 and 16")  # fmt: skip
    return ((q - 1 + (1 << drop >> 1)) >> drop).bit_length()


def factor(operation: str, x: U32, moduli: Moduli) -> int:
    n = residues(operation, x, moduli)
    if x.ndim != 2 or (x >= np.array(moduli, np.uint32)[:, None]).any():
        raise ParameterError(f"{operation}: the factor {x.shape} is not one polynomial [limb, n] of reduced residues")
    return n


def largest(operation: str, value: int, moduli: Moduli, drop: int) -> None:
    if value > (math.prod(moduli) - 1 + (1 << drop >> 1)) >> drop:
        raise FormatError(f"{operation}: a coefficient is not below the modulus; the data are damaged or hostile")


def masked(operation: str, x: SignedInts, mask: Stream, noise: Stream, n: int) -> None:
    for s in (mask, noise):
        stream(operation, s.key, s.domain, s.objects)
    if (mask.key, mask.domain) == (noise.key, noise.domain):
        raise ParameterError(f"{operation}: mask and noise come from one stream; use two keys")
    if (
        x.dtype not in (np.int32, np.int64)
        or x.shape != (*mask.objects.shape, n)
        or not np.array_equal(mask.objects, noise.objects)
    ):
        raise ParameterError(f"{operation}: values {x.dtype}{x.shape} must be int32 or int64 [objects..., n = {n}]")
    most = 30 if x.dtype == np.int32 else 40
    if x.size and (int(x.max()) > 1 << most or int(x.min()) < -(1 << most)):
        raise ParameterError(f"{operation}: a value lies outside [-2^{most}, 2^{most}]")


def word_form(operation: str, form: WordForm, n: int) -> None:
    bits(operation, form.bits, 44)
    p = form.positions
    if not 0 <= form.drop < form.bits or p.dtype != np.uint32 or p.ndim != 1 or not p.size or int(p.max()) >= n:
        raise ParameterError(f"{operation}: {form.bits} bits less {form.drop} at {p.dtype}{p.shape} is no form of n = {n} words")  # fmt: skip


def packed(operation: str, x: U8, lead: tuple[int, ...], count: int, width: int) -> None:
    if x.dtype != np.uint8 or x.shape != (*lead, (count * width + 7) // 8):
        raise ParameterError(f"{operation}: {x.dtype}{x.shape} does not hold {lead} rows of {count} values of {width} bits")  # fmt: skip


def constants(operation: str, x: U32, rows: int, moduli: Moduli) -> None:
    if x.dtype != np.uint32 or (x.size and (x.shape != (rows, len(moduli)) or (x >= np.array(moduli)).any())):
        raise ParameterError(f"{operation}: constants {x.dtype}{x.shape} must be residues [{rows}, {len(moduli)}]")


def products(operation: str, moduli: Moduli, form: WordForm, n: int) -> None:
    word_form(operation, form, n)
    if len(moduli) != 2 or form.bits < 2 or n << form.bits >= math.prod(moduli):
        raise ParameterError(f"{operation}: n 2^(bits-1) = {n} 2^{form.bits - 1} must lie below half of two moduli's product")  # fmt: skip


def requantise(
    operation: str, x: SignedInts, y: SignedInts | None, limits: tuple[float, float], out: SignedInts | None
) -> None:
    low, high = limits
    if x.dtype not in (np.int32, np.int64) or x.ndim > 3:
        raise ParameterError(f"{operation}: {x.dtype}{x.shape} is not int32 or int64 with at most three axes")
    for other in (y, out):
        if other is not None and (other.dtype != x.dtype or other.shape != x.shape):
            raise ParameterError(
                f"{operation}: {other.dtype}{other.shape} must be {x.dtype}{x.shape} as the first term"
            )
    if out is not None and out.ndim and out.shape[-1] > 1 and out.strides[-1] != out.itemsize:
        raise ParameterError(f"{operation}: the last axis of the result is not dense; give it in C order")
    most = 2.0**31 - 1 if x.dtype == np.int32 else 2.0**52
    if not -most <= low <= high <= most:
        raise ParameterError(f"{operation}: limits {low} and {high} are not in order within +-{most:.0f}")


def sparse(operation: str, points: Points, values: I32, positions: U32) -> None:
    ok = values.dtype == np.int32 and values.ndim == 3 and positions.dtype == np.uint32 and positions.ndim == 1
    if not ok or values.shape[2] != positions.size or len(np.unique(positions)) != positions.size:
        raise ParameterError(f"{operation}: values {values.dtype}{values.shape} need as many distinct uint32 positions")
    if positions.size and int(positions.max()) >= points.n:
        raise ParameterError(f"{operation}: position {int(positions.max())} is not below n = {points.n}")
