"""Run a network on a plain slice in float64, layer by layer: the reference for every encrypted result."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hegpu.ct.hounsfield import check
from hegpu.nets.description import INPUT, Network

Plane = NDArray[np.float64]


def correlate_valid(planes: Plane, weight: Plane) -> Plane:
    """Valid cross-correlation of ``[in, y, x]`` with ``[out, in, k, k]``, to ``[out, y - k + 1, x - k + 1]``."""
    kernel = weight.shape[-1]
    rows, columns = planes.shape[1] - kernel + 1, planes.shape[2] - kernel + 1
    result = np.zeros((weight.shape[0], rows, columns))
    for dy in range(kernel):
        for dx in range(kernel):
            result += np.tensordot(weight[:, :, dy, dx], planes[:, dy : dy + rows, dx : dx + columns], axes=1)
    return result


def convolve_full(planes: Plane, weight: Plane) -> Plane:
    """Full convolution of ``[in, y, x]`` with ``[in, out, k, k]``, to ``[out, y + k - 1, x + k - 1]``."""
    kernel, (_, rows, columns) = weight.shape[-1], planes.shape
    result = np.zeros((weight.shape[1], rows + kernel - 1, columns + kernel - 1))
    for dy in range(kernel):
        for dx in range(kernel):
            term = np.tensordot(weight[:, :, dy, dx].T, planes, axes=1)
            result[:, dy : dy + rows, dx : dx + columns] += term
    return result


def crop_centre(planes: Plane, rows: int, columns: int) -> Plane:
    """The central ``rows`` x ``columns`` of ``[c, y, x]``."""
    top, left = (planes.shape[1] - rows) // 2, (planes.shape[2] - columns) // 2
    return planes[:, top : top + rows, left : left + columns]


def run(net: Network, hu: Any) -> Plane:
    """Denoise one slice.

    ``hu`` is ``[y, x]`` in HU; the result is float64 of the same shape, in HU. Raises ``ImageError`` for a slice that
    is not one finite real plane.
    """
    plane = check(f"run {net.name!r}", hu)
    padded = np.pad((plane - net.hu_offset) / net.hu_scale, net.radius, mode="edge")
    outputs: dict[str, Plane] = {INPUT: padded[np.newaxis]}
    for index, layer in enumerate(net.layers):
        weight = net.weights[f"{layer.name}.weight"].astype(np.float64)
        operation = correlate_valid if layer.op == "conv2d" else convolve_full
        result = operation(outputs[net.source_of(index)], weight)
        result += net.weights[f"{layer.name}.bias"].astype(np.float64)[:, np.newaxis, np.newaxis]
        if layer.skip is not None:
            skip = outputs[layer.skip]
            rows, columns = min(result.shape[1], skip.shape[1]), min(result.shape[2], skip.shape[2])
            result = crop_centre(result, rows, columns) + crop_centre(skip, rows, columns)
        outputs[layer.name] = np.maximum(result, 0.0) if layer.activation == "relu" else result
    last = crop_centre(outputs[net.layers[-1].name], plane.shape[0], plane.shape[1])[0]
    return np.ascontiguousarray(last * net.hu_scale + net.hu_offset)
