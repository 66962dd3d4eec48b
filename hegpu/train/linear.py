"""The linear denoiser in closed form: the affine filter that brings low-dose slices closest to the normal dose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hegpu.ct.hounsfield import check
from hegpu.ct.simulate import Pairs
from hegpu.errors import ImageError, ModelError, ParameterError
from hegpu.nets.description import MAX_KERNEL, Layer, Network
from hegpu.train.patches import slice_weights

HU_SCALE = 1024.0
WEIGHT_STEP = 2.0**-16
_ROWS = 64


def orbits(radius: int) -> list[list[tuple[int, int]]]:
    """The taps ``(dy, dx)`` of a square kernel, grouped into those that the 8 symmetries of the square exchange."""
    groups = []
    for major in range(radius + 1):
        for minor in range(major + 1):
            taps = {(a * y, b * x) for y, x in ((major, minor), (minor, major)) for a in (1, -1) for b in (1, -1)}
            groups.append(sorted(taps))
    return groups


def weighted_slices(
    pairs: Sequence[Pairs], every: int = 2
) -> Iterator[tuple[NDArray[np.int16], NDArray[np.int16], float]]:
    """``(low, full, weight)`` of every ``every``-th slice at every dose; each counts by the error that it starts with."""
    for pair in pairs:
        for low in pair.low:
            weights = slice_weights(low, pair.full)[:, 0]
            for z in range(0, len(pair.full), every):
                yield low[z], pair.full[z], float(weights[z])


def _features(padded: NDArray[np.float64], radius: int, top: int, rows: int) -> NDArray[np.float64]:
    """``[orbits + 1, pixels]``: the sum over every orbit's taps at the pixels of some rows, and a constant 1."""
    columns, groups = padded.shape[1] - 2 * radius, orbits(radius)
    result = np.ones((len(groups) + 1, rows, columns))
    for index, taps in enumerate(groups):
        y, x = top + radius, radius
        result[index] = sum(padded[y + dy : y + dy + rows, x + dx : x + dx + columns] for dy, dx in taps)
    return result.reshape(len(groups) + 1, -1)


def fit_linear(
    pairs: Iterable[tuple[Any, Any, float]], kernel: int = 13, ridge: float = 1e-6, name: str = "linear"
) -> Network:
    """The least-squares affine filter over ``(low-dose, full-dose, weight)``, as a one-layer network; slices ``[y, x]`` in HU.

    The kernel is symmetric under the 8 symmetries of the square, which is the fit over all 8 turned and mirrored
    copies of the data. ``ridge``, relative to the mean square of the network's input, draws the filter towards the
    identity. Weights and bias are multiples of 2^-16, so the fixed-point form that is evaluated under encryption is
    exactly the file's. Raises ``ParameterError`` for ``kernel`` or ``ridge``, ``ImageError`` for the slices.
    """
    if isinstance(kernel, bool) or not isinstance(kernel, int) or kernel % 2 == 0 or not 1 <= kernel <= MAX_KERNEL:
        raise ParameterError(f"fit_linear: kernel {kernel!r} is not an odd integer from 1 to {MAX_KERNEL}")
    if not 0 <= ridge < np.inf:
        raise ParameterError(f"fit_linear: ridge {ridge!r} is not a finite number of at least 0")
    radius = kernel // 2
    groups = orbits(radius)
    gram, moment, pixels = np.zeros((len(groups) + 1,) * 2), np.zeros(len(groups) + 1), 0.0
    for low, full, weight in pairs:
        x, target = check("fit_linear", low) / HU_SCALE, check("fit_linear", full) / HU_SCALE
        if x.shape != target.shape:
            raise ImageError(f"fit_linear: a pair has the shapes {x.shape} and {target.shape}; make them equal")
        padded, residual = np.pad(x, radius, mode="edge"), target - x
        for top in range(0, x.shape[0], _ROWS):
            rows = min(_ROWS, x.shape[0] - top)
            block = _features(padded, radius, top, rows)
            gram += weight * (block @ block.T)
            moment += weight * (block @ residual[top : top + rows].ravel())
        pixels += weight * x.size
    if pixels == 0:
        raise ParameterError("fit_linear: there are no pairs; give at least one (low-dose, full-dose) pair of slices")
    sizes = np.array([len(taps) for taps in groups])
    level = gram[0, 0] / pixels if gram[0, 0] > 0 else 1.0
    gram[np.arange(len(groups)), np.arange(len(groups))] += ridge * level * pixels * sizes
    change: NDArray[Any] = np.linalg.lstsq(gram / pixels, moment / pixels, rcond=None)[0]
    change[0] += 1.0
    steps = _round_keeping_sum(change[:-1], sizes)
    plane = np.zeros((kernel, kernel))
    for taps, value in zip(groups, steps, strict=True):
        for dy, dx in taps:
            plane[radius + dy, radius + dx] = value * WEIGHT_STEP
    bias = np.rint(change[-1] / WEIGHT_STEP) * WEIGHT_STEP
    weights = {
        "filter.weight": plane[np.newaxis, np.newaxis].astype(np.float32),
        "filter.bias": np.array([bias], np.float32),
    }
    return Network(name, (Layer("filter", "conv2d", kernel, 1, 1),), weights, 0.0, HU_SCALE, fraction_bits=16)


def _round_keeping_sum(values: NDArray[np.float64], sizes: NDArray[np.int_]) -> NDArray[np.float64]:
    """Whole steps per orbit; the centre takes up the rounding of the others, so the kernel's sum is only rounded."""
    steps: NDArray[np.float64] = np.rint(values / WEIGHT_STEP)
    total = np.rint(float(values @ sizes) / WEIGHT_STEP)
    steps[0] += total - float(steps @ sizes)
    if np.abs(steps).max() >= 2.0**24:
        raise ModelError("fit_linear: the fitted weights exceed float32's exact range; raise ridge or check the data")
    return steps
