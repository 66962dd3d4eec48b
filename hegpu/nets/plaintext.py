"""Run a network on a plain slice in float64, layer by layer: the reference for every encrypted result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hegpu.ct.hounsfield import check
from hegpu.errors import ImageError, ModelError
from hegpu.nets.description import INPUT, Layer, Network, growth, slot_plane
from hegpu.nets.lifting import lift
from hegpu.nets.outline import Outline

Plane = NDArray[np.float64]
Observer = Callable[[int, Plane], None]


def correlate_valid(planes: Plane, weight: Plane) -> Plane:
    """Valid cross-correlation of ``[in, y, x]`` with ``[out, in, k, k]``, to ``[out, y - k + 1, x - k + 1]``."""
    kernel = weight.shape[-1]
    rows, columns = planes.shape[1] - kernel + 1, planes.shape[2] - kernel + 1
    result = np.zeros((weight.shape[0], rows, columns), planes.dtype)
    for dy in range(kernel):
        for dx in range(kernel):
            result += np.tensordot(weight[:, :, dy, dx], planes[:, dy : dy + rows, dx : dx + columns], axes=1)
    return result


def convolve_full(planes: Plane, weight: Plane) -> Plane:
    """Full convolution of ``[in, y, x]`` with ``[in, out, k, k]``, to ``[out, y + k - 1, x + k - 1]``."""
    kernel, (_, rows, columns) = weight.shape[-1], planes.shape
    result = np.zeros((weight.shape[1], rows + kernel - 1, columns + kernel - 1), planes.dtype)
    for dy in range(kernel):
        for dx in range(kernel):
            term = np.tensordot(weight[:, :, dy, dx].T, planes, axes=1)
            result[:, dy : dy + rows, dx : dx + columns] += term
    return result


def crop_centre(planes: Plane, rows: int, columns: int) -> Plane:
    """The central ``rows`` x ``columns`` of ``[c, y, x]``."""
    top, left = (planes.shape[1] - rows) // 2, (planes.shape[2] - columns) // 2
    return planes[:, top : top + rows, left : left + columns]


def wrap_indices(
    shape: tuple[int, int], radius: int, phases: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column that each pixel of an H x W plane padded by ``radius`` is read at under "slot-wrap"."""
    (rows, columns), reach = shape, np.arange(-radius, max(shape) + radius)
    y, x = reach[: rows + 2 * radius, np.newaxis], reach[np.newaxis, : columns + 2 * radius]
    turns = np.floor_divide(x, columns)
    return (y + phases[0] * turns) % rows, np.broadcast_to(x % columns, (rows + 2 * radius, columns + 2 * radius))


def pad_for(net: Network | Outline, index: int, planes: NDArray[Any]) -> NDArray[Any]:
    """``[in, y, x]`` of any dtype, padded so that a valid cross-correlation is layer ``index`` under the border rule
    (of a ``conv_transpose2d`` with its kernel flipped)."""
    layer = net.layers[index]
    if net.phases is not None:
        y, x = wrap_indices((planes.shape[1], planes.shape[2]), layer.radius, net.phases)
        return np.ascontiguousarray(planes[:, y, x])
    pad = zeros_around(net, index)
    return np.pad(planes, ((0, 0), (pad, pad), (pad, pad))) if pad else planes


def zeros_around(net: Network | Outline, index: int) -> int:
    """How many zeros layer ``index`` of a network without phases sees beyond each edge of its input."""
    layer = net.layers[index]
    return layer.radius if net.border == "zero" else 0 if layer.op == "conv2d" else layer.kernel - 1


