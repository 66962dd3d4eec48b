"""(d) A server that knows a slice gets the decrypted result back: what does it learn of the secret key?

The switch of the modulus rounds c1 by r1, which the server knows; so the error of the shared image is r1 s + things the
server knows or that are small: linear equations in s, one a pixel, with the rounding to whole HU as noise.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.privacy.d_relu import attack as attack_relu
from bench.privacy.linear_server import Insider, centred, encrypt_again, message_of, serve, tile_numbers, uniform_half
from bench.privacy.negacyclic import Products, estimate, to_trits
from bench.privacy.play import backend
from bench.privacy.result import Experiment
from bench.privacy.stats import clopper_pearson, trits_right
from hegpu.backend.protocol import Backend
from hegpu.ckks.encrypt import decode, decrypt
from hegpu.ckks.keys import SecretKey
from hegpu.ckks.params import Parameters, preset
from hegpu.ct.phantom import phantom
from hegpu.protocols.budget import CENTRE, plan_budget
from hegpu.protocols.linear import MasterKey, _add_constant, _released, encrypt_slice
from hegpu.protocols.messages import EncryptedSlice
from hegpu.ring.primes import ntt_primes
from hegpu.ring.random import FLOOD, fresh_key
from hegpu.tensor.tiles import assemble

F64 = npt.NDArray[np.float64]
HALO = 2


@dataclass(frozen=True)
class Size:
    side: int = 128
    slices: tuple[int, ...] = (1, 2, 4, 8, 16, 24)
    shipped_side: int = 256
    relu_side: int = 96
    relu_times: int = 20


def shared_key_parameters() -> Parameters:
    """A small ring and a coarse answer (about 0.1 HU), so that the attack needs few slices."""
    primes = (ntt_primes(21, 1024, 1)[0], *ntt_primes(30, 1024, 2))
    return Parameters("insecure_shared_key", 1024, primes, scale=Fraction(1 << 48), c0_drop_down=2)


def image(side: int, seed: int) -> F64:
    noise = np.random.default_rng(seed).normal(0, 30, (side, side))
    return np.asarray(np.rint(np.clip(phantom((side, side), seed=seed) + noise, -1024, 3071)))


@dataclass(frozen=True)
class Equations:
    """``observed = products(s) + noise`` in units of the answer; ``scale``: such units per HU."""

    products: Products
    observed: F64
    scale: float


def share(b: Backend, hu: F64, s: EncryptedSlice, keys: MasterKey, kernel: F64) -> Equations:
    """The server computes, the client decrypts, rounds to whole HU and shares; what the server then can write down."""
    params, q, positions = s.params, s.params.q_primes, s.tiling.valid_coefficients()
    budget, key = plan_budget(kernel, 0.0, s.params, _released(s.tiling)), fresh_key()
    answer = serve(b, s, budget.weights, flood_bits=budget.flood_bits, key=key)
    constant = round(budget.constant_hu * params.scale * 2**budget.weight_bits)
    answer[:, 0] = _add_constant(b, np.ascontiguousarray(answer[:, 0]), constant, q)
    last, ratio = int(np.prod(q[1:], dtype=object)), float(np.prod(q[1:], dtype=object))
    scale = params.scale * 2**budget.weight_bits / last
    small, drop = b.divide_by_last(answer, q, len(q) - 1), params.c0_drop_down
    sent = (small[:, 0, 0][:, positions].astype(np.int64) + (1 << drop >> 1)) >> drop << drop

    insider = Insider.of(b, hu, s, keys)  # only its secret, for the client's own decryption
    product = decrypt(b, np.zeros_like(small[:, 0]), np.ascontiguousarray(small[:, 1]), insider.secret, q[:1])
    total = (product[:, 0][:, positions].astype(np.int64) + sent) % q[0]
    shown = np.rint(decode(total[:, None].astype(np.uint32), q[:1], scale) + CENTRE)

    message = insider.through(budget.weights, message_of(b, hu, s))
    flood = b.sample_flood(key, FLOOD, tile_numbers(s), params.n, budget.flood_bits, q)
    exact = centred(_add_constant(b, b.add(message, flood, q), constant, q)[..., positions], q)
    r0 = centred(answer[:, 0, 1:][..., positions], q[1:])
    r1 = centred(answer[:, 1, 1:], q[1:])
    known = (exact - r0) / ratio + (sent - small[:, 0, 0][:, positions].astype(np.int64))
    observed = (shown - CENTRE) * float(scale) - known
    return Equations(Products.of(-r1 / ratio, positions), observed, float(scale))


def solve(equations: list[Equations], n: int) -> tuple[npt.NDArray[np.int64], float]:
    """(the guessed trits, signal-to-noise ratio a trit: pixels sigma_n^2 / ((2n/3)/12), where 1 is the bound)."""
    scale = equations[0].scale
    noise = scale**2 / 12
    ratio = sum(e.observed.size for e in equations) / scale**2

    def apply(x: F64) -> F64:
        return np.concatenate([e.products.apply(x).ravel() for e in equations])

    def adjoint(y: F64) -> F64:
        parts = np.split(y, np.cumsum([e.observed.size for e in equations])[:-1])
        return np.sum(
            [e.products.adjoint(part.reshape(e.observed.shape)) for e, part in zip(equations, parts, strict=True)],
            axis=0,
        )

    observed = np.concatenate([e.observed.ravel() for e in equations])
    return to_trits(estimate(apply, adjoint, observed, noise, n), ratio), ratio


def true_trits(b: Backend, secret: SecretKey) -> npt.NDArray[np.int64]:
    q = secret.params.q_primes[:1]
    values = b.intt(np.ascontiguousarray(secret.evaluations[:1]), q)[0].astype(np.int64)
    return np.where(values > q[0] // 2, values - q[0], values)


def opened(b: Backend, s: EncryptedSlice, hu: F64, trits: Any) -> float:
    """Share of the pixels of ``s`` that the guessed secret decrypts to within half a HU."""
    q = s.params.q_primes
    guess = SecretKey(s.params, b.ntt(b.from_signed(trits.astype(np.int64), q), q), b"")
    values = decode(decrypt(b, s.c0, uniform_half(b, s), guess, q), q, s.params.scale) + CENTRE
    t = s.tiling
    y, x = np.mgrid[0 : t.step_h, 0 : t.step_w]
    inner = values[:, (t.tile_w * (y + t.halo) + x + t.halo).ravel()]
    return float(np.mean(np.abs(assemble(inner, t) - hu) < 0.5))


def run(size: Size | None = None) -> Experiment:
    size = size or Size()
    result = Experiment("d", "Key recovery from shared results, by a server that knows the slice")
    _shared(result, size)
    _shipped(result, size)
    for preset_name in ("compact", "lossless"):
        attack_relu(result, preset_name, size.relu_side, size.relu_times)
    return result


def smoothing() -> F64:
    kernel = np.full((5, 5), 1 / 25)
    return np.rint(kernel * 2**12) / 2**12


def _shared(result: Experiment, size: Size) -> None:
    b, params = backend(), shared_key_parameters()
    keys, slice_id = MasterKey(params, fresh_key()), bytes(range(16))
    truth = true_trits(b, keys.slice_keys(b, slice_id, b"")[0])
    equations, rows, trits = [], [], truth * 0
    for count in range(1, max(size.slices) + 1):
        hu = image(size.side, count)
        equations.append(share(b, hu, encrypt_again(b, hu, keys, HALO, slice_id), keys, smoothing()))
        if count in size.slices:
            trits, ratio = solve(equations, params.n)
            rows.append((ratio, float(np.mean(trits == truth)), trits_right(ratio)))
    table = np.array(rows)
    result.curves["recovery"] = dict(zip(("x", "y", "predicted"), table.T.tolist(), strict=True))
    result.facts["insecure preset"] = {"n": params.n, "side": size.side, "slices": list(size.slices)}
    name = f"control, one key for {max(size.slices)} slices (n = 1024): share of trits right"
    result.add(name, table[-1, 1], "1: caught", table[-1, 1] == 1, control=True)
    other = image(size.side, 99)
    part = opened(b, encrypt_again(b, other, keys, HALO, slice_id), other, trits)
    result.add("control: pixels of another slice of that key decrypted", part, "1: caught", part == 1, control=True)
    worst = float(np.abs(table[:, 1] - table[:, 2]).max())
    result.add(
        "control: largest difference of the share to the formula", worst, "below 0.06", worst < 0.06, control=True
    )


def _shipped(result: Experiment, size: Size) -> None:
    b, params = backend(), preset("linear")
    keys = MasterKey(params, fresh_key())
    hu, other = image(size.shipped_side, 1), image(size.shipped_side, 2)
    s, following = encrypt_slice(b, hu, keys, HALO), encrypt_slice(b, other, keys, HALO)
    trits, ratio = solve([share(b, hu, s, keys, smoothing())], params.n)
    for name, target in (("its own slice's key", s), ("the next slice's key", following)):
        right = int((trits == true_trits(b, keys.slice_keys(b, target.slice_id, b"")[0])).sum())
        interval = clopper_pearson(right, params.n)
        expected = trits_right(ratio) if target is s else 1 / 3
        good = interval[0] <= expected <= interval[1]
        claim = f"interval holds {expected:.4f} (1/3 is a guess)"
        result.add(f"linear, one slice shared: trits right of {name}", right / params.n, claim, good, interval)
    whole = 512 * 512 * ratio / hu.size
    result.add("linear, 512 x 512: leak in units of the bound", whole, "below 1", whole < 1)
    part = opened(b, following, other, trits)
    result.add("linear: pixels of the next slice opened by what was recovered", part, "below 0.01", part < 0.01)
