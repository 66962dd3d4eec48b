"""A layer as integer kernels of a valid cross-correlation, and the most precise scales that cannot wrap.

Errors of one pre-activation, in network units (facts of the design, checked by the tests):
sigma^2 = (|w|_2^2 (10.5 + 1/12 + 4^up/12) + (4^drop + 2n/3)/12 (Q/2^bits)^2) / (sx sw)^2 + k^2 sum_c rms(x_c)^2 / (12 sw^2)
for integer weights w at scale sw and inputs at scale sx; the last term is 0 where the weights lie on the grid.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import U32
from hegpu.ckks.params import Parameters
from hegpu.nets.description import Network

CBD_LARGEST = 21
I64 = npt.NDArray[np.int64]


def kernels(net: Network, index: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weights ``[planes, inputs, k, k]`` of the cross-correlation that layer ``index`` is, and biases ``[planes]``."""
    layer = net.layers[index]
    w = net.weights[f"{layer.name}.weight"].astype(np.float64)
    if layer.op == "conv_transpose2d":
        w = w.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    return np.ascontiguousarray(w), net.weights[f"{layer.name}.bias"].astype(np.float64)


def integers(net: Network, index: int, weight_bits: int) -> I64:
    return np.rint(np.ldexp(kernels(net, index)[0], weight_bits)).astype(np.int64)


def constants(net: Network, index: int, in_scale: float, weight_bits: int, params: Parameters) -> U32:
    """The biases as residues ``[planes, limb]`` at the scale of the products."""
    scale = Fraction(in_scale) * 2**weight_bits
    biases = [round(Fraction(float(b)) * scale) for b in kernels(net, index)[1]]
    return np.array([[b % q for q in params.q_primes] for b in biases], np.uint32)


@dataclass(frozen=True)
class Scales:
    limit: int
    in_scale: float
    weight_bits: int
    sigma: float  # of one pre-activation, network units


def choose(
    net: Network, index: int, params: Parameters, bits: int, input_bits: int, input_range: float, mean_square: float
) -> Scales | None:
    """The scales of least error for which no sum can reach Q/2, whatever the client sends within its limit."""
    w, bias = kernels(net, index)
    q, n = math.prod(params.q_primes), params.n
    up, drop = params.c0_drop_up, params.c0_drop_down
    noise = CBD_LARGEST + (2.0**up / 2 if up else 0) + 1
    best: Scales | None = None
    for weight_bits in range(4, 31):
        integer = np.rint(np.ldexp(w, weight_bits))
        exact = bool((integer == np.ldexp(w, weight_bits)).all())
        ones = float(np.abs(integer).sum(axis=(1, 2, 3)).max())
        room = (q / 2 - 2 - ones * noise) / (ones + float(np.abs(bias).max()) * 2.0**weight_bits / input_range + 1e-300)
        limit = math.floor(min(room * (1 - 1e-12), 2.0**input_bits))
        if limit < 1 << 8:
            break
        scale = limit / input_range
        squares = float((integer**2).sum(axis=(1, 2, 3)).max())
        variance = squares * (10.5 + 1 / 12 + (4.0**up / 12 if up else 0))
        if bits:
            variance += ((4.0**drop if drop else 0) + 2 * n / 3) / 12 * (q / 2.0**bits) ** 2
        variance /= (scale * 2.0**weight_bits) ** 2
        if not exact:
            variance += w.shape[2] * w.shape[3] * mean_square / (12 * 4.0**weight_bits)
        if best is None or variance < best.sigma**2:
            best = Scales(limit, scale, weight_bits, math.sqrt(variance))
    return best