def plane_sizes(net: Network | Outline, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of every layer's convolution of a slice of ``shape``, before a skip crops it."""
    pad = net.radius if net.border == "replicate" else 0
    first = slot_plane(shape, net.phases) if net.phases is not None else (shape[0] + 2 * pad, shape[1] + 2 * pad)
    outputs, sizes = {INPUT: first}, []
    for index, layer in enumerate(net.layers):
        change = 0 if net.border in ("zero", "slot-wrap") else layer.kernel - 1
        change = change if layer.op == "conv_transpose2d" else -change
        rows, columns = (side + change for side in outputs[net.source_of(index)])
        sizes.append((rows, columns))
        skip = (rows, columns) if layer.skip is None else outputs[layer.skip]
        outputs[layer.name] = (min(rows, skip[0]), min(columns, skip[1]))
    if min(min(size) for size in sizes) < 1:
        raise ImageError(f"run {net.name!r}: a slice of {shape} is too small for its unpadded layers; use a larger one")
    return sizes


def _convolve(net: Network, index: int, planes: Plane) -> Plane:
    """Layer ``index`` of ``net`` on ``[in, y, x]``, under the border rule, with its bias."""
    layer = net.layers[index]
    weight = net.weights[f"{layer.name}.weight"].astype(planes.dtype)
    bias = net.weights[f"{layer.name}.bias"].astype(planes.dtype)[:, np.newaxis, np.newaxis]
    if net.border in ("replicate", "unpadded"):
        result = (correlate_valid if layer.op == "conv2d" else convolve_full)(planes, weight)
    else:
        if layer.op == "conv_transpose2d":
            weight = weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
        result = correlate_valid(pad_for(net, index, planes), weight)
    return np.asarray(result + bias)


def activate(layer: Layer, weights: Mapping[str, NDArray[Any]], x: Plane, skip: Plane | None) -> Plane:
    """What a layer does after its convolution; ``weights``: its arrays "linear" and "square" where it is a quad."""
    if layer.activation == "gate":
        u, v = x[: layer.outputs], x[layer.outputs :]
        return (u if skip is None else u + skip) * (1 + v)
    if skip is not None:
        x = x + skip
    if layer.activation == "quad":
        linear, square = (weights[part].astype(x.dtype)[:, None, None] for part in ("linear", "square"))
        return np.asarray(x * (linear + square * x))
    return np.maximum(x, 0.0) if layer.activation == "relu" else x


def prepare(net: Network | Outline, hu: Plane) -> Plane:
    """The input planes ``[c, y, x]`` of a slice, padded as the border rule says."""
    planes = lift(net.lifting, hu, net.hu_offset, net.hu_scale)
    if net.border == "replicate":
        planes = np.pad(planes, ((0, 0), (net.radius,) * 2, (net.radius,) * 2), mode="edge")
    if net.phases is not None:
        rows, columns = slot_plane((hu.shape[0], hu.shape[1]), net.phases)
        planes = np.pad(planes, ((0, 0), (0, rows - hu.shape[0]), (0, columns - hu.shape[1])), mode="edge")
    if net.border == "unpadded" and min(hu.shape) + 2 * (low := min(growth(net.layers).values())) < 1:
        raise ImageError(
            f"run {net.name!r}: a slice of {hu.shape} is too small for its unpadded layers; use at least "
            f"{1 - 2 * low} pixels a side"
        )
    return planes


def finish(net: Network | Outline, result: Plane, hu: Plane) -> Plane:
    """The denoised slice in HU from the network's plane ``[y, x]``: crop, scale, and the slice where ``residual``."""
    if net.phases is not None:
        plane = result[: hu.shape[0], : hu.shape[1]]
    else:
        plane = crop_centre(result[np.newaxis], hu.shape[0], hu.shape[1])[0]
    if not np.isfinite(plane).all():
        raise ModelError(
            f"run {net.name!r}: its result is not finite; the network diverges on this slice, train it again"
        )
    return np.ascontiguousarray(plane * net.hu_scale + (hu if net.residual else net.hu_offset))


def execute(net: Network, planes: Plane, observe: Observer | None = None, disturb: Observer | None = None) -> Plane:
    """The network's plane ``[y, x]`` from prepared input planes, in their dtype. ``observe(index, output)`` sees what each
    layer returns; ``disturb(index, pre_activation)`` may change in place what enters its activation."""
    outputs: dict[str, Plane] = {INPUT: planes}
    last_use = net.last_use()
    for index, layer in enumerate(net.layers):
        result, skip = _convolve(net, index, outputs[net.source_of(index)]), None
        if layer.skip is not None:
            skip = outputs[layer.skip]
            rows, columns = min(result.shape[1], skip.shape[1]), min(result.shape[2], skip.shape[2])
            result, skip = crop_centre(result, rows, columns), crop_centre(skip, rows, columns)
        if disturb is not None:
            disturb(index, result)
        weights = {
            part: net.weights[f"{layer.name}.{part}"] for part in ("linear", "square") if layer.activation == "quad"
        }
        outputs[layer.name] = activate(layer, weights, result, skip)
        if observe is not None:
            observe(index, outputs[layer.name])
        for name in [name for name in outputs if last_use.get(name, index) < index]:
            del outputs[name]
    return np.asarray(outputs[net.layers[-1].name][0])


def run(net: Network, hu: Any) -> Plane:
    """Denoise one slice.

    ``hu`` is ``[y, x]`` in HU; the result is float64 of the same shape, in HU. Raises ``ImageError`` for a slice that
    is not one finite real plane, or too small for an unpadded network.
    """
    plane = check(f"run {net.name!r}", hu)
    return finish(net, execute(net, prepare(net, plane)), plane)
