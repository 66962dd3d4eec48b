"""Compose a linear network into the one affine filter that the linear protocol evaluates under encryption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hegpu.ct.hounsfield import check
from hegpu.errors import ModelError
from hegpu.nets.description import INPUT, MAX_KERNEL, Network
from hegpu.nets.plaintext import convolve_full, correlate_valid


@dataclass(frozen=True, eq=False)
class AffineFilter:
    """``out_HU = correlate(HU padded with its edge values, kernel) + bias_hu``.

    ``kernel`` is float64 ``[k, k]``, ``k`` odd and at most 41. With ``final_relu`` the client raises every decrypted
    value below ``floor_hu`` (the network's zero, in HU) to it.
    """

    kernel: NDArray[np.float64]
    bias_hu: float
    final_relu: bool
    floor_hu: float

    @property
    def radius(self) -> int:
        """Half the kernel's width in pixels, rounded down; the padding in pixels."""
        return int(self.kernel.shape[0]) // 2

    def apply(self, hu: Any) -> NDArray[np.float64]:
        """Filter the plain slice ``[y, x]`` (HU) as the encrypted executor and the client together would."""
        padded = np.pad(check("AffineFilter.apply", hu), self.radius, mode="edge")
        result = correlate_valid(padded[np.newaxis], self.kernel[np.newaxis, np.newaxis])[0] + self.bias_hu
        return self.finish(result)

    def finish(self, hu: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the client does after decryption: the final ReLU, where there is one."""
        return np.maximum(hu, self.floor_hu) if self.final_relu else hu


def _centre_pad(kernels: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    margin = (size - kernels.shape[-1]) // 2
    return np.pad(kernels, ((0, 0), (margin, margin), (margin, margin)))


def _trim(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    while kernel.shape[0] > 1:
        edges = (kernel[0], kernel[-1], kernel[:, 0], kernel[:, -1])
        if any(edge.any() for edge in edges):
            break
        kernel = kernel[1:-1, 1:-1]
    return np.ascontiguousarray(kernel)


def affine_filter(net: Network) -> AffineFilter:
    """The affine filter in HU that equals ``net``, away from rounding in float64; outer rings of zeros are trimmed.

    Raises ``ModelError`` for an activation anywhere but on the last layer, a kernel above 41 x 41 and an overflow.
    """
    if net.border != "replicate" or net.lifting != ("hu",):
        raise ModelError(
            f"affine_filter: network {net.name!r} has the border {net.border!r} and the input planes {net.lifting}; one "
            "filter equals it only with the border 'replicate' and the plane 'hu'"
        )
    for index, layer in enumerate(net.layers):
        at_end = index == len(net.layers) - 1
        if layer.activation != "none" and not (at_end and layer.activation == "relu" and not net.residual):
            raise ModelError(
                f"affine_filter: network {net.name!r} has the activation {layer.activation!r} on layer "
                f"{layer.name!r}, which the linear protocol cannot run; use a network whose only ReLU is on its "
                "last layer"
            )
    total = 2 * net.radius + 1
    if total > MAX_KERNEL:
        raise ModelError(
            f"affine_filter: the layers of network {net.name!r} compose to a {total}x{total} kernel; the linear "
            f"protocol runs at most {MAX_KERNEL}x{MAX_KERNEL}: use fewer layers or smaller kernels"
        )
    kernels: dict[str, NDArray[np.float64]] = {INPUT: np.ones((1, 1, 1))}
    last_use = net.last_use()
    biases: dict[str, NDArray[np.float64]] = {INPUT: np.zeros(1)}
    with np.errstate(over="ignore", invalid="ignore"):
        for index, layer in enumerate(net.layers):
            weight = net.weights[f"{layer.name}.weight"].astype(np.float64)
            # Both become full convolutions [in, out, k, k] of correlation kernels.
            weight = weight.transpose(1, 0, 2, 3) if layer.op == "conv2d" else weight[:, :, ::-1, ::-1]
            source = net.source_of(index)
            kernel = convolve_full(kernels[source], weight)
            bias = biases[source] @ weight.sum(axis=(2, 3)) + net.weights[f"{layer.name}.bias"].astype(np.float64)
            if layer.skip is not None:
                skip = kernels[layer.skip]
                size = max(kernel.shape[-1], skip.shape[-1])
                kernel = _centre_pad(kernel, size) + _centre_pad(skip, size)
                bias = bias + biases[layer.skip]
            kernels[layer.name], biases[layer.name] = kernel, bias
            for name in [name for name in kernels if last_use.get(name, index) < index]:
                del kernels[name]
        last = net.layers[-1]
        final, offset = _trim(kernels[last.name][0]), net.hu_offset
        bias_hu = float(net.hu_scale * biases[last.name][0] - offset * float(final.sum()))
        if net.residual:
            final = final.copy()
            final[final.shape[0] // 2, final.shape[0] // 2] += 1
        else:
            bias_hu += offset
    if not np.isfinite(final).all() or not np.isfinite(bias_hu):
        raise ModelError(f"affine_filter: composing network {net.name!r} overflows float64; scale its weights down")
    return AffineFilter(final, bias_hu, last.activation == "relu", offset)
