"""What a denoising network is: its layers, its weights and its Hounsfield scale, checked when it is made.

A network maps one plane of network units ``x = (HU - hu_offset) / hu_scale`` to one plane ``y``; the result in
Hounsfield units is ``y * hu_scale + hu_offset``. ``conv2d`` is a valid cross-correlation, which shrinks a plane by
``kernel - 1``; ``conv_transpose2d`` is a full convolution, which grows it by as much. The border rule "replicate" pads
the slice by the network's radius with its edge values, runs every layer on the padded plane and crops the centre, so
no pixel of the result depends on what lies outside the padded plane.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hegpu.errors import ModelError

OPERATIONS = ("conv2d", "conv_transpose2d")
ACTIVATIONS = ("none", "relu")
BORDERS = ("replicate",)
INPUT = "input"
MAX_KERNEL = 41
MAX_LAYERS = 256
MAX_CHANNELS = 4096
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
    cropped about its centre. Raises ``ModelError`` for a field outside its range.
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
        for field in ("inputs", "outputs"):
            if not _is_int(getattr(self, field), 1, MAX_CHANNELS):
                self._fail(f"{field} {getattr(self, field)!r:.80} is not an integer from 1 to {MAX_CHANNELS}")
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
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Torch's layout: ``[out, in, k, k]`` for ``conv2d``, ``[in, out, k, k]`` for ``conv_transpose2d``."""
        first, second = (self.outputs, self.inputs) if self.op == "conv2d" else (self.inputs, self.outputs)
        return first, second, self.kernel, self.kernel


def weight_shapes(layers: tuple[Layer, ...]) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight array that these layers need."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        shapes[f"{layer.name}.weight"] = layer.weight_shape
        shapes[f"{layer.name}.bias"] = (layer.outputs,)
    return shapes


def check_graph(name: str, layers: tuple[Layer, ...]) -> dict[str, int]:
    """Check how the layers connect; returns the radius in pixels of every output. Raises ``ModelError``."""
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise ModelError(f"Network {name!r}: {len(layers)} layers; a network has 1 to {MAX_LAYERS}")
    channels, radius, used = {INPUT: 1}, {INPUT: 0}, set[str]()
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


@dataclass(frozen=True, eq=False)
class Network:
    """A whole denoiser: layers in order of execution, float32 weights, and the Hounsfield scale.

    ``weights`` holds ``<layer>.weight`` (see ``Layer.weight_shape``) and ``<layer>.bias`` ``[out]`` for every layer and
    nothing else; the arrays are copied and made read-only. ``hu_offset`` and ``hu_scale`` are in HU. Raises
    ``ModelError`` for layers that do not connect, wrong shapes and values that are not finite.
    """

    name: str
    layers: tuple[Layer, ...]
    weights: Mapping[str, NDArray[np.float32]]
    hu_offset: float = 0.0
    hu_scale: float = 1.0
    border: str = "replicate"

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise ModelError(f"Network: the name {self.name!r:.80} is not 1 to 64 letters, digits, '_', '.' or '-'")
        object.__setattr__(self, "layers", tuple(self.layers))
        for field in ("hu_offset", "hu_scale"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e6:
                raise ModelError(f"Network {self.name!r}: {field} {value!r:.80} is not a number from -1e6 to 1e6 HU")
            object.__setattr__(self, field, float(value))
        if not self.hu_scale >= 1e-6 or not math.isfinite(self.hu_scale):
            raise ModelError(f"Network {self.name!r}: hu_scale {self.hu_scale!r} is not at least 1e-6 HU")
        if self.border not in BORDERS:
            raise ModelError(f"Network {self.name!r}: border {self.border!r:.80} is unknown; use 'replicate'")
        check_graph(self.name, self.layers)
        self._take_weights()

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
            array.flags.writeable = False
            taken[key] = array
        object.__setattr__(self, "weights", taken)

    def source_of(self, index: int) -> str:
        """The name of the output that layer ``index`` convolves."""
        return self.layers[index].source or (self.layers[index - 1].name if index else INPUT)

    @property
    def radius(self) -> int:
        """How many pixels away an input pixel can still change an output pixel; the padding of the border rule."""
        return check_graph(self.name, self.layers)[self.layers[-1].name]
