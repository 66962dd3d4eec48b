"""Chi-squared on what hegpu samples: secrets, and the noise recovered from ciphertexts by someone who holds s."""

import numpy as np
import numpy.typing as npt

from bench.privacy.broken import byte_mod_3, compose
from bench.privacy.stats import binomial_difference, chi_squared
from hegpu.backend.protocol import Backend, Stream
from hegpu.ckks.params import Parameters
from hegpu.ring.random import NOISE, SECRET, UNIFORM, fresh_key

I64 = npt.NDArray[np.int64]


def ternary_p(values: I64) -> float:
    counts = np.array([(values == v).sum() for v in (-1, 0, 1)])
    return chi_squared(counts, np.full(3, 1 / 3))


def sampled_secrets(b: Backend, count: int, n: int = 4096) -> I64:
    """``count`` secrets as the client of ``client-relu`` draws them, each under a key of its own."""
    one = np.zeros((), np.uint32)
    return np.stack([b.sample_ternary(fresh_key(), SECRET, one, n) for _ in range(count)]).astype(np.int64)


def biased_secrets(count: int) -> I64:
    return byte_mod_3(count)


def recovered_noise(b: Backend, params: Parameters, polynomials: int, client: object | None = None) -> I64:
    """e = c0 + c1 s - m modulo Q, centred, of what ``mask_and_pack`` made of a random message; c0 not truncated."""
    q, n = params.q_primes, params.n
    rng = np.random.default_rng(1)
    x = rng.integers(-(1 << 20), 1 << 20, (polynomials, n)).astype(np.int32)
    small = b.sample_ternary(fresh_key(), SECRET, np.zeros((), np.uint32), n)
    factor = b.ntt(b.from_signed(small.astype(np.int64), q), q)
    objects = np.arange(polynomials, dtype=np.uint32)
    seed = fresh_key()
    masked = (client or b).mask_and_pack(  # type: ignore[attr-defined]
        x, factor, Stream(seed, UNIFORM, objects), Stream(fresh_key(), NOISE, objects), q, 0
    )
    modulus = params.q_primes[0] * params.q_primes[1]
    c0 = b.unpack_bits(masked, (modulus - 1).bit_length(), n).astype(np.int64)
    c1s = compose(b.intt(b.mul(b.sample_uniform(seed, UNIFORM, objects, n, q), factor, q), q), q)
    e = (c0 + c1s - x) % modulus
    return np.asarray(np.where(e > modulus // 2, e - modulus, e))


def noise_p(noise: I64, bits: int = 21) -> float:
    values, probabilities = binomial_difference(bits)
    counts = np.array([(noise == v).sum() for v in values])
    if counts.sum() != noise.size:
        return 0.0  # a value that CBD(bits) cannot take
    return chi_squared(counts, probabilities)


def rounded_gaussian(count: int, sigma: float = 3.19) -> I64:
    """The control: what other libraries draw; it differs from CBD(21) by 3 % of variance."""
    return np.rint(np.random.default_rng(2).normal(0, sigma, count)).astype(np.int64)
