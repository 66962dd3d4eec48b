"""The primitives that every backend provides: arrays in, arrays out, no encryption words.

Conventions, the same for every backend:

* Residues are ``uint32`` arrays shaped ``[..., limb, n]``, C-contiguous, limb ``l`` reduced to
  ``[0, q_l)``. ``moduli`` is a tuple of ``limb`` primes ``q_l = 1 mod 2n``, each below 2^30.
  Inputs out of range give unspecified residues, never a crash. Every result lies in ``[0, q_l)``.
* Leading dimensions are batch; any size, including 0 and odd sizes.
* ``n`` is a power of two, 2^10 to 2^16.
* Same input, same bits, on every backend. Inputs are never modified; results are new arrays.
* Evaluation order: the forward transform of ``x`` has ``x(psi^(2 bitrev(k) + 1))`` at position ``k``,
  ``bitrev`` over log2(n) bits, ``psi`` from :func:`hegpu.backend.roots.primitive_root`.

Random streams. ``key`` is 32 bytes. Stream ``(domain, object, index)`` is ChaCha20 (RFC 8439, 20 rounds)
with that key, 96-bit nonce = the three ``uint32`` words ``(domain, object, index)``, block counter from 0.
Word ``256 k + 16 i + b`` of a stream is word ``i`` of block ``16 k + b`` (``0 <= i, b < 16``): sixteen blocks
side by side, the order in which SIMD lanes and GPU warps produce them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
SignedInts = npt.NDArray[np.signedinteger[Any]]  # int32 or int64
Moduli = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Points:
    """A matrix of polynomials in point-major order, for :meth:`Backend.point_matmul`.

    ``data`` is opaque: each backend has its own layout. ``rows`` x ``columns`` polynomials of ``n`` residues
    per modulus, in the evaluation domain.
    """

    data: Any
    moduli: Moduli
    n: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Stream:
    """Where a sampler reads: ``objects`` number the polynomials, see the module's text."""

    key: bytes = field(repr=False)
    domain: int
    objects: U32


@dataclass(frozen=True, slots=True, eq=False)
class WordForm:
    """Words of 2^``bits`` with the lowest ``drop`` bits rounded away, those at ``positions`` (uint32, below n) only."""

    bits: int
    drop: int
    positions: U32


@dataclass(frozen=True, slots=True)
class Gadget:
    """How residues modulo ``moduli`` are cut into digits, and which rows of a key those meet.

    Digit d holds the next ``digits[d]`` of ``moduli`` (D_d their product) and is lifted to ``extended``, the moduli
    followed by the ``special`` primes (P their product). ``key_rows[e]`` is the row in a key of extended limb e,
    ``key_digits[d]`` the key's digit. At most 14 digits, 32 primes a digit, 30 special primes.
    """

    moduli: Moduli
    special: Moduli
    digits: tuple[int, ...]
    key_rows: tuple[int, ...]
    key_digits: tuple[int, ...]

    @property
    def extended(self) -> Moduli:
        return self.moduli + self.special


@dataclass(frozen=True, slots=True, eq=False)
class GadgetKey:
    """Evaluations ``first``, ``second`` ``[digit, limb, n]`` modulo ``moduli``, all the rows there are.

    ``second`` None: it is :meth:`Backend.sample_uniform` of stream ``(domain, digit)`` under ``seed``, made anew
    where it is needed, half the memory.
    """

    moduli: Moduli
    first: U32
    second: U32 | None
    seed: bytes
    domain: int


