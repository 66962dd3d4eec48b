"""Clients and samplers that are wrong on purpose: the controls. None of this may ever reach ``hegpu``."""

from typing import Any

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import Backend, Stream
from hegpu.ring.random import fresh_key

WEAK_BITS = 30


def compose(x: Any, moduli: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """The integers in [0, Q) behind residues ``[..., limb, n]`` of one or two moduli, Q < 2^62."""
    v = x[..., 0, :].astype(np.int64)
    if len(moduli) == 2:
        d = (x[..., 1, :].astype(np.int64) - v) % moduli[1] * pow(moduli[0], -1, moduli[1]) % moduli[1]
        v = v + d * moduli[0]
    return v


class _Wrapped:
    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _pack(self, v: Any, moduli: tuple[int, ...], drop: int) -> Any:
        q = int(np.prod(moduli, dtype=object))
        bits = ((q - 1 + (1 << drop >> 1)) >> drop).bit_length()
        return self.inner.pack_bits((v.astype(np.uint64) + np.uint64(1 << drop >> 1)) >> np.uint64(drop), bits)

    def _mask(self, factor: Any, mask: Stream, moduli: tuple[int, ...]) -> Any:
        a = self.inner.sample_uniform(mask.key, mask.domain, mask.objects, factor.shape[-1], moduli)
        return self.inner.intt(self.inner.mul(a, factor, moduli), moduli)


class NoNoise(_Wrapped):
    """c0 = -c1 s + m exactly."""

    def mask_and_pack(self, x: Any, factor: Any, mask: Stream, noise: Stream, moduli: Any, drop: int) -> Any:
        b = self.inner
        return self._pack(
            compose(b.sub(b.from_signed(x.astype(np.int64), moduli), self._mask(factor, mask, moduli), moduli), moduli),
            moduli,
            drop,
        )


class WeakMask(_Wrapped):
    """The mask has 30 random bits where the modulus has 44: what a 32-bit generator would do."""

    def mask_and_pack(self, x: Any, factor: Any, mask: Stream, noise: Stream, moduli: Any, drop: int) -> Any:
        b, q = self.inner, int(np.prod(moduli, dtype=object))
        e = b.sample_cbd(noise.key, noise.domain, noise.objects, factor.shape[-1])
        weak = compose(self._mask(factor, mask, moduli), moduli) % (1 << WEAK_BITS)
        return self._pack((x.astype(np.int64) + e + weak) % q, moduli, drop)


def byte_mod_3(count: int) -> npt.NDArray[np.int64]:
    """Phantom's ternary: a random byte modulo 3, minus 1. 0 comes up 86 times in 256."""
    data = np.frombuffer(np.random.default_rng(np.frombuffer(fresh_key(), np.uint32)).bytes(count), np.uint8)
    return data.astype(np.int64) % 3 - 1
