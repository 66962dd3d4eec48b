"""What a denoising network is: its layers, its weights and its Hounsfield scale, checked when it is made.

The client lifts a slice to planes of network units (``hegpu.nets.lifting``; "hu" is ``x = (HU - hu_offset) /
hu_scale``), the network maps them to one plane ``y``, and the result in Hounsfield units is ``y * hu_scale +
hu_offset``; where ``residual`` is set, ``y`` is the change and the client adds the slice: ``HU + y * hu_scale``.

``conv2d`` is a cross-correlation, ``conv_transpose2d`` a convolution. Border rules:

- ``unpadded``: ``conv2d`` shrinks a plane by ``kernel - 1``, ``conv_transpose2d`` grows it by as much, and the whole
  network returns a plane of the slice's size (RED-CNN as published).
- ``replicate``: the slice is padded by the network's radius with its edge values, every layer runs ``unpadded`` and
  the centre is cropped, so no pixel of the result depends on what lies outside the padded plane.
- ``zero``: every layer keeps the size of its plane; taps outside read 0 (``padding = kernel // 2`` in torch).
- ``slot-wrap``: every layer keeps the size; a tap at ``(y, x)`` outside the H x W plane is read at
  ``((y + Py * floor(x / W)) mod H, x mod W)``, which is where a rotation of the slots of a phase finds it (``phases``
  is ``(Py, Px)``). The slice is padded below and right with its edge values to ``slot_plane``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from hegpu.errors import ModelError
from hegpu.nets.lifting import check_lifting

OPERATIONS = ("conv2d", "conv_transpose2d")
ACTIVATIONS = ("none", "relu", "gate", "quad")
BORDERS = ("replicate", "unpadded", "zero", "slot-wrap")
PHASES = (4, 4)
INPUT = "input"
MAX_KERNEL = 41
MAX_LAYERS = 256
MAX_CHANNELS = 1024
MAX_RADIUS = 256
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


def _is_int(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


@dataclass(frozen=True)
class Layer:
    """One convolution, an optional skip added to it, and an activation.

    ``source`` names the earlier layer (or ``"input"``) that is convolved; empty means the layer before this one.
    ``skip`` names an earlier output that is added before the activation; of two different sizes the larger plane is
    cropped about its centre. ``gate``: the convolution makes ``2 * outputs`` planes, ``u`` first, and the output is
    ``(u + skip) * (1 + v)``. ``quad``: ``linear * x + square * x^2``, two arrays of one value a channel. Raises
    ``ModelError`` for a field outside its range.
    """

    name: str
    op: str
    kernel: int
    inputs: int
    outputs: int
    source: str = ""
    skip: str | None = None
    activation: str = "none"

    def __post_init__(self) -> None:
        if not _is_name(self.name) or self.name == INPUT:
            raise ModelError(
                f"Layer: the name {self.name!r:.80} cannot be used; take 1 to 64 letters, digits, '_', '.' or '-', "
                f"and not {INPUT!r}"
            )
        if self.op not in OPERATIONS:
            self._fail(f"op {self.op!r:.80} is unknown; use one of {', '.join(OPERATIONS)}")
        if not _is_int(self.kernel, 1, MAX_KERNEL) or self.kernel % 2 == 0:
            self._fail(f"kernel {self.kernel!r:.80} is not an odd integer from 1 to {MAX_KERNEL}")
        for side in ("inputs", "outputs"):
            if not _is_int(getattr(self, side), 1, MAX_CHANNELS):
                self._fail(f"{side} {getattr(self, side)!r:.80} is not an integer from 1 to {MAX_CHANNELS}")
        if self.source != "" and not _is_name(self.source):
            self._fail(f"source {self.source!r:.80} is no layer name; name an earlier layer or {INPUT!r}")
        if self.skip is not None and not _is_name(self.skip):
            self._fail(f"skip {self.skip!r:.80} is no layer name; name an earlier layer or {INPUT!r}")
        if self.activation not in ACTIVATIONS:
            self._fail(f"activation {self.activation!r:.80} is unknown; use one of {', '.join(ACTIVATIONS)}")

    def _fail(self, why: str) -> None:
        raise ModelError(f"Layer {self.name!r}: {why}")

    @property
    def radius(self) -> int:
        """Half the kernel's width in pixels, rounded down."""
        return self.kernel // 2

    @property
    def planes(self) -> int:
        """How many planes the convolution makes: ``outputs``, twice as many before a gate."""
        return self.outputs * (2 if self.activation == "gate" else 1)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Torch's layout: ``[planes, in, k, k]`` for ``conv2d``, ``[in, planes, k, k]`` for ``conv_transpose2d``."""
        first, second = (self.planes, self.inputs) if self.op == "conv2d" else (self.inputs, self.planes)
        return first, second, self.kernel, self.kernel


