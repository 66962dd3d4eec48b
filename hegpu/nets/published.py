"""Published weights: the state dict of the public RED-CNN (github.com/SSinyu/RED-CNN) as a network.

Its layers conv1 to conv5 and tconv1 to tconv5 are 5x5 with stride 1 and no padding, its slices ``(HU + 1024) / 4096``,
and a ReLU follows every layer, the last one included.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hegpu.errors import ModelError
from hegpu.nets.description import Network, weight_shapes
from hegpu.nets.family import family_layers
from hegpu.nets.file import MAX_FILE

DEPTH = 10
_PREFIX = "module."


def from_redcnn_state_dict(
    state: Mapping[str, Tensor] | str | os.PathLike[str],
    *,
    name: str = "redcnn",
    final_relu: bool = True,
    hu_offset: float = -1024.0,
    hu_scale: float = 4096.0,
    border: str = "unpadded",
) -> Network:
    """The network of a public RED-CNN state dict, or of a file that holds one (torch or safetensors, at most 1 GiB).

    The width is read from the shapes; a ``module.`` before every key (DataParallel) is dropped. ``hu_offset`` and
    ``hu_scale`` in HU are those of its training. Raises ``ModelError`` for a damaged file and for arrays that are
    missing, unexpected, of a wrong shape, not real or not finite.
    """
    where = "the given state dict"
    if not isinstance(state, Mapping):
        where, state = f"{str(state)!r:.200}", _load(Path(state))
    arrays = _without_prefix(state)
    layers = family_layers("redcnn", _width(arrays, where), DEPTH, final_relu=final_relu)
    shapes = weight_shapes(layers)
    _check_names(arrays, set(shapes), where)
    weights = {key: _array(key, arrays[key], shape, where).numpy() for key, shape in shapes.items()}
    return Network(name, layers, weights, hu_offset, hu_scale, border)


def _load(path: Path) -> Mapping[str, Any]:
    """The state dict in a file. No code in it is run."""
    where = f"from_redcnn_state_dict: {str(path)!r:.200}"
    try:
        if (size := path.stat().st_size) > MAX_FILE:
            raise ModelError(f"{where}: it has {size} bytes, the limit is {MAX_FILE}; save its state dict alone")
        with path.open("rb") as stream:
            head = stream.read(9)
        if head[8:] == b"{":
            from safetensors.torch import load_file

            content: Any = load_file(path, device="cpu")
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # the two parsers document no exceptions for damaged files
        raise ModelError(
            f"{where}: it cannot be read ({str(error)[:200]}); give a file that torch.save wrote of a state dict, or a "
            "safetensors file"
        ) from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{where}: it holds a {type(content).__name__}; save model.state_dict() instead")
    return content


def _without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    keys = [str(key) for key in state]
    cut = len(_PREFIX) if keys and all(key.startswith(_PREFIX) for key in keys) else 0
    return {key[cut:]: value for key, value in zip(keys, state.values(), strict=True)}


def _width(arrays: Mapping[str, Any], where: str) -> int:
    """The channels of ``conv1``; 1 where it is missing, which the check of the names then reports."""
    first = arrays.get("conv1.weight")
    if first is None:
        return 1
    shape = tuple(first.shape) if isinstance(first, Tensor) else ()
    if len(shape) != 4 or shape[0] < 1:
        raise ModelError(
            f"from_redcnn_state_dict: {where}: conv1.weight has the shape {shape}, not (width, 1, 5, 5); give the "
            "weights of the public RED-CNN"
        )
    return int(shape[0])


def _check_names(arrays: Mapping[str, Any], names: set[str], where: str) -> None:
    missing, extra = sorted(names - set(arrays)), sorted(set(arrays) - names)
    if missing or extra:
        raise ModelError(
            f"from_redcnn_state_dict: {where}: its arrays are not those of the public RED-CNN (missing: "
            f"{', '.join(missing)[:400] or 'none'}; unexpected: {', '.join(extra)[:400] or 'none'}); import another "
            "architecture with hegpu.nets.importer.import_module"
        )


def _array(key: str, value: Any, shape: tuple[int, ...], where: str) -> Tensor:
    if (
        not isinstance(value, Tensor)
        or not value.is_floating_point()
        or value.is_meta
        or value.layout != torch.strided
        or tuple(value.shape) != shape
    ):
        kind = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ModelError(
            f"from_redcnn_state_dict: {where}: {key} is {kind}, not a real tensor of shape {shape}; give the weights of "
            "the public RED-CNN"
        )
    array = value.detach().to("cpu", torch.float32).contiguous()
    if not bool(torch.isfinite(array).all()):
        raise ModelError(
            f"from_redcnn_state_dict: {where}: {key} holds values that are not finite in float32; take another checkpoint"
        )
    return array
