"""The RED-CNN family: the same encoder, decoder and skips at any width and depth, with four kinds of activation.

RED-CNN (Chen et al., IEEE TMI 2017): five 5x5 convolutions, five 5x5 transposed convolutions, 96 channels, ReLU, and
skips from the input and from the outputs of layers 2 and 4 to layers 10, 8 and 6. At another even depth L, layer i
with i even and i > L - i receives the output of layer L - i, which gives just these for L = 10.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hegpu.errors import ModelError
from hegpu.nets.description import INPUT, Layer, Network, weight_shapes

KINDS = ("redcnn", "redcnn-linear", "redcnn-gate", "redcnn-quad")
KERNEL = 5
HU_SCALE = 1000.0


def family_layers(
    kind: str, width: int = 96, depth: int = 10, inputs: int = 1, final_relu: bool = False
) -> tuple[Layer, ...]:
    """The layers of one of ``KINDS``; ``depth`` is even, from 4 to 64. Raises ``ModelError``."""
    if kind not in KINDS:
        raise ModelError(f"family: the kind {kind!r:.80} is unknown; use one of {', '.join(KINDS)}")
    if type(depth) is not int or depth % 2 or not 4 <= depth <= 64:
        raise ModelError(f"family: depth {depth!r:.80} is not an even integer from 4 to 64")
    residual = returns_residual(kind, inputs)
    if final_relu and residual:
        raise ModelError(f"family: {kind} with {inputs} input planes returns a residual, which no ReLU may clip")
    activation = {"redcnn": "relu", "redcnn-linear": "none", "redcnn-gate": "gate", "redcnn-quad": "quad"}[kind]
    names = [f"conv{i}" for i in range(1, depth + 1)]
    if kind in ("redcnn", "redcnn-linear"):
        names[depth // 2 :] = [f"tconv{i}" for i in range(1, depth // 2 + 1)]
    layers = []
    for index, name in enumerate(names):
        number, last = index + 1, index == depth - 1
        source = depth - number
        skip = None
        if number % 2 == 0 and number > source:
            skip = names[source - 1] if source else INPUT
        layers.append(
            Layer(
                name,
                "conv_transpose2d" if name.startswith("t") else "conv2d",
                KERNEL,
                width if index else inputs,
                1 if last else width,
                skip=None if last and residual else skip,
                activation=("relu" if final_relu else "none") if last else activation,
            )
        )
    return tuple(layers)


def returns_residual(kind: str, inputs: int) -> bool:
    """Whether the client adds the slice: for levelled kinds, and where the slice is not the only input plane."""
    return kind in ("redcnn-gate", "redcnn-quad") or inputs != 1


def make(
    kind: str,
    width: int = 96,
    depth: int = 10,
    *,
    seed: int = 0,
    name: str | None = None,
    lifting: tuple[str, ...] = ("hu",),
    final_relu: bool = False,
) -> Network:
    """An untrained network of the family, HU / 1000: ReLU and linear ones with the border "replicate", levelled ones with "slot-wrap"."""
    layers = family_layers(kind, width, depth, len(lifting), final_relu)
    levelled = kind in ("redcnn-gate", "redcnn-quad")
    return Network(
        name or f"{kind}-{width}",
        layers,
        initial_weights(layers, seed),
        0.0,
        HU_SCALE,
        "slot-wrap" if levelled else "replicate",
        lifting=lifting,
        residual=returns_residual(kind, len(lifting)),
    )


def initial_weights(layers: tuple[Layer, ...], seed: int) -> dict[str, NDArray[np.float32]]:
    """Gaussian weights that keep a signal's variance (He et al. 2015 for ReLU); gates start near ``u``, the last layer near 0."""
    rng = np.random.default_rng(seed)
    weights = {key: np.zeros(shape, np.float32) for key, shape in weight_shapes(layers).items()}
    for layer in layers:
        key = f"{layer.name}.weight"
        gain = np.sqrt(2.0) if layer.activation == "relu" else 0.8
        values = rng.standard_normal(layer.weight_shape) * (gain / np.sqrt(layer.inputs * layer.kernel**2))
        if layer.activation == "gate":
            planes = values if layer.op == "conv2d" else values.swapaxes(0, 1)
            planes[layer.outputs :] *= 0.7
        if layer is layers[-1]:
            values *= 0.1
        weights[key] = values.astype(np.float32)
        if layer.activation == "quad":
            weights[f"{layer.name}.linear"][:] = 1.0
            weights[f"{layer.name}.square"][:] = 0.1 * rng.standard_normal(layer.outputs)
    return weights


def widen(net: Network, width: int, *, seed: int = 0, name: str | None = None) -> Network:
    """The same function with ``width`` hidden channels (Net2Net, Chen et al. 2016), to be trained further.

    Channel j of the wide network copies channel ``j mod c``; what reads a channel splits its weights over the copies
    in random shares that sum to one, so that the copies do not stay equal. Raises ``ModelError`` for a network whose
    hidden layers differ in width.
    """
    widths = {layer.outputs for layer in net.layers[:-1]}
    if len(widths) != 1 or width < max(widths):
        raise ModelError(
            f"widen: {net.name!r} has hidden widths {sorted(widths)}; one width of at most {width} is needed"
        )
    narrow, rng = max(widths), np.random.default_rng(seed)
    copy = np.arange(width) % narrow
    layers, weights = [], {}
    for index, layer in enumerate(net.layers):
        last, first = index == len(net.layers) - 1, layer.inputs != narrow or net.source_of(index) == INPUT
        outputs = np.arange(layer.outputs) if last else copy
        planes = np.concatenate([outputs, layer.outputs + outputs]) if layer.activation == "gate" else outputs
        wide = Layer(**{**vars(layer), "inputs": layer.inputs if first else width, "outputs": len(outputs)})
        weight = net.weights[f"{layer.name}.weight"].astype(np.float64)
        if layer.op == "conv_transpose2d":
            weight = weight.swapaxes(0, 1)
        weight = weight[planes]
        if not first:
            shares = rng.uniform(0.5, 1.5, (len(planes), width, 1, 1))
            total = np.stack([shares[:, copy == channel].sum(axis=1) for channel in range(narrow)], axis=1)
            weight = weight[:, copy] * (shares / total[:, copy])
        weights[f"{layer.name}.weight"] = (weight.swapaxes(0, 1) if layer.op == "conv_transpose2d" else weight).astype(
            np.float32
        )
        weights[f"{layer.name}.bias"] = net.weights[f"{layer.name}.bias"][planes]
        for part in ("linear", "square"):
            if f"{layer.name}.{part}" in net.weights:
                weights[f"{layer.name}.{part}"] = net.weights[f"{layer.name}.{part}"][outputs]
        layers.append(wide)
    return Network(name or f"{net.name}-wide", tuple(layers), weights, net.hu_offset, net.hu_scale, net.border,
                   net.phases, net.lifting, net.residual)  # fmt: skip