def weight_shapes(layers: tuple[Layer, ...]) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight array that these layers need."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        shapes[f"{layer.name}.weight"] = layer.weight_shape
        shapes[f"{layer.name}.bias"] = (layer.planes,)
        if layer.activation == "quad":
            shapes[f"{layer.name}.linear"] = shapes[f"{layer.name}.square"] = (layer.outputs,)
    return shapes


def check_graph(name: str, layers: tuple[Layer, ...], inputs: int = 1) -> dict[str, int]:
    """Check how the layers connect to ``inputs`` planes; returns the radius in pixels of every output. Raises ``ModelError``."""
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise ModelError(f"Network {name!r}: {len(layers)} layers; a network has 1 to {MAX_LAYERS}")
    channels, radius, used = {INPUT: inputs}, {INPUT: 0}, set[str]()
    previous = INPUT
    for layer in layers:
        source, where = layer.source or previous, f"Network {name!r}, layer {layer.name!r}"
        if layer.name in channels:
            raise ModelError(f"{where}: the name occurs twice; give every layer its own")
        for role, other in (("source", source), ("skip", layer.skip)):
            if other is not None and other not in channels:
                raise ModelError(f"{where}: {role} {other!r} is no earlier layer; name one of {', '.join(channels)}")
        if channels[source] != layer.inputs:
            raise ModelError(
                f"{where}: inputs is {layer.inputs}, but {source!r} has {channels[source]} channels; make them equal"
            )
        radius[layer.name] = radius[source] + layer.radius
        if layer.skip is not None:
            if channels[layer.skip] != layer.outputs:
                raise ModelError(
                    f"{where}: outputs is {layer.outputs}, but skip {layer.skip!r} has {channels[layer.skip]} "
                    "channels; make them equal"
                )
            radius[layer.name] = max(radius[layer.name], radius[layer.skip])
            used.add(layer.skip)
        if radius[layer.name] > MAX_RADIUS:
            raise ModelError(f"{where}: it sees {radius[layer.name]} pixels far; the limit is {MAX_RADIUS}")
        used.add(source)
        channels[layer.name] = layer.outputs
        previous = layer.name
    if layers[-1].outputs != 1:
        raise ModelError(
            f"Network {name!r}: its last layer {previous!r} has {layers[-1].outputs} outputs; a denoiser returns "
            "one plane, so set outputs to 1"
        )
    idle = [layer.name for layer in layers[:-1] if layer.name not in used]
    if idle:
        raise ModelError(f"Network {name!r}: nothing uses the output of {', '.join(idle)}; remove or connect it")
    return radius


def growth(layers: tuple[Layer, ...]) -> dict[str, int]:
    """By how many pixels a side each output of ``unpadded`` layers exceeds the slice; negative where it is smaller."""
    size = {INPUT: 0}
    previous = INPUT
    for layer in layers:
        own = size[layer.source or previous] + (layer.radius if layer.op == "conv_transpose2d" else -layer.radius)
        size[layer.name] = own if layer.skip is None else min(own, size[layer.skip])
        previous = layer.name
    return size


def slot_plane(shape: tuple[int, int], phases: tuple[int, int]) -> tuple[int, int]:
    """The plane H x W that holds a slice of ``shape`` in ``phases``: cells a side rounded up to a power of two."""
    height, width = (
        phase << max(0, math.ceil(math.log2(math.ceil(side / phase))))
        for side, phase in zip(shape, phases, strict=True)
    )
    return height, width


class Graph:
    """How layers connect: what a network and its outline share."""

    name: str
    layers: tuple[Layer, ...]
    lifting: tuple[str, ...]

    def source_of(self, index: int) -> str:
        """The name of the output that layer ``index`` convolves."""
        return self.layers[index].source or (self.layers[index - 1].name if index else INPUT)

    def last_use(self) -> dict[str, int]:
        """The index of the last layer that reads each output; what is not read again can be forgotten."""
        return {
            name: index
            for index, layer in enumerate(self.layers)
            for name in (self.source_of(index), layer.skip)
            if name
        }

    @property
    def radius(self) -> int:
        """How many pixels away an input pixel can still change an output pixel; the padding of the border rule."""
        return check_graph(self.name, self.layers, len(self.lifting))[self.layers[-1].name]


