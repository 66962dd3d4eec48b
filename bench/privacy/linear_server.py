"""The server of ``linear`` in pieces, for attacks: with or without re-randomisation, any width of flooding, before or
after the modulus switch. The product has no such switches; what it does as a whole is ``denoise_slice``."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import U32, Backend
from hegpu.ckks.encrypt import decrypt, encode_integers, encrypt_symmetric, encrypt_zero
from hegpu.ckks.keys import PublicKey, SecretKey
from hegpu.protocols.budget import CENTRE
from hegpu.protocols.linear import _HU_BITS, MasterKey
from hegpu.protocols.messages import EncryptedSlice
from hegpu.ring.random import UNIFORM, fresh_key, public_seed
from hegpu.tensor.convolution import convolve, load_seeded, transform_weights, unload
from hegpu.tensor.tiles import Tiling, cut, kernel_positions, plan

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]


def public_key(s: EncryptedSlice) -> PublicKey:
    return PublicKey(s.params, s.pk0, public_seed("slice public key", s.slice_id, s.nonce, s.params.hash.encode()))


def tile_numbers(s: EncryptedSlice) -> U32:
    return np.arange(s.tiling.tiles, dtype=np.uint32)


def serve(
    b: Backend,
    s: EncryptedSlice,
    weights: I64,
    *,
    fresh: bool = True,
    flood_bits: int | None = None,
    key: bytes | None = None,
) -> U32:
    """Ciphertexts ``[tiles, 2, limb, n]`` modulo the whole q. ``fresh``: an encryption of zero is added, from ``key`` if
    the server wants to remember its own randomness."""
    q, objects = s.params.q_primes, tile_numbers(s)
    points = transform_weights(b, weights[None, None], s.tiling, q)
    answer = unload(b, convolve(b, points, load_seeded(b, s.c0[None], s.seed, objects[None], q)))[0]
    if not fresh:
        return answer
    return b.add(answer, encrypt_zero(b, public_key(s), key or fresh_key(), objects, flood_bits), q)


def encrypt_again(b: Backend, hu: F64, keys: MasterKey, halo: int, slice_id: bytes) -> EncryptedSlice:
    """``encrypt_slice`` under a chosen id, so that many slices share one key: the mistake that experiment (d) needs."""
    params, tiling = keys.params, plan(hu.shape[0], hu.shape[1], halo, keys.params.n)
    secret, public = keys.slice_keys(b, slice_id, b"")
    message = encode_integers(b, pixels(hu, tiling), (params.scale / 2**_HU_BITS).numerator, params.q_primes)
    seed, objects = fresh_key(), np.arange(tiling.tiles, dtype=np.uint32)
    c0 = encrypt_symmetric(b, message, secret, seed, fresh_key(), objects)
    return EncryptedSlice(params, tiling, slice_id, b"", seed, public.fingerprint, c0, public.pk0)


def pixels(hu: F64, tiling: Tiling) -> I64:
    """What is encrypted, in units of 2^-20 HU."""
    values = np.rint((cut(hu, tiling) - CENTRE) * 2.0**_HU_BITS).astype(np.int64)
    values[:, tiling.tile_w * tiling.tile_h :] = 0
    return values


def message_of(b: Backend, hu: F64, s: EncryptedSlice) -> U32:
    scale = (s.params.scale / 2**_HU_BITS).numerator
    return encode_integers(b, pixels(hu, s.tiling), scale, s.params.q_primes)


def uniform_half(b: Backend, s: EncryptedSlice) -> U32:
    q = s.params.q_primes
    return b.intt(b.sample_uniform(s.seed, UNIFORM, tile_numbers(s), s.params.n, q), q)


@dataclass(frozen=True)
class Insider:
    """A client that holds s and knows its slice: it reads its own noise, and the noise of an answer."""

    b: Backend
    s: EncryptedSlice
    secret: SecretKey
    message: U32

    @staticmethod
    def of(b: Backend, hu: F64, s: EncryptedSlice, keys: MasterKey) -> "Insider":
        return Insider(b, s, keys.slice_keys(b, s.slice_id, s.nonce)[0], message_of(b, hu, s))

    def own_noise(self) -> F64:
        """``[tiles, n]``: exact, since |e| <= 21."""
        q = self.s.params.q_primes
        total = decrypt(self.b, self.s.c0, uniform_half(self.b, self.s), self.secret, q)
        rest = self.b.sub(total, self.message, q)[:, 0].astype(np.int64)
        return np.where(rest > q[0] // 2, rest - q[0], rest).astype(np.float64)

    def through(self, weights: I64, x: U32) -> U32:
        """The filter on polynomials ``[tiles, limb, n]`` in the clear."""
        q = self.s.params.q_primes
        kernel = np.zeros((1, self.s.params.n), np.int64)
        kernel[0, kernel_positions(weights.shape[0], self.s.tiling)] = weights.ravel()
        factor = self.b.ntt(self.b.from_signed(kernel, q), q)
        return self.b.intt(self.b.mul(self.b.ntt(x, q), np.broadcast_to(factor[0], x.shape), q), q)

    def filtered_noise(self, weights: I64) -> F64:
        """What ``weights`` would make of the client's noise, at valid coefficients ``[tiles, pixels]``."""
        q = self.s.params.q_primes
        residues = self.through(weights, self.b.from_signed(self.own_noise().astype(np.int64), q))
        return centred(residues[..., self.s.tiling.valid_coefficients()], q)

    def answer_noise(self, answer: U32, expected: U32) -> F64:
        """The answer, decrypted modulo the whole q, minus ``expected`` ``[tiles, limb, n]``: ``[tiles, pixels]``."""
        b, q = self.b, self.s.params.q_primes
        halves = [np.ascontiguousarray(answer[:, half]) for half in (0, 1)]
        rest = b.sub(decrypt(b, halves[0], halves[1], self.secret, q), expected, q)
        return centred(rest[..., self.s.tiling.valid_coefficients()], q)


def centred(x: npt.NDArray[np.uint32], moduli: tuple[int, ...]) -> F64:
    """Centred integers behind residues ``[..., limb, m]`` as float64 (relative error 2^-52), whatever q's size."""
    value: Objects = x[..., 0, :].astype(object)
    weight = moduli[0]
    for limb, q in enumerate(moduli[1:], 1):
        digit = (x[..., limb, :].astype(object) - value) * pow(weight, -1, q) % q
        value, weight = value + digit * weight, weight * q
    return np.asarray(np.where(value > weight // 2, value - weight, value).astype(np.float64))
