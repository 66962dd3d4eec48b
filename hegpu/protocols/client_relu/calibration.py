"""How large a network's planes become and how far an error of each layer reaches, measured in the clear.

The server runs the network on public images: a real slice that ships with pydicom, phantoms, the same with metal
beside air, and the two ends of the Hounsfield range. A client saturates what leaves the recorded range and counts it.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from hegpu.ct.dicom import example_slice_path, read_slice
from hegpu.ct.hounsfield import HU_MAX, HU_MIN
from hegpu.ct.phantom import phantom
from hegpu.errors import ModelError
from hegpu.nets.description import INPUT, Network
from hegpu.nets.file import network_bytes
from hegpu.nets.lifting import lift
from hegpu.nets.plaintext import execute, prepare

MARGIN = 2.0
SIDE = 40
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """``ranges``: of "input" and each layer's output, margin included, network units. ``mean_square``: of the same,
    without margin, summed over channels. ``gains``: rms of the result per unit of white error before each activation.
    ``float32_hu``: rms difference of float32 to float64 execution."""

    ranges: dict[str, float]
    mean_square: dict[str, float]
    gains: tuple[float, ...]
    float32_hu: float


def images(side: int = SIDE) -> list[F64]:
    """The public calibration slices ``[side, side]``, HU."""
    generator = np.random.default_rng(20231009)
    real = read_slice(example_slice_path()).hu
    body = phantom((4 * side, 4 * side), seed=1)[side : 2 * side, side : 2 * side]
    noisy = [real[:side, :side], real[-side:, -side:], body]
    noisy = [np.clip(x + generator.normal(0, 40, x.shape), HU_MIN, HU_MAX) for x in noisy]
    metal = noisy[0].copy()
    metal[side // 4 : side // 2, side // 4 : side // 2] = HU_MAX
    metal[:, 3 * side // 4 :] = HU_MIN
    return [*noisy, metal, np.full((side, side), float(HU_MIN)), np.full((side, side), float(HU_MAX))]


def calibrate(net: Network) -> Calibration:
    """Measure ``net``: some seconds for 96 channels; remembered for the life of the process.

    On one thread: the products are small, and where something else computes the threads of a BLAS wait for each other
    longer than they work (39 s rather than 6 s on two cores, beside a training run).
    """
    with threadpool_limits(1, "blas"):
        return _calibrate(hashlib.blake2b(network_bytes(net)).digest(), _Hashable(net))


@dataclass(frozen=True)
class _Hashable:
    net: Network

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return True  # the digest beside it decides


@lru_cache(maxsize=16)
def _calibrate(digest: bytes, holder: _Hashable) -> Calibration:
    net, slices = holder.net, images()
    ends = np.array([[HU_MIN, HU_MAX]], np.float64)
    extreme = np.abs(lift(net.lifting, ends, net.hu_offset, net.hu_scale)).max()
    ranges, squares = {INPUT: float(extreme)}, {INPUT: float((prepare(net, slices[0]) ** 2).mean(axis=(1, 2)).sum())}
    for number, hu in enumerate(slices):

        def observe(index: int, output: F64, number: int = number) -> None:
            name = net.layers[index].name
            ranges[name] = max(ranges.get(name, 0.0), MARGIN * float(np.abs(output).max()))
            if number == 0:
                squares[name] = float((output**2).mean(axis=(1, 2)).sum())

        execute(net, prepare(net, hu).astype(np.float32), observe)
    for name, (_, recorded) in net.ranges.items():
        ranges[name] = max(ranges[name], net.margin * recorded)
    planes = prepare(net, slices[0])
    exact, single = execute(net, planes), execute(net, planes.astype(np.float32))
    if not np.isfinite(exact).all():
        raise ModelError(f"client-relu: network {net.name!r} is not finite on a calibration slice; train it again")
    gains = tuple(_gain(net, planes.astype(np.float32), single, index, ranges) for index in range(len(net.layers)))
    return Calibration(ranges, squares, gains, float(np.sqrt(np.mean((single - exact) ** 2))) * net.hu_scale)


def _gain(
    net: Network, planes: npt.NDArray[Any], undisturbed: npt.NDArray[Any], index: int, ranges: dict[str, float]
) -> float:
    generator = np.random.default_rng(index)
    size = 1e-4 * max(ranges[net.layers[index].name], 1e-9)

    def disturb(at: int, x: F64) -> None:
        if at == index:
            x += generator.normal(0, size, x.shape).astype(x.dtype)

    return float(np.sqrt(np.mean((execute(net, planes, disturb=disturb) - undisturbed) ** 2))) / size