@dataclass(frozen=True, eq=False)
class Network(Graph):
    """A whole denoiser: layers in order of execution, float32 weights, and what the client does around it.

    ``weights`` holds the arrays that ``weight_shapes`` lists and nothing else; they are copied and made read-only.
    ``hu_offset`` and ``hu_scale`` are in HU. ``fraction_bits``: every convolution weight is a multiple of
    ``2^-fraction_bits``; None for unrounded weights. ``ranges``: per layer the largest ``|pre-activation|`` and
    ``|output|`` seen in calibration, in network units; an encrypted executor reserves ``margin`` times as much. Raises
    ``ModelError`` for layers that do not connect, wrong shapes, values that are not finite and fields that contradict
    each other.
    """

    name: str
    layers: tuple[Layer, ...]
    weights: Mapping[str, NDArray[np.float32]]
    hu_offset: float = 0.0
    hu_scale: float = 1.0
    border: str = "replicate"
    phases: tuple[int, int] | None = None
    lifting: tuple[str, ...] = ("hu",)
    residual: bool = False
    fraction_bits: int | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    margin: float = 1.0

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise ModelError(f"Network: the name {self.name!r:.80} is not 1 to 64 letters, digits, '_', '.' or '-'")
        for name in ("layers", "lifting"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_numbers()
        check_lifting(self.name, self.lifting)
        check_graph(self.name, self.layers, len(self.lifting))
        self._check_border()
        self._take_weights()
        self._check_ranges()

    def _fail(self, why: str) -> NoReturn:
        raise ModelError(f"Network {self.name!r}: {why}")

    def _check_numbers(self) -> None:
        for name, limit in (("hu_offset", 1e6), ("hu_scale", 1e6), ("margin", 100.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= limit:
                self._fail(f"{name} {value!r:.80} is not a number from -{limit:g} to {limit:g}")
            object.__setattr__(self, name, float(value))
        if not self.hu_scale >= 1e-6:
            self._fail(f"hu_scale {self.hu_scale!r} is not at least 1e-6 HU")
        if self.margin < 1:
            self._fail(f"margin {self.margin!r} is not at least 1")
        if type(self.residual) is not bool:
            self._fail(f"residual {self.residual!r:.80} is neither true nor false")
        if self.fraction_bits is not None and not _is_int(self.fraction_bits, 1, 24):
            self._fail(f"fraction_bits {self.fraction_bits!r:.80} is neither null nor an integer from 1 to 24")

    def _check_border(self) -> None:
        if self.border not in BORDERS:
            self._fail(f"border {self.border!r:.80} is unknown; use one of {', '.join(BORDERS)}")
        if self.border != "slot-wrap":
            if self.phases is not None:
                self._fail(f"phases {self.phases!r:.80} need the border 'slot-wrap', it is {self.border!r}")
            if self.border == "unpadded" and (size := growth(self.layers)[self.layers[-1].name]) != 0:
                self._fail(
                    f"unpadded, its result is {abs(size)} pixels a side {'larger' if size > 0 else 'smaller'} than the "
                    "slice; match conv2d and conv_transpose2d, or use another border"
                )
            return
        phases = PHASES if self.phases is None else tuple(self.phases)
        if len(phases) != 2 or not all(_is_int(value, 1, 64) for value in phases):
            self._fail(f"phases {self.phases!r:.80} are not two integers (Py, Px) from 1 to 64")
        object.__setattr__(self, "phases", phases)
        transposed = [layer.name for layer in self.layers if layer.op != "conv2d"]
        if transposed:
            self._fail(
                f"layer {transposed[0]!r} is a conv_transpose2d; with 'slot-wrap' flip its kernel and use conv2d"
            )

    def _check_ranges(self) -> None:
        names = {layer.name for layer in self.layers}
        if not isinstance(self.ranges, Mapping) or (self.ranges and set(self.ranges) != names):
            self._fail("ranges name other layers than it has; calibrate it again")
        taken = {}
        for name, pair in self.ranges.items():
            numbers = pair if isinstance(pair, (list, tuple)) and len(pair) == 2 else ()
            if len([value for value in numbers if isinstance(value, (int, float)) and 0 <= value <= 1e9]) != 2:
                self._fail(f"the range {pair!r:.80} of layer {name!r} is not two numbers from 0 to 1e9")
            taken[name] = (float(numbers[0]), float(numbers[1]))
        object.__setattr__(self, "ranges", taken)

    def _take_weights(self) -> None:
        shapes = weight_shapes(self.layers)
        if set(self.weights) != set(shapes):
            missing, extra = sorted(set(shapes) - set(self.weights)), sorted(set(self.weights) - set(shapes))
            raise ModelError(
                f"Network {self.name!r}: its layers and weights differ (missing: {', '.join(missing)[:200] or 'none'}; "
                f"unexpected: {', '.join(extra)[:200] or 'none'}); give each layer a weight and a bias"
            )
        taken: dict[str, NDArray[np.float32]] = {}
        for key, shape in shapes.items():
            given = np.asarray(self.weights[key])
            if given.shape != shape or given.dtype.kind not in "fiu":
                raise ModelError(
                    f"Network {self.name!r}: {key} is {given.dtype} of shape {given.shape}; its layer needs float32 "
                    f"of shape {shape}"
                )
            with np.errstate(over="ignore"):
                array = np.array(given, dtype=np.float32, order="C")
            if not np.isfinite(array).all():
                raise ModelError(f"Network {self.name!r}: {key} holds values that are not finite; train it again")
            if self.fraction_bits is not None and key.endswith(".weight"):
                steps = np.ldexp(array.astype(np.float64), self.fraction_bits)
                if (steps != np.rint(steps)).any():
                    self._fail(f"{key} holds values that are no multiples of 2^-{self.fraction_bits}; round it first")
            array.flags.writeable = False
            taken[key] = array
        object.__setattr__(self, "weights", taken)
