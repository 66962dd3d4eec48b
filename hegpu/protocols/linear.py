"""The ``linear`` protocol: one round, one affine filter, ciphertexts only on the server.

Client: a key pair per slice, derived from the master secret and a random id; the slice in ``CoefficientTiles``.
Server: convolution; then a fresh public-key encryption of zero and flooding; only then the switch to the smallest
modulus, so that the switch is post-processing and the answer tells no more about the filter than its output (to a
semi-honest client; a linear filter can always be fitted to its outputs).
Client: decryption, the offset, the final ReLU if the network has one.
"""

import math
import os
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import U32, Backend
from hegpu.ckks.encrypt import decode, decrypt, encode_integers, encrypt_symmetric, encrypt_zero
from hegpu.ckks.keys import PublicKey, SecretKey, generate
from hegpu.ckks.params import Parameters
from hegpu.errors import KeyMismatchError, ParameterError
from hegpu.protocols.budget import CENTRE, Budget, plan_budget
from hegpu.protocols.messages import EncryptedResult, EncryptedSlice
from hegpu.ring.random import derive_key, fresh_key, public_seed
from hegpu.tensor.convolution import convolve, load_seeded, transform_weights, unload
from hegpu.tensor.tiles import Tiling, assemble, cut, plan

DEFAULT_HALO = 6
_HU_BITS = 20  # fractional bits of a pixel that is not a whole HU
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MasterKey:
    """What ``keys/`` holds: parameters and 32 secret bytes from which each slice's key is derived."""

    params: Parameters
    secret: bytes = field(repr=False)

    def slice_keys(self, backend: Backend, slice_id: bytes, nonce: bytes) -> tuple[SecretKey, PublicKey]:
        seed = public_seed("slice public key", slice_id, nonce, self.params.hash.encode())
        return generate(backend, self.params, derive_key(self.secret, "slice key", slice_id + nonce), seed)


def encrypt_slice(
    backend: Backend, hu: F64, keys: MasterKey, halo: int = DEFAULT_HALO, nonce: bytes = b""
) -> EncryptedSlice:
    """Encrypt ``hu`` ``[H, W]``, values in [-1024, 3071], for filters of at most ``2 halo + 1`` pixels.

    Whole HU are exact; others are rounded to 2^-20 HU. The border is replicated into the halo. ``nonce``: from the
    server, where there is one.
    """
    params = keys.params
    tiling = plan(hu.shape[0], hu.shape[1], halo, params.n)
    plan_budget(np.ones((1, 1)), 0.0, params, _released(tiling))  # a preset that cannot hold any filter fails here
    scale = params.scale / 2**_HU_BITS
    if scale.denominator != 1:
        raise ParameterError(f"encrypt: preset {params.name!r} has too small a scale for HU; use the preset 'linear'")
    pixels = np.rint((cut(hu, tiling) - CENTRE) * 2.0**_HU_BITS).astype(np.int64)
    pixels[:, tiling.tile_w * tiling.tile_h :] = 0
    slice_id, seed = os.urandom(16), fresh_key()
    secret, public = keys.slice_keys(backend, slice_id, nonce)
    message = encode_integers(backend, pixels, scale.numerator, params.q_primes)
    objects = np.arange(tiling.tiles, dtype=np.uint32)
    c0 = encrypt_symmetric(backend, message, secret, seed, fresh_key(), objects)
    return EncryptedSlice(params, tiling, slice_id, nonce, seed, public.fingerprint, c0, public.pk0)


def _released(tiling: Tiling) -> int:
    return tiling.tiles * tiling.step_w * tiling.step_h


def denoise_slice(
    backend: Backend, s: EncryptedSlice, kernel: F64, bias_hu: float, floor_hu: float | None = None
) -> tuple[EncryptedResult, Budget]:
    """The server's part: needs no secret. ``kernel`` ``[K, K]`` odd, in HU (cross-correlation, ``+ bias_hu``).

    Errors: :class:`~hegpu.errors.ParameterError` if the kernel is wider than the halo,
    :class:`~hegpu.errors.BudgetError` if it does not fit the modulus.
    """
    params, tiling, q = s.params, s.tiling, s.params.q_primes
    seed = public_seed("slice public key", s.slice_id, s.nonce, params.hash.encode())
    public = PublicKey(params, s.pk0, seed)
    if public.fingerprint != s.fingerprint:
        raise KeyMismatchError(
            "denoise: the public key in the slice is not the one its fingerprint names; encrypt again"
        )
    budget = plan_budget(kernel, bias_hu, params, _released(tiling))
    objects = np.arange(tiling.tiles, dtype=np.uint32)
    weights = transform_weights(backend, budget.weights[None, None], tiling, q)
    planes = load_seeded(backend, s.c0[None], s.seed, objects[None], q)
    answer = unload(backend, convolve(backend, weights, planes))[0]
    scale = params.scale * 2**budget.weight_bits
    constant = round(budget.constant_hu * scale)
    answer[:, 0] = _add_constant(backend, np.ascontiguousarray(answer[:, 0]), constant, q)
    answer = backend.add(answer, encrypt_zero(backend, public, fresh_key(), objects, budget.flood_bits), q)
    answer = backend.divide_by_last(answer, q, len(q) - 1)
    drop = params.c0_drop_down
    c0 = (answer[:, 0, 0][:, tiling.valid_coefficients()] + np.uint32(1 << drop >> 1)) >> np.uint32(drop)
    scale /= math.prod(q[1:])
    result = EncryptedResult(
        params, tiling, s.slice_id, s.fingerprint, scale, floor_hu, c0, np.ascontiguousarray(answer[:, 1, 0])
    )
    return result, budget


def _add_constant(backend: Backend, x: U32, constant: int, moduli: tuple[int, ...]) -> U32:
    """Adds an integer to every coefficient."""
    plain = np.empty(x.shape[-2:], np.uint32)
    for limb, q in enumerate(moduli):
        plain[limb] = constant % q
    return backend.add(x, plain, moduli)


def decrypt_result(backend: Backend, r: EncryptedResult, keys: MasterKey, nonce: bytes = b"") -> F64:
    """Denoised HU ``[H, W]``, not rounded. Errors: :class:`~hegpu.errors.KeyMismatchError` for a foreign key."""
    if r.params.hash != keys.params.hash:
        raise KeyMismatchError(
            f"decrypt: the file was made with parameters {r.params.name!r}, the keys have {keys.params.name!r}; "
            "use the keys that encrypted the slice"
        )
    secret, public = keys.slice_keys(backend, r.slice_id, nonce)
    if public.fingerprint != r.fingerprint:
        raise KeyMismatchError("decrypt: the file belongs to another key; use the keys that encrypted the slice")
    q, tiling = (r.modulus,), r.tiling
    positions = tiling.valid_coefficients()
    product = decrypt(backend, np.zeros((tiling.tiles, 1, r.params.n), np.uint32), r.c1[:, None], secret, q)
    c0 = ((r.c0.astype(np.uint64) << np.uint64(r.params.c0_drop_down)) % np.uint64(q[0])).astype(np.int64)
    residues = (product[:, 0][:, positions].astype(np.int64) + c0) % q[0]
    hu = assemble(decode(residues[:, None].astype(np.uint32), q, r.scale), tiling) + CENTRE
    return hu if r.floor_hu is None else np.maximum(hu, r.floor_hu)