class Backend(Protocol):
    """What a backend computes. See the module's text for shapes, ranges and streams."""

    name: str

    # -- pointwise, modulo q_l -------------------------------------------------------------------------
    def add(self, x: U32, y: U32, moduli: Moduli) -> U32:
        """``x + y``; operands broadcast over the leading dimensions."""
        ...

    def sub(self, x: U32, y: U32, moduli: Moduli) -> U32:
        """``x - y``; operands broadcast over the leading dimensions."""
        ...

    def neg(self, x: U32, moduli: Moduli) -> U32:
        """``-x``."""
        ...

    def mul(self, x: U32, y: U32, moduli: Moduli) -> U32:
        """``x * y``, coefficient by coefficient; operands broadcast over the leading dimensions."""
        ...

    def mul_scalar(self, x: U32, scalars: Sequence[int], moduli: Moduli) -> U32:
        """``x * scalars[l] mod q_l``; any Python integers, one for each limb."""
        ...

    def multiply_accumulate(self, acc: U32, x: U32, y: U32, moduli: Moduli) -> U32:
        """``acc + x * y``; operands broadcast over the leading dimensions."""
        ...

    def from_signed(self, x: npt.NDArray[np.int64], moduli: Moduli) -> U32:
        """Residues of int64 values ``[..., n]`` in [-2^62, 2^62] -> ``[..., limb, n]``."""
        ...

    # -- transforms ------------------------------------------------------------------------------------
    def ntt(self, x: U32, moduli: Moduli) -> U32:
        """Negacyclic forward transform, coefficients -> evaluations."""
        ...

    def intt(self, x: U32, moduli: Moduli) -> U32:
        """Inverse of :meth:`ntt`, the factor 1/n included."""
        ...

    def automorphism(self, x: U32, galois_element: int, moduli: Moduli, *, evaluations: bool) -> U32:
        """``x(X^g) mod X^n + 1`` for odd ``g`` (taken modulo 2n), in either domain."""
        ...

    def monomial_shift(self, x: U32, power: int, moduli: Moduli) -> U32:
        """``x * X^power mod X^n + 1`` in the coefficient domain; any integer power."""
        ...

    # -- change of modulus (coefficient domain) ---------------------------------------------------------
    def convert_basis(self, x: U32, source: Moduli, target: Moduli) -> U32:
        """Residues modulo ``target`` of the centred representative of ``x`` modulo ``prod(source)``.

        With Q the product, ``h_l = x_l (Q/q_l)^-1 mod q_l`` and
        ``v = (sum_l h_l floor(2^58 / q_l) + 2^57) >> 58`` the result is ``sum_l h_l (Q/q_l) - v Q``: exact for
        ``|x| < Q/2 (1 - limbs 2^-26)``, at the edge it may be the other representative. At most 32 limbs.
        """
        ...

    def divide_by_last(self, x: U32, moduli: Moduli, count: int) -> U32:
        """``(x - r) / P`` modulo the remaining primes, P the product of the last ``count``, r the centred
        residue of x modulo P (by :meth:`convert_basis`): division rounded to nearest. ``[..., limb-count, n]``."""
        ...

    def switch_to_power_of_two(self, x: U32, moduli: Moduli, bits: int) -> U32:
        """``x 2^bits / Q mod 2^bits`` to the nearest integer, 1 <= bits <= 32: ``[..., limb, n]`` -> ``[..., n]``.

        Before rounding the value errs by less than ``limbs 2^(bits-35)`` (so at ties another neighbour may win);
        1..32 distinct primes.

        Definition: ``acc = sum_l h_l round(2^64 / q_l) mod 2^64`` with ``h_l = x_l (Q/q_l)^-1 mod q_l``;
        the result is ``((acc + 2^(63-bits)) mod 2^64) >> (64 - bits)``.
        """
        ...

    # -- change of modulus and products with a key (evaluation domain) ------------------------------------
    def switch_modulus(self, x: U32, source: Moduli, target: Moduli, factor: int = 1) -> U32:
        """``round(x factor G / D)`` modulo ``target``: D the product of the source primes that are not in the target
        (1..32 of them), G of the target primes that are not in the source. ``[..., source, n] -> [..., target, n]``.

        Exactly ``(x factor G - r) / D`` with r = :meth:`convert_basis` of ``x factor G`` modulo D, to the target.
        """
        ...

    def decompose(self, x: U32, gadget: Gadget) -> U32:
        """The digits of ``x`` ``[..., limb, n]``, centred and lifted: ``[..., digit, extended, n]``, evaluations.

        Digit d at prime p of its own group is ``x mod p``, elsewhere :meth:`convert_basis` from its group."""
        ...

    def gadget_product(
        self, digits: U32, addend: U32, keys: Sequence[GadgetKey], elements: Sequence[int], gadget: Gadget
    ) -> U32:
        """For each key and Galois element g: ``(P addend + sum_d digits_d first_d, sum_d digits_d second_d)(X^g)``
        modulo ``extended``: ``[key, ..., 2, extended, n]``. ``digits`` from :meth:`decompose`, ``addend``
        ``[..., limb, n]``; every key encrypts for the automorphism that follows (Bossuat et al., EUROCRYPT 2021,
        section 4)."""
        ...

    def switch_keys(
        self,
        digits: U32,
        addend: U32,
        keys: Sequence[GadgetKey],
        elements: Sequence[int],
        gadget: Gadget,
        target: Moduli,
    ) -> U32:
        """:meth:`gadget_product`, but the automorphism is applied after :meth:`switch_modulus` from ``extended`` to
        ``target``: ``[key, ..., 2, target, n]``."""
        ...

    def switch_key(self, x: U32, key: GadgetKey, element: int, gadget: Gadget, target: Moduli) -> U32:
        """``x`` ``[..., 2 or 3, limb, n]``: the last polynomial decomposed and multiplied by ``key``, the others added
        times P, then as :meth:`switch_keys`: ``[..., 2, target, n]``. Two polynomials: a rotation, three: a
        relinearisation; with primes of ``moduli`` missing in ``target`` the rescale is part of it."""
        ...

    def multiply_switch(self, x: U32, y: U32, key: GadgetKey, gadget: Gadget, target: Moduli) -> U32:
        """:meth:`switch_key` of :meth:`tensor_sum` of one pair, element 1; faster if ``y is x``.
        ``[..., 2, limb, n] -> [..., 2, target, n]``."""
        ...

    def tensor_sum(self, x: U32, y: U32, moduli: Moduli) -> U32:
        """``sum_i (x_i0 y_i0, x_i0 y_i1 + x_i1 y_i0, x_i1 y_i1)``: ``[i, ..., 2, limb, n] -> [..., 3, limb, n]``."""
        ...

    def sum_of_products(self, x: U32, y: U32, moduli: Moduli) -> U32:
        """``sum_i x_i y_i``: ``x`` ``[i, ..., limb, n]``, ``y`` ``[i, limb, n]`` -> ``[..., limb, n]``."""
        ...

    # -- matrix products -------------------------------------------------------------------------------
    def empty_points(self, rows: int, columns: int, n: int, moduli: Moduli) -> Points:
        """A matrix to be filled by :meth:`store_points` or :meth:`expand_points`; contents undefined."""
        ...

    def store_points(self, points: Points, x: U32, first: int, step: int, *, transform: bool) -> None:
        """Put ``x`` ``[rows, b, limb, n]`` into columns ``first, first+step, ...``.

        ``transform=True``: ``x`` holds coefficients and is transformed on the way; otherwise evaluations.
        """
        ...

    def expand_points(self, points: Points, key: bytes, domain: int, objects: U32, first: int, step: int) -> None:
        """:meth:`sample_uniform` of ``objects`` ``[rows, b]``, put into columns ``first, first+step, ...``."""
        ...

    def load_points(self, points: Points, first: int, step: int, count: int, *, transform: bool) -> U32:
        """Columns ``first, first+step, ...`` (``count`` of them) as ``[rows, count, limb, n]``.

        ``transform=True``: coefficients (inverse transform on the way); otherwise evaluations.
        """
        ...

    def point_matmul(self, w: Points, x: Points) -> Points:
        """For every point j and limb: ``Y[o, b] = sum_i W[o, i] X[i, b] mod q``.

        ``w`` is rows o x columns i, ``x`` is rows i x columns b, the result rows o x columns b.
        """
        ...

    def scalar_matmul(self, w: npt.NDArray[np.int16], x: U32, moduli: Moduli) -> U32:
        """``Y[o, ...] = sum_i w[o, i] x[i, ...] mod q``: ``w`` ``[o, i]``, ``x`` ``[i, ..., limb, n]``."""
        ...

    # -- randomness ------------------------------------------------------------------------------------
    def sample_uniform(self, key: bytes, domain: int, objects: U32, n: int, moduli: Moduli) -> U32:
        """Uniform residues for each of ``objects`` ``[...]`` -> ``[..., limb, n]``. Public values only.

        Residue j of limb l of object o is ``word j mod q_l`` of the first stream ``(domain, o, l + 65536 a)``,
        a = 0, 1, ..., whose word j is below ``floor(2^32 / q_l) q_l``.
        """
        ...

    def sample_ternary(self, key: bytes, domain: int, objects: U32, n: int) -> I32:
        """Values in {-1, 0, 1}, ``[..., n]``: ``floor(3 w / 2^64) - 1`` with ``w = word j + 2^32 word (n + j)``
        of stream ``(domain, o, 0)``. Fixed consumption, no branch or address depends on the words."""
        ...

    def sample_cbd(self, key: bytes, domain: int, objects: U32, n: int) -> I32:
        """Centred binomial CBD(21), sigma = sqrt(10.5) = 3.24, ``[..., n]``, from stream ``(domain, o, 0)``.

        ``w`` is word j; ``h`` is the low (j < n/2) or high (j >= n/2) half of word ``n + (j mod n/2)``.
        The value is ``popcount(w & (2^21-1)) - popcount(w >> 21) - popcount(h & 1023)``.
        """
        ...

    def sample_flood(self, key: bytes, domain: int, objects: U32, n: int, bits: int, moduli: Moduli) -> U32:
        """Residues of wide noise ``sum of 8 uniform words in [0, 2^bits) - 4 (2^bits - 1)``, ``[..., limb, n]``.

        1 <= bits <= 96; sigma = sqrt(2/3) 2^bits (1 - 2^(-2 bits))^0.5. Word t (0..7) of coefficient j is
        ``sum_k 2^(32 k) word (3 t + k) n + j``, k = 0..2, of stream ``(domain, o, 0)``, reduced modulo 2^bits.
        """
        ...

    # -- packing for the wire --------------------------------------------------------------------------
    def pack_bits(self, x: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint8]:
        """The low ``bits`` (1..64) of each of the m values ``[..., m]``, least significant bit first, end to
        end, padded with zero bits to ``ceil(m bits / 8)`` bytes: ``[..., bytes]``."""
        ...

    def unpack_bits(self, x: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint64]:
        """Inverse of :meth:`pack_bits`: ``[..., bytes]`` -> ``[..., count]``."""
        ...

    # -- whole passes: several of the above in one pass over memory --------------------------------------
    # At most two moduli, Q < 2^60. ``value_bits(moduli, drop)`` is the size of ``floor((Q - 1 + 2^drop / 2) / 2^drop)``.
    def mask_and_pack(self, x: SignedInts, factor: U32, mask: Stream, noise: Stream, moduli: Moduli, drop: int) -> U8:
        """``v = x + e - intt(factor a) mod Q`` in [0, Q) with low bits rounded away, packed: ``[..., bytes]``.

        ``x`` ``[..., n]``, int32 and |x| <= 2^30 or int64 and |x| <= 2^40; ``factor`` ``[limb, n]`` evaluations; ``a`` is :meth:`sample_uniform` of the
        stream ``mask`` and e :meth:`sample_cbd` of the stream ``noise``, whose objects are shaped ``[...]`` and equal.
        The bytes are :meth:`pack_bits` of ``(v + 2^drop / 2) >> drop`` with ``value_bits(moduli, drop)``.
        """
        ...

    def store_packed(self, points: Points, packed: U8, first: int, step: int, drop: int) -> None:
        """:meth:`store_points` (transformed) of the coefficients that :meth:`mask_and_pack` packed, times 2^drop:
        ``packed`` ``[rows, b, bytes]``. Raises ``FormatError`` for a value beyond Q; the columns are then undefined."""
        ...

    def store_sparse(self, points: Points, values: I32, positions: U32, first: int, step: int) -> None:
        """:meth:`store_points` (transformed) of polynomials that are zero but for ``values`` ``[rows, b, m]`` at the
        distinct coefficients ``positions`` ``[m]``: convolution kernels."""
        ...

    def load_packed(self, points: Points, first: int, step: int, count: int, form: WordForm, constants: U32) -> U8:
        """Columns in coefficients, plus ``constants`` ``[rows, limb]`` (or of size 0) at every coefficient, by
        switched to 2^bits; of each word at ``form.positions`` ``(w + 2^drop / 2 >> drop) mod
        2^(bits - drop)``, packed: ``[rows, count, bytes]``.

        Up to 32 bits by :meth:`switch_to_power_of_two`; 33..44 bits (two moduli) as ``rint(float64(v) float64(2^bits / Q))``
        of the integer v in [0, Q), which errs by less than 2^(bits-51) before rounding."""
        ...

    def unpack_products(self, first: U8, second: U8, factor: U32, moduli: Moduli, form: WordForm) -> SignedInts:
        """``2^drop first + second factor`` modulo 2^bits, centred in [-2^(bits-1), 2^(bits-1)): ``[..., positions]``, int32 up to 32
        bits, else int64 (up to 44).

        ``first`` ``[..., bytes]`` holds the words at ``form.positions`` (bits - drop bits each), ``second`` all n words
        of ``bits`` bits, taken centred; ``factor`` ``[limb, n]`` evaluations of a ternary polynomial. Two moduli,
        ``n 2^(bits-1) < Q / 2``.
        """
        ...

    def requantise(
        self,
        x: SignedInts,
        scale: float,
        y: SignedInts | None,
        y_scale: float,
        limits: tuple[float, float],
        out: SignedInts | None = None,
    ) -> SignedInts:
        """``round_half_even(clip(x scale + y y_scale, *limits))``, each operation rounded to float64 by itself.

        ``x`` has up to three axes, of any strides; ``y`` (None: no second term) and ``out`` are shaped as ``x``; all
        int32 with limits within +-(2^31 - 1), or int64 within +-2^52. ``out`` has a dense last axis and is no
        part of ``x`` or ``y``.
        """
        ...
