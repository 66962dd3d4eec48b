"""Secret and public keys."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from hegpu.backend.protocol import U32, Backend, Moduli
from hegpu.ckks.params import Parameters
from hegpu.ring.random import KEY_NOISE, SECRET, UNIFORM, derive_key

_ONE = np.zeros((), np.uint32)


@dataclass(frozen=True)
class SecretKey:
    """A uniform ternary secret, evaluations modulo the q and then the p primes. Never written, never printed."""

    params: Parameters
    evaluations: U32 = field(repr=False)  # [limb, n]
    fingerprint: bytes

    def limbs(self, moduli: Moduli) -> U32:
        """The secret modulo ``moduli``, some of the q and p primes."""
        primes = self.params.q_primes + self.params.p_primes
        return np.ascontiguousarray(self.evaluations[[primes.index(q) for q in moduli]])


@dataclass(frozen=True)
class PublicKey:
    """An encryption of zero, ``pk0 = -a s + e``, evaluations ``[limb, n]`` modulo the q and then the p primes; the
    uniform ``a`` is given by a seed."""

    params: Parameters
    pk0: U32
    seed: bytes

    def pk1(self, backend: Backend) -> U32:
        return backend.sample_uniform(
            self.seed, UNIFORM, _ONE, self.params.n, self.params.q_primes + self.params.p_primes
        )

    @property
    def fingerprint(self) -> bytes:
        """16 bytes of BLAKE2b over parameters, seed and pk0."""
        h = hashlib.blake2b(self.params.hash.encode() + self.seed, digest_size=16, person=b"fingerprint")
        h.update(np.ascontiguousarray(self.pk0).astype("<u4", copy=False).tobytes())
        return h.digest()


def generate(backend: Backend, params: Parameters, key: bytes, uniform_seed: bytes) -> tuple[SecretKey, PublicKey]:
    """The key pair that ``key`` (32 secret bytes, used for this pair only) and the public seed determine."""
    primes = params.q_primes + params.p_primes
    small = backend.sample_ternary(derive_key(key, "secret"), SECRET, _ONE, params.n)
    secret = backend.ntt(backend.from_signed(small.astype(np.int64), primes), primes)
    noise = backend.sample_cbd(derive_key(key, "key noise"), KEY_NOISE, _ONE, params.n)
    error = backend.ntt(backend.from_signed(noise.astype(np.int64), primes), primes)
    a = backend.sample_uniform(uniform_seed, UNIFORM, _ONE, params.n, primes)
    public = PublicKey(params, backend.sub(error, backend.mul(a, secret, primes), primes), uniform_seed)
    return SecretKey(params, secret, public.fingerprint), public
