"""The executable definition of every primitive, in plain NumPy. Slow; read it first, it is the specification."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hegpu.backend import checks
from hegpu.backend.chacha_reference import stream_words
from hegpu.backend.protocol import I32, U8, U32, Moduli, Points, SignedInts, Stream, WordForm
from hegpu.backend.reference_switching import SwitchingReference
from hegpu.backend.roots import bit_reversal, primitive_root

U64 = npt.NDArray[np.uint64]


def _column(moduli: Moduli) -> U64:
    return np.array(moduli, np.uint64)[:, None]


class ReferenceBackend(SwitchingReference):
    """See :class:`hegpu.backend.protocol.Backend`."""

    name = "reference"

    def add(self, x: U32, y: U32, moduli: Moduli) -> U32:
        checks.residues("add", x, moduli)
        checks.residues("add", y, moduli)
        return ((x.astype(np.uint64) + y) % _column(moduli)).astype(np.uint32)

    def sub(self, x: U32, y: U32, moduli: Moduli) -> U32:
        checks.residues("sub", x, moduli)
        checks.residues("sub", y, moduli)
        q = _column(moduli)
        return ((x.astype(np.uint64) + q - y) % q).astype(np.uint32)

    def neg(self, x: U32, moduli: Moduli) -> U32:
        checks.residues("neg", x, moduli)
        q = _column(moduli)
        return ((q - x) % q).astype(np.uint32)

    def mul(self, x: U32, y: U32, moduli: Moduli) -> U32:
        checks.residues("mul", x, moduli)
        checks.residues("mul", y, moduli)
        return (x.astype(np.uint64) * y % _column(moduli)).astype(np.uint32)

    def mul_scalar(self, x: U32, scalars: Sequence[int], moduli: Moduli) -> U32:
        checks.residues("mul_scalar", x, moduli)
        checks.scalars("mul_scalar", scalars, moduli)
        reduced = np.array([s % q for s, q in zip(scalars, moduli, strict=True)], np.uint64)[:, None]
        return (x * reduced % _column(moduli)).astype(np.uint32)

    def multiply_accumulate(self, acc: U32, x: U32, y: U32, moduli: Moduli) -> U32:
        return self.add(acc, self.mul(x, y, moduli), moduli)

    def from_signed(self, x: npt.NDArray[np.int64], moduli: Moduli) -> U32:
        checks.signed("from_signed", x, moduli)
        return (x[..., None, :] % np.array(moduli, np.int64)[:, None]).astype(np.uint32)

    def ntt(self, x: U32, moduli: Moduli) -> U32:
        n = checks.residues("ntt", x, moduli)
        out = np.empty_like(x, order="C")
        for limb, q in enumerate(moduli):
            twiddles = _twiddles(n, q, primitive_root(n, q))
            a = x[..., limb, :].astype(np.uint64)
            lead, m = a.shape[:-1], 1
            while m < n:
                a = a.reshape(*lead, m, 2, n // (2 * m))
                w = twiddles[m : 2 * m, None]
                upper, lower = a[..., 0, :], a[..., 1, :] * w % np.uint64(q)
                a = np.stack([(upper + lower) % np.uint64(q), (upper + np.uint64(q) - lower) % np.uint64(q)], axis=-2)
                m *= 2
            out[..., limb, :] = a.reshape(*lead, n)
        return out

    def intt(self, x: U32, moduli: Moduli) -> U32:
        n = checks.residues("intt", x, moduli)
        out = np.empty_like(x, order="C")
        for limb, q in enumerate(moduli):
            twiddles = _twiddles(n, q, pow(primitive_root(n, q), -1, q))
            a = x[..., limb, :].astype(np.uint64)
            lead, m = a.shape[:-1], n // 2
            while m >= 1:
                a = a.reshape(*lead, m, 2, n // (2 * m))
                w = twiddles[m : 2 * m, None]
                upper, lower = a[..., 0, :], a[..., 1, :]
                total = (upper + lower) % np.uint64(q)
                a = np.stack([total, (upper + np.uint64(q) - lower) * w % np.uint64(q)], axis=-2)
                m //= 2
            out[..., limb, :] = a.reshape(*lead, n) * np.uint64(pow(n, -1, q)) % np.uint64(q)
        return out

    def automorphism(self, x: U32, galois_element: int, moduli: Moduli, *, evaluations: bool) -> U32:
        n = checks.residues("automorphism", x, moduli)
        g = checks.galois_element("automorphism", galois_element, n)
        if evaluations:
            return self.ntt(self.automorphism(self.intt(x, moduli), g, moduli, evaluations=False), moduli)
        target = np.arange(n) * g % (2 * n)
        out = np.empty_like(x, order="C")
        out[..., target % n] = np.where(target < n, x, self.neg(x, moduli))
        return out

    def monomial_shift(self, x: U32, power: int, moduli: Moduli) -> U32:
        n = checks.residues("monomial_shift", x, moduli)
        target = (np.arange(n) + power % (2 * n)) % (2 * n)
        out = np.empty_like(x, order="C")
        out[..., target % n] = np.where(target < n, x, self.neg(x, moduli))
        return out

    def _hats(self, x: U32, moduli: Moduli) -> U64:
        """``h_l = x_l (Q/q_l)^-1 mod q_l``."""
        product = math.prod(moduli)
        inverse = [pow(product // q, -1, q) for q in moduli]
        return self.mul_scalar(x, inverse, moduli).astype(np.uint64)

    def convert_basis(self, x: U32, source: Moduli, target: Moduli) -> U32:
        n = checks.residues("convert_basis", x, source)
        checks.conversion("convert_basis", source, target, n)
        product = math.prod(source)
        h = self._hats(x, source)
        v = np.full((*x.shape[:-2], n), 1 << 57, np.uint64)
        for limb, q in enumerate(source):
            v += h[..., limb, :] * np.uint64((1 << 58) // q)
        v >>= np.uint64(58)
        out = np.empty((*x.shape[:-2], len(target), n), np.uint32)
        for t, p in enumerate(target):
            total = v * np.uint64(-product % p) % np.uint64(p)
            for limb, q in enumerate(source):
                total = (total + h[..., limb, :] * np.uint64(product // q % p)) % np.uint64(p)
            out[..., t, :] = total
        return out

    def divide_by_last(self, x: U32, moduli: Moduli, count: int) -> U32:
        checks.residues("divide_by_last", x, moduli)
        checks.drop_count("divide_by_last", moduli, count)
        keep, last = moduli[:-count], moduli[-count:]
        remainder = self.convert_basis(np.ascontiguousarray(x[..., -count:, :]), last, keep)
        difference = self.sub(np.ascontiguousarray(x[..., :-count, :]), remainder, keep)
        return self.mul_scalar(difference, [pow(math.prod(last), -1, q) for q in keep], keep)

    def switch_to_power_of_two(self, x: U32, moduli: Moduli, bits: int) -> U32:
        checks.residues("switch_to_power_of_two", x, moduli)
        checks.bits("switch_to_power_of_two", bits, 32)
        checks.distinct("switch_to_power_of_two", moduli)
        h = self._hats(x, moduli)
        total = np.full((*x.shape[:-2], x.shape[-1]), 1 << (63 - bits), np.uint64)
        for limb, q in enumerate(moduli):
            total += h[..., limb, :] * np.uint64(((1 << 64) + q // 2) // q)
        return np.asarray((total >> np.uint64(64 - bits)).astype(np.uint32))

    def empty_points(self, rows: int, columns: int, n: int, moduli: Moduli) -> Points:
        checks.points_shape("empty_points", rows, columns, n, moduli)
        return Points(np.empty((rows, columns, len(moduli), n), np.uint32), moduli, n, rows, columns)

    def store_points(self, points: Points, x: U32, first: int, step: int, *, transform: bool) -> None:
        checks.store_points("store_points", points, x, first, step)
        columns = first + step * np.arange(x.shape[1])
        points.data[:, columns] = self.ntt(x, points.moduli) if transform else x

    def expand_points(self, points: Points, key: bytes, domain: int, objects: U32, first: int, step: int) -> None:
        checks.stream("expand_points", key, domain, objects)
        checks.column_range("expand_points", points, objects.shape, first, step)
        x = self.sample_uniform(key, domain, objects, points.n, points.moduli)
        self.store_points(points, x, first, step, transform=False)

    def load_points(self, points: Points, first: int, step: int, count: int, *, transform: bool) -> U32:
        checks.column_range("load_points", points, (points.rows, count), first, step)
        x = np.ascontiguousarray(points.data[:, first + step * np.arange(count)])
        return self.intt(x, points.moduli) if transform else x

    def point_matmul(self, w: Points, x: Points) -> Points:
        checks.matmul("point_matmul", w, x)
        out = self.empty_points(w.rows, x.columns, w.n, w.moduli)
        q = _column(w.moduli)
        for o in range(w.rows):
            total = np.zeros((x.columns, len(w.moduli), w.n), np.uint64)
            for i in range(x.rows):
                total += w.data[o, i].astype(np.uint64) * x.data[i] % q
            out.data[o] = total % q
        return out

    def scalar_matmul(self, w: npt.NDArray[np.int16], x: U32, moduli: Moduli) -> U32:
        checks.scalar_matmul("scalar_matmul", w, x, moduli)
        q = np.array(moduli, np.int64)[:, None]
        out = np.zeros((w.shape[0], *x.shape[1:]), np.int64)
        for o in range(w.shape[0]):
            for i in range(w.shape[1]):
                out[o] = (out[o] + int(w[o, i]) * x[i].astype(np.int64)) % q
        return out.astype(np.uint32)

    def sample_uniform(self, key: bytes, domain: int, objects: U32, n: int, moduli: Moduli) -> U32:
        checks.stream("sample_uniform", key, domain, objects)
        checks.ring("sample_uniform", n, moduli)
        out = np.empty((objects.size, len(moduli), n), np.uint32)
        for row, item in enumerate(objects.ravel().tolist()):
            for limb, q in enumerate(moduli):
                limit, attempt = 2**32 // q * q, 0
                words = np.full(n, 2**32 - 1, np.uint32)
                while (rejected := words >= limit).any():
                    words = np.where(rejected, stream_words(key, domain, item, limb + 65536 * attempt, 0, n), words)
                    attempt += 1
                out[row, limb] = words % q
        return out.reshape(*objects.shape, len(moduli), n)

    def sample_ternary(self, key: bytes, domain: int, objects: U32, n: int) -> I32:
        checks.stream("sample_ternary", key, domain, objects)
        checks.degree("sample_ternary", n)
        out = np.empty((objects.size, n), np.int32)
        for row, item in enumerate(objects.ravel().tolist()):
            words = stream_words(key, domain, item, 0, 0, 2 * n).astype(np.uint64)
            low, high = words[:n], words[n:]
            out[row] = ((high * 3 + (low * 3 >> np.uint64(32))) >> np.uint64(32)).astype(np.int32) - 1
        return out.reshape(*objects.shape, n)

    def sample_cbd(self, key: bytes, domain: int, objects: U32, n: int) -> I32:
        checks.stream("sample_cbd", key, domain, objects)
        checks.degree("sample_cbd", n)
        out = np.empty((objects.size, n), np.int32)
        for row, item in enumerate(objects.ravel().tolist()):
            words = stream_words(key, domain, item, 0, 0, n + n // 2)
            w, rest = words[:n], words[n:]
            h = np.concatenate([rest & np.uint32(0xFFFF), rest >> np.uint32(16)])
            ones = _popcount(w & np.uint32((1 << 21) - 1))
            out[row] = ones - _popcount(w >> np.uint32(21)) - _popcount(h & np.uint32(1023))
        return out.reshape(*objects.shape, n)

    def sample_flood(self, key: bytes, domain: int, objects: U32, n: int, bits: int, moduli: Moduli) -> U32:
        checks.stream("sample_flood", key, domain, objects)
        checks.ring("sample_flood", n, moduli)
        checks.bits("sample_flood", bits, 96)
        out = np.empty((objects.size, len(moduli), n), np.uint32)
        for row, item in enumerate(objects.ravel().tolist()):
            words = stream_words(key, domain, item, 0, 0, 24 * n).astype(np.uint64).reshape(8, 3, n)
            sums = np.zeros((3, n), np.uint64)
            for k in range(3):
                sums[k] = (words[:, k] & np.uint64((((1 << bits) - 1) >> (32 * k)) & 0xFFFFFFFF)).sum(axis=0)
            for limb, q in enumerate(moduli):
                total = np.full(n, -4 * ((1 << bits) - 1) % q, np.uint64)
                for k in range(3):
                    total += sums[k] % np.uint64(q) * np.uint64((1 << (32 * k)) % q) % np.uint64(q)
                out[row, limb] = total % np.uint64(q)
        return out.reshape(*objects.shape, len(moduli), n)

    def pack_bits(self, x: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint8]:
        checks.pack("pack_bits", x, bits)
        shifts = np.arange(bits, dtype=np.uint64)
        planes = (x[..., None] >> shifts & np.uint64(1)).astype(np.uint8)
        return np.packbits(planes.reshape(*x.shape[:-1], x.shape[-1] * bits), axis=-1, bitorder="little")

    def unpack_bits(self, x: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint64]:
        checks.unpack("unpack_bits", x, bits, count)
        planes = np.unpackbits(x, axis=-1, count=count * bits, bitorder="little").astype(np.uint64)
        weights = np.uint64(1) << np.arange(bits, dtype=np.uint64)
        return np.asarray((planes.reshape(*x.shape[:-1], count, bits) * weights).sum(axis=-1, dtype=np.uint64))

    def mask_and_pack(self, x: SignedInts, factor: U32, mask: Stream, noise: Stream, moduli: Moduli, drop: int) -> U8:
        n = checks.factor("mask_and_pack", factor, moduli)
        checks.masked("mask_and_pack", x, mask, noise, n)
        a = self.sample_uniform(mask.key, mask.domain, mask.objects, n, moduli)
        e = self.sample_cbd(noise.key, noise.domain, noise.objects, n)
        message = self.from_signed(x.astype(np.int64) + e, moduli)
        v = _compose(self.sub(message, self.intt(self.mul(a, factor, moduli), moduli), moduli), moduli)
        rounded = (v + np.uint64(1 << drop >> 1)) >> np.uint64(drop)
        return self.pack_bits(rounded, checks.value_bits("mask_and_pack", moduli, drop))

    def store_packed(self, points: Points, packed: U8, first: int, step: int, drop: int) -> None:
        width = checks.value_bits("store_packed", points.moduli, drop)
        checks.packed("store_packed", packed, packed.shape[:2], points.n, width)
        checks.column_range("store_packed", points, packed.shape[:2], first, step)
        v = self.unpack_bits(packed, width, points.n)
        checks.largest("store_packed", int(v.max(initial=0)), points.moduli, drop)
        x = self.from_signed((v << np.uint64(drop)).astype(np.int64), points.moduli)
        self.store_points(points, x, first, step, transform=True)

    def store_sparse(self, points: Points, values: I32, positions: U32, first: int, step: int) -> None:
        checks.sparse("store_sparse", points, values, positions)
        x = np.zeros((*values.shape[:2], points.n), np.int64)
        x[..., positions] = values
        self.store_points(points, self.from_signed(x, points.moduli), first, step, transform=True)

    def load_packed(self, points: Points, first: int, step: int, count: int, form: WordForm, constants: U32) -> U8:
        checks.word_form("load_packed", form, points.n)
        checks.constants("load_packed", constants, points.rows, points.moduli)
        x = self.load_points(points, first, step, count, transform=True)
        if constants.size:
            x = self.add(x, np.broadcast_to(constants[:, None, :, None], x.shape), points.moduli)
        if form.bits <= 32:
            words = self.switch_to_power_of_two(x, points.moduli, form.bits).astype(np.uint64)
        else:
            ratio = np.float64(2.0**form.bits) / np.float64(math.prod(points.moduli))
            words = np.rint(_compose(x, points.moduli).astype(np.float64) * ratio).astype(np.uint64)
        words = words[..., form.positions]
        return self.pack_bits((words + np.uint64(1 << form.drop >> 1)) >> np.uint64(form.drop), form.bits - form.drop)

    def unpack_products(self, first: U8, second: U8, factor: U32, moduli: Moduli, form: WordForm) -> SignedInts:
        n = checks.factor("unpack_products", factor, moduli)
        checks.products("unpack_products", moduli, form, n)
        words = self.unpack_bits(second, form.bits, n).astype(np.int64)
        words -= (words >> (form.bits - 1)) << form.bits
        factors = np.broadcast_to(factor, (*words.shape[:-1], *factor.shape))
        product = self.intt(self.mul(self.ntt(self.from_signed(words, moduli), moduli), factors, moduli), moduli)
        v = _compose(product, moduli).astype(np.int64)
        v -= np.where(v > math.prod(moduli) // 2, math.prod(moduli), 0)
        low = self.unpack_bits(first, form.bits - form.drop, form.positions.size) << np.uint64(form.drop)
        total = (v[..., form.positions] + low.astype(np.int64)) & ((1 << form.bits) - 1)
        centred = total - ((total >> (form.bits - 1)) << form.bits)
        return np.asarray(centred.astype(np.int32 if form.bits <= 32 else np.int64))

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
        v = x * np.float64(scale)
        if y is not None:
            v = v + y * np.float64(y_scale)
        result = np.empty(x.shape, x.dtype) if out is None else out
        result[...] = np.rint(np.clip(v, *limits))
        return result


def _compose(x: U32, moduli: Moduli) -> U64:
    """The integers in [0, Q) behind residues ``[..., limb, n]``, Q < 2^60 of one or two moduli."""
    v = x[..., 0, :].astype(np.int64)
    if len(moduli) == 2:
        d = (x[..., 1, :].astype(np.int64) - v) % moduli[1] * pow(moduli[0], -1, moduli[1]) % moduli[1]
        v = v + d * moduli[0]
    return v.astype(np.uint64)


def _popcount(x: U32) -> I32:
    return np.asarray(
        np.unpackbits(x.astype("<u4").view(np.uint8).reshape(-1, 4), axis=-1).sum(axis=-1).astype(np.int32)
    )


def _twiddles(n: int, q: int, root: int) -> U64:
    """``root^bitrev(k)`` at position k."""
    powers = np.ones(n, np.uint64)
    length = 1
    while length < n:
        powers[length : 2 * length] = powers[:length] * np.uint64(pow(root, length, q)) % np.uint64(q)
        length *= 2
    return powers[bit_reversal(n)]
