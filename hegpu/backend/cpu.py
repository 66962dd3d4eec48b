"""The compiled CPU kernels (kernels/cpu): SIMD at run time, threads over the batch, the reference's bits."""

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from hegpu import _cpu
from hegpu.backend import checks, pool
from hegpu.backend.cpu_switching import CpuSwitching
from hegpu.backend.cpu_switching import words as _words
from hegpu.backend.protocol import I32, U8, U32, Moduli, Points, SignedInts, Stream, WordForm
from hegpu.errors import BackendError, ParameterError

_BLOCK = 1 << 21  # residues per block of scalar_matmul: 16 MiB of float64


def simd_levels() -> list[str]:
    """The levels this processor has, slowest first: of "scalar", "avx2", "avx512"."""
    return list(_cpu.levels())


def default_threads() -> int:
    """``HEGPU_THREADS``, or the number of processors this process may use."""
    text = os.environ.get("HEGPU_THREADS")
    if text is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdigit() or not 1 <= int(text) <= 1024:
        raise ParameterError(f"HEGPU_THREADS: {text!r} is not a number of threads; set it to 1..1024 or unset it")
    return int(text)


class CpuBackend(CpuSwitching):
    """See :class:`hegpu.backend.protocol.Backend`. Safe to use from several Python threads at once.

    ``threads``: 1..1024, default :func:`default_threads`. ``simd``: a level of :func:`simd_levels`, default the
    environment's ``HEGPU_SIMD`` or the fastest.
    """

    name = "cpu"

    def __init__(self, threads: int | None = None, simd: str | None = None) -> None:
        threads = default_threads() if threads is None else threads
        if not 1 <= threads <= 1024:
            raise ParameterError(f"CpuBackend: threads={threads} is out of range; use 1..1024")
        simd = simd or os.environ.get("HEGPU_SIMD") or simd_levels()[-1]
        if simd not in simd_levels():
            raise BackendError(f"CpuBackend: this processor has no SIMD level {simd!r}; it has {simd_levels()}")
        self.threads = threads
        self.simd = simd
        self._kernels = _cpu.Cpu(simd, threads)

    def __repr__(self) -> str:
        return f"CpuBackend(threads={self.threads}, simd={self.simd!r})"

    def _binary(self, operation: int, name: str, x: U32, y: U32, moduli: Moduli) -> U32:
        x, y, n = _operands(name, x, y, moduli)
        out = pool.empty(x.shape, np.uint32)
        if out.size:
            self._kernels.binary(operation, out, x, y, _words(moduli), n)
        return out

    def add(self, x: U32, y: U32, moduli: Moduli) -> U32:
        return self._binary(0, "add", x, y, moduli)

    def sub(self, x: U32, y: U32, moduli: Moduli) -> U32:
        return self._binary(1, "sub", x, y, moduli)

    def neg(self, x: U32, moduli: Moduli) -> U32:
        checks.residues("neg", x, moduli)
        return self._binary(1, "neg", np.zeros_like(x), x, moduli)

    def mul(self, x: U32, y: U32, moduli: Moduli) -> U32:
        return self._binary(2, "mul", x, y, moduli)

    def mul_scalar(self, x: U32, scalars: Sequence[int], moduli: Moduli) -> U32:
        n = checks.residues("mul_scalar", x, moduli)
        checks.scalars("mul_scalar", scalars, moduli)
        x = np.ascontiguousarray(x)
        out = pool.empty(x.shape, np.uint32)
        reduced = np.array([s % q for s, q in zip(scalars, moduli, strict=True)], np.uint32)
        if out.size:
            self._kernels.mul_scalar(out, x, reduced, _words(moduli), n)
        return out

    def multiply_accumulate(self, acc: U32, x: U32, y: U32, moduli: Moduli) -> U32:
        n = checks.residues("multiply_accumulate", acc, moduli)
        checks.residues("multiply_accumulate", x, moduli)
        checks.residues("multiply_accumulate", y, moduli)
        acc, x, y = (np.ascontiguousarray(a) for a in np.broadcast_arrays(acc, x, y))
        out = pool.empty(acc.shape, np.uint32)
        if out.size:
            self._kernels.multiply_accumulate(out, acc, x, y, _words(moduli), n)
        return out

    def from_signed(self, x: npt.NDArray[np.int64], moduli: Moduli) -> U32:
        n = checks.signed("from_signed", x, moduli)
        out = pool.empty((*x.shape[:-1], len(moduli), n), np.uint32)
        if out.size:
            self._kernels.from_signed(out, np.ascontiguousarray(x), _words(moduli), n)
        return out

    def _transform(self, name: str, x: U32, moduli: Moduli, inverse: bool) -> U32:
        n = checks.residues(name, x, moduli)
        out = pool.empty(x.shape, np.uint32)
        np.copyto(out, x)
        if out.size:
            self._kernels.transform(out, _words(moduli), n, inverse)
        return out

    def ntt(self, x: U32, moduli: Moduli) -> U32:
        return self._transform("ntt", x, moduli, False)

    def intt(self, x: U32, moduli: Moduli) -> U32:
        return self._transform("intt", x, moduli, True)

    def automorphism(self, x: U32, galois_element: int, moduli: Moduli, *, evaluations: bool) -> U32:
        n = checks.residues("automorphism", x, moduli)
        g = checks.galois_element("automorphism", galois_element, n)
        out = pool.empty(x.shape, np.uint32)
        if out.size:
            self._kernels.automorphism(out, np.ascontiguousarray(x), _words(moduli), n, g, evaluations)
        return out

    def monomial_shift(self, x: U32, power: int, moduli: Moduli) -> U32:
        n = checks.residues("monomial_shift", x, moduli)
        k = power % (2 * n)
        y = self.neg(x, moduli)
        plus, minus = (x, y) if k < n else (y, x)
        k %= n
        return np.concatenate([minus[..., n - k :], plus[..., : n - k]], axis=-1)

    def convert_basis(self, x: U32, source: Moduli, target: Moduli) -> U32:
        n = checks.residues("convert_basis", x, source)
        checks.conversion("convert_basis", source, target, n)
        out = pool.empty((*x.shape[:-2], len(target), n), np.uint32)
        if out.size:
            self._kernels.convert(out, np.ascontiguousarray(x), _words(source), _words(target), n)
        return out

    def divide_by_last(self, x: U32, moduli: Moduli, count: int) -> U32:
        n = checks.residues("divide_by_last", x, moduli)
        checks.drop_count("divide_by_last", moduli, count)
        keep, last = moduli[:-count], moduli[-count:]
        out = pool.empty((*x.shape[:-2], len(keep), n), np.uint32)
        if out.size:
            self._kernels.divide(out, np.ascontiguousarray(x), _words(last), _words(keep), n)
        return out

    def switch_to_power_of_two(self, x: U32, moduli: Moduli, bits: int) -> U32:
        n = checks.residues("switch_to_power_of_two", x, moduli)
        checks.bits("switch_to_power_of_two", bits, 32)
        checks.distinct("switch_to_power_of_two", moduli)
        out = pool.empty((*x.shape[:-2], n), np.uint32)
        if out.size:
            self._kernels.switch_to_power_of_two(out, np.ascontiguousarray(x), _words(moduli), n, bits)
        return out

    def empty_points(self, rows: int, columns: int, n: int, moduli: Moduli) -> Points:
        checks.points_shape("empty_points", rows, columns, n, moduli)
        data = pool.empty((len(moduli), n // 16, rows, columns, 16), np.uint32)
        return Points(data, moduli, n, rows, columns)

    def store_points(self, points: Points, x: U32, first: int, step: int, *, transform: bool) -> None:
        checks.store_points("store_points", points, x, first, step)
        if x.size:
            self._kernels.store_points(
                points.data, np.ascontiguousarray(x), _words(points.moduli), *_columns(points, first, step, x.shape[1]),
                transform,
            )  # fmt: skip

    def expand_points(self, points: Points, key: bytes, domain: int, objects: U32, first: int, step: int) -> None:
        checks.stream("expand_points", key, domain, objects)
        checks.column_range("expand_points", points, objects.shape, first, step)
        if objects.size:
            self._kernels.expand_points(
                points.data, key, domain, np.ascontiguousarray(objects), _words(points.moduli),
                *_columns(points, first, step, objects.shape[1]),
            )  # fmt: skip

    def load_points(self, points: Points, first: int, step: int, count: int, *, transform: bool) -> U32:
        checks.column_range("load_points", points, (points.rows, count), first, step)
        out = pool.empty((points.rows, count, len(points.moduli), points.n), np.uint32)
        if out.size:
            self._kernels.load_points(
                out, points.data, _words(points.moduli), *_columns(points, first, step, count), transform
            )
        return out

    def point_matmul(self, w: Points, x: Points) -> Points:
        checks.matmul("point_matmul", w, x)
        out = self.empty_points(w.rows, x.columns, w.n, w.moduli)
        if out.data.size:
            self._kernels.point_matmul(out.data, w.data, x.data, _words(w.moduli), w.n, w.rows, w.columns, x.columns)
        return out

    def multiply_ceiling(self) -> float:
        """Residue products per second that the 16-bit multiply-add units of ``threads`` cores allow, measured on
        one core without memory traffic: what :meth:`point_matmul` with primes below 2^24 is compared with."""
        best = 0.0
        for _ in range(5):
            start = time.perf_counter()
            products = self._kernels.digit_ceiling(50_000)
            best = max(best, products / (time.perf_counter() - start))
        return best * self.threads

    def scalar_matmul(self, w: npt.NDArray[np.int16], x: U32, moduli: Moduli) -> U32:
        n = checks.scalar_matmul("scalar_matmul", w, x, moduli)
        inner, width = x.shape[0], max(1, _BLOCK // max(1, x.shape[0] + w.shape[0]))
        flat = x.reshape(inner, -1, len(moduli), n)
        out = pool.empty((w.shape[0], *flat.shape[1:]), np.uint32)
        weights = w.astype(np.float64)
        bound = inner * int(np.abs(w.astype(np.int64)).max(initial=0))
        with threadpool_limits(self.threads, "blas"):
            for limb, q in enumerate(moduli):
                split = bound * (q - 1) >= 1 << 53
                for row in range(flat.shape[1]):
                    for first in range(0, n, width):
                        part = flat[:, row, limb, first : first + width]
                        result = pool.empty((w.shape[0], part.shape[1]), np.uint32)
                        if split:  # 15-bit halves: bound * 2^15 < 2^53 for up to 2^23 products of 16-bit weights
                            _cpu.reduce_float64(result, weights @ (part >> 15).astype(np.float64), q, False, 1 << 15)
                            _cpu.reduce_float64(result, weights @ (part & 0x7FFF).astype(np.float64), q, True, 1)
                        else:
                            _cpu.reduce_float64(result, weights @ part.astype(np.float64), q, False, 1)
                        out[:, row, limb, first : first + width] = result
        return out.reshape(w.shape[0], *x.shape[1:])

    def sample_uniform(self, key: bytes, domain: int, objects: U32, n: int, moduli: Moduli) -> U32:
        checks.stream("sample_uniform", key, domain, objects)
        checks.ring("sample_uniform", n, moduli)
        out = pool.empty((*objects.shape, len(moduli), n), np.uint32)
        if out.size:
            self._kernels.sample_uniform(out, key, domain, np.ascontiguousarray(objects), _words(moduli), n)
        return out

    def _small(self, name: str, key: bytes, domain: int, objects: U32, n: int, ternary: bool) -> I32:
        checks.stream(name, key, domain, objects)
        checks.degree(name, n)
        out = pool.empty((*objects.shape, n), np.int32)
        if out.size:
            self._kernels.sample_small(out, key, domain, np.ascontiguousarray(objects), n, ternary)
        return out

    def sample_ternary(self, key: bytes, domain: int, objects: U32, n: int) -> I32:
        return self._small("sample_ternary", key, domain, objects, n, True)

    def sample_cbd(self, key: bytes, domain: int, objects: U32, n: int) -> I32:
        return self._small("sample_cbd", key, domain, objects, n, False)

    def sample_flood(self, key: bytes, domain: int, objects: U32, n: int, bits: int, moduli: Moduli) -> U32:
        checks.stream("sample_flood", key, domain, objects)
        checks.ring("sample_flood", n, moduli)
        checks.bits("sample_flood", bits, 96)
        out = pool.empty((*objects.shape, len(moduli), n), np.uint32)
        if out.size:
            self._kernels.sample_flood(out, key, domain, np.ascontiguousarray(objects), _words(moduli), n, bits)
        return out

    def pack_bits(self, x: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint8]:
        checks.pack("pack_bits", x, bits)
        count = x.shape[-1]
        rows = int(np.prod(x.shape[:-1]))
        out = pool.empty((*x.shape[:-1], (count * bits + 7) // 8), np.uint8)
        if out.size:
            _cpu.pack_bits(out, np.ascontiguousarray(x), rows, count, bits)
        return out

    def unpack_bits(self, x: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint64]:
        checks.unpack("unpack_bits", x, bits, count)
        rows = int(np.prod(x.shape[:-1]))
        out = pool.empty((*x.shape[:-1], count), np.uint64)
        if out.size:
            _cpu.unpack_bits(out, np.ascontiguousarray(x), rows, count, bits)
        return out

    def mask_and_pack(self, x: SignedInts, factor: U32, mask: Stream, noise: Stream, moduli: Moduli, drop: int) -> U8:
        n = checks.factor("mask_and_pack", factor, moduli)
        checks.masked("mask_and_pack", x, mask, noise, n)
        width = checks.value_bits("mask_and_pack", moduli, drop)
        out = pool.empty((*x.shape[:-1], (n * width + 7) // 8), np.uint8)
        if out.size:
            _of(self._kernels, "mask_and_pack", x)(
                out, np.ascontiguousarray(x), np.ascontiguousarray(factor), mask.key, mask.domain, noise.key,
                noise.domain, np.ascontiguousarray(mask.objects), _words(moduli), n, drop, width,
            )  # fmt: skip
        return out

    def store_packed(self, points: Points, packed: U8, first: int, step: int, drop: int) -> None:
        width = checks.value_bits("store_packed", points.moduli, drop)
        checks.packed("store_packed", packed, packed.shape[:2], points.n, width)
        checks.column_range("store_packed", points, packed.shape[:2], first, step)
        if packed.size:
            largest = self._kernels.store_packed(
                points.data, np.ascontiguousarray(packed), _words(points.moduli),
                *_columns(points, first, step, packed.shape[1]), width, drop,
            )  # fmt: skip
            checks.largest("store_packed", largest, points.moduli, drop)

    def store_sparse(self, points: Points, values: I32, positions: U32, first: int, step: int) -> None:
        checks.sparse("store_sparse", points, values, positions)
        checks.column_range("store_sparse", points, values.shape[:2], first, step)
        if values.size:
            self._kernels.store_sparse(
                points.data, np.ascontiguousarray(values), np.ascontiguousarray(positions), _words(points.moduli),
                *_columns(points, first, step, values.shape[1]),
            )  # fmt: skip

    def load_packed(self, points: Points, first: int, step: int, count: int, form: WordForm, constants: U32) -> U8:
        checks.word_form("load_packed", form, points.n)
        checks.constants("load_packed", constants, points.rows, points.moduli)
        checks.column_range("load_packed", points, (points.rows, count), first, step)
        width = (form.positions.size * (form.bits - form.drop) + 7) // 8
        out = pool.empty((points.rows, count, width), np.uint8)
        if out.size:
            self._kernels.load_packed(
                out, points.data, _words(points.moduli), *_columns(points, first, step, count), form.bits, form.drop,
                np.ascontiguousarray(form.positions), np.ascontiguousarray(constants),
            )  # fmt: skip
        return out

    def unpack_products(self, first: U8, second: U8, factor: U32, moduli: Moduli, form: WordForm) -> SignedInts:
        n = checks.factor("unpack_products", factor, moduli)
        checks.products("unpack_products", moduli, form, n)
        count = form.positions.size
        checks.packed("unpack_products", first, first.shape[:-1], count, form.bits - form.drop)
        checks.packed("unpack_products", second, first.shape[:-1], n, form.bits)
        out: SignedInts = pool.empty((*first.shape[:-1], count), np.int32 if form.bits <= 32 else np.int64)
        if out.size:
            _of(self._kernels, "unpack_products", out)(
                out, np.ascontiguousarray(first), np.ascontiguousarray(second), np.ascontiguousarray(factor),
                _words(moduli), n, form.bits, form.drop, np.ascontiguousarray(form.positions),
            )  # fmt: skip
        return out

    def requantise(
        self,
        x: SignedInts,
        scale: float,
        y: SignedInts | None,
        y_scale: float,
        limits: tuple[float, float],
        out: SignedInts | None = None,
    ) -> SignedInts:
        checks.requantise("requantise", x, y, limits, out)
        result: SignedInts = pool.empty(x.shape, x.dtype) if out is None else out
        if result.size:
            whole = all(a is None or a.flags.c_contiguous for a in (x, y, result))
            axes = (1, 1, x.size) if whole else (1,) * (3 - x.ndim) + x.shape
            second = np.empty((0, 0, 0), x.dtype) if y is None else _dense_rows(y).reshape(axes)
            _of(self._kernels, "requantise", x)(
                result.reshape(axes), _dense_rows(x).reshape(axes), scale, second, y_scale, *limits
            )
        return result


def _of(kernels: Any, name: str, x: SignedInts) -> Any:
    """The kernel for int32 or for int64 values."""
    return getattr(kernels, name if x.dtype == np.int32 else f"{name}_wide")


def _dense_rows(x: SignedInts) -> SignedInts:
    return x if x.flags.c_contiguous or x.strides[-1] == x.itemsize else np.ascontiguousarray(x)


def _columns(points: Points, first: int, step: int, count: int) -> tuple[int, int, int, int, int, int]:
    return points.n, points.rows, points.columns, first, step, count


def _operands(name: str, x: U32, y: U32, moduli: Moduli) -> tuple[U32, U32, int]:
    """Contiguous operands; the second may be a suffix of the first's shape, the kernels repeat it."""
    n = checks.residues(name, x, moduli)
    checks.residues(name, y, moduli)
    if x.shape[x.ndim - y.ndim :] != y.shape:
        x, y = np.broadcast_arrays(x, y)
    return np.ascontiguousarray(x), np.ascontiguousarray(y), n
