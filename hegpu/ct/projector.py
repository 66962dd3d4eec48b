"""Parallel-beam projection and filtered back-projection in torch, on the CPU or a GPU.

The numbers are those of ``skimage.transform.radon(circle=True)`` and ``iradon(circle=False)``: square images, the
rotation axis at pixel ``size // 2``, bilinear and linear interpolation. One view at a time keeps memory at a few
images; no atomic additions, so the same device gives the same bits. In float64 they agree to 1e-13, in float32 to
1e-5 but for pixels exactly at the edge of the detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hegpu.errors import BackendError, ParameterError

if TYPE_CHECKING:
    from torch import Tensor

F64 = npt.NDArray[np.float64]
Angles = Sequence[float] | F64
WINDOWS: dict[str, Callable[[int], F64]] = {  # of the ramp, frequency zero in the middle
    "ramp": np.ones,
    "shepp-logan": lambda size: np.sinc(np.arange(size) / size - 0.5),
    "cosine": lambda size: np.sin(np.pi * np.arange(size) / size),
    "hamming": np.hamming,
    "hann": np.hanning,
}


def to_device(array: F64, device: str) -> Tensor:
    """``array`` on "cpu" or "cuda". Errors: :class:`BackendError` without torch or a GPU, :class:`ParameterError`."""
    if device not in ("cpu", "cuda"):
        raise ParameterError(f"projector: the device {device!r} is unknown; use cpu, cuda or None for scikit-image")
    try:
        import torch
    except ImportError as cause:
        raise BackendError(
            f"projector: the device {device!r} needs torch, which is not installed; install hegpu[train] or leave the "
            "device out"
        ) from cause
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("projector: torch finds no NVIDIA GPU; use the device cpu or leave it out")
    return torch.from_numpy(array).to(device)


def project(image: Tensor, angles_deg: Angles) -> Tensor:
    """The sinogram ``[bins, views]`` of a square ``image`` that is zero outside its inscribed circle.

    Float32 or float64; the dtype and the device of ``image``.
    """
    import torch
    from torch.nn.functional import grid_sample

    if image.ndim != 2 or image.shape[0] != image.shape[1] or len(image) < 2 or not image.is_floating_point():
        raise ParameterError(
            f"project: {image.dtype}{list(image.shape)} is no square image of floats; pad or convert it"
        )
    size, centre = len(image), len(image) // 2
    sinogram = image.new_empty(len(angles_deg), size)
    with torch.no_grad():
        # grid_sample wants coordinates in which the outer pixel centres are -1 and 1.
        step = 2 / (size - 1)
        offset = torch.arange(size, dtype=image.dtype, device=image.device) - centre
        down, right, middle = offset[:, None], offset, centre * step - 1
        grid = image.new_empty(1, size, size, 2)
        for view, (cos, sin) in enumerate(_directions(angles_deg)):
            torch.add(down * (sin * step), right * (cos * step) + middle, out=grid[0, :, :, 0])
            torch.add(down * (cos * step), right * (-sin * step) + middle, out=grid[0, :, :, 1])
            sinogram[view] = grid_sample(image[None, None], grid, align_corners=True)[0, 0].sum(0)
    return sinogram.T.contiguous()


def backproject(sinogram: Tensor, angles_deg: Angles, filter_name: str, size: int) -> Tensor:
    """The image ``[size, size]`` of a ``sinogram`` ``[bins, views]``, filtered with one of ``WINDOWS``."""
    import torch
    from torch.nn.functional import pad

    if sinogram.ndim != 2 or sinogram.shape[1] != len(angles_deg) or not sinogram.is_floating_point():
        raise ParameterError(
            f"backproject: {sinogram.dtype}{list(sinogram.shape)} is no sinogram [bins, {len(angles_deg)}] of floats; "
            "give one angle per view"
        )
    if filter_name not in WINDOWS or size < 1:
        raise ParameterError(
            f"backproject: filter {filter_name!r}, size {size}; use {', '.join(WINDOWS)} and 1 or more"
        )
    bins, views = sinogram.shape
    image = sinogram.new_zeros(size, size)
    with torch.no_grad():
        padded = max(64, 1 << (2 * bins - 1).bit_length())
        response = torch.from_numpy(_filter(padded, filter_name)).to(sinogram)
        filtered = torch.fft.ifft(torch.fft.fft(sinogram.T, padded) * response).real[:, :bins]
        # A zero in front, for what lies beyond the detector; the slope behind the last bin is zero too.
        values, slopes = pad(filtered, (1, 0)), pad(filtered.diff(), (1, 1))
        offset = torch.arange(size, dtype=sinogram.dtype, device=sinogram.device) - size // 2
        first, last = -(bins // 2), bins - 1 - bins // 2
        for view, (cos, sin) in enumerate(_directions(angles_deg)):
            position = offset * cos - offset[:, None] * sin
            beyond = (position < first) | (position > last)
            position = position.add_(1 - first).masked_fill_(beyond, 0).view(-1)
            bin_below = position.to(torch.int32)
            position -= bin_below
            line = values[view].index_select(0, bin_below)
            image += line.addcmul_(slopes[view].index_select(0, bin_below), position).view_as(image)
    return image * (np.pi / (2 * views))


def _directions(angles_deg: Angles) -> Iterator[tuple[float, float]]:
    for angle in np.deg2rad(angles_deg):
        yield float(np.cos(angle)), float(np.sin(angle))


def _filter(size: int, name: str) -> F64:
    """The response of the ramp sampled in space (Kak and Slaney, chapter 3, equation 61), times the window."""
    distance = np.minimum(np.arange(size), size - np.arange(size))
    taps = np.zeros(size)
    taps[0], taps[1::2] = 0.25, -1 / (np.pi * distance[1::2]) ** 2
    return np.asarray(2 * np.fft.fft(taps).real * np.fft.fftshift(WINDOWS[name](size)), np.float64)
