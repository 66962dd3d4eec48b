"""Network files: one safetensors file whose metadata key ``hegpu`` holds a versioned JSON description.

A file may come from a stranger. Its length and header are parsed here under limits, every declared shape must match
the described layers, and the arrays must fill the file exactly, before any weight is read.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from hegpu.errors import ModelError
from hegpu.files import write_atomic
from hegpu.nets.description import MAX_LAYERS, Layer, Network, check_graph, weight_shapes

FORMAT = "hegpu-network"
VERSION = 2
MAX_HEADER = 1 << 20
MAX_FILE = 1 << 30
_LAYER_FIELDS = {"name", "op", "kernel", "inputs", "outputs", "source", "skip", "activation"}
_NETWORK_FIELDS = (
    "name", "hu_offset", "hu_scale", "border", "phases", "lifting", "residual", "fraction_bits", "ranges", "margin",
)  # fmt: skip
_FIELDS = {"format", "version", "layers", *_NETWORK_FIELDS}


def weights_folder() -> Path:
    """Where the shipped networks lie."""
    return Path(__file__).parent / "weights"


def shipped_names() -> list[str]:
    """The names of the networks that come with the package."""
    return sorted(path.stem for path in weights_folder().glob("*.safetensors"))


def save_network(net: Network, path: str | os.PathLike[str]) -> None:
    """Write ``net`` to ``path``: first to a temporary file beside it, which is then renamed.

    Raises ``ModelError`` when the network exceeds the limits of the format and ``OSError`` when writing fails.
    """
    write_atomic(path, network_bytes(net))


def network_bytes(net: Network) -> bytes:
    """The content of the file of ``net``; equal networks give equal bytes. Raises ``ModelError`` above the limits."""
    description = {
        "format": FORMAT,
        "version": VERSION,
        "layers": [{field: getattr(layer, field) for field in sorted(_LAYER_FIELDS)} for layer in net.layers],
        **{field: getattr(net, field) for field in _NETWORK_FIELDS},
    }
    size = sum(array.nbytes for array in net.weights.values())
    if size > MAX_FILE - MAX_HEADER - 8:
        raise ModelError(f"save_network: {net.name!r} has {size} bytes of weights; the limit is 1 GiB a file")
    content: bytes = save(dict(net.weights), metadata={"hegpu": json.dumps(description, sort_keys=True)})
    if int.from_bytes(content[:8], "little") > MAX_HEADER:
        raise ModelError(f"save_network: the description of {net.name!r} exceeds 1 MiB; use fewer layers")
    return content


def load_network(source: str | os.PathLike[str] | bytes) -> Network:
    """Read a network from its bytes, from the name of a shipped network, or from a path (in this order).

    Raises ``ModelError`` for an unknown name, a damaged file, one above the limits and one of another version.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _parse(bytes(source), "the given bytes")
    names = shipped_names()
    path = weights_folder() / f"{source}.safetensors" if source in names else Path(source)
    try:
        if not path.is_file():
            raise ModelError(
                f"load_network: {str(source)!r:.200} is neither a file nor a shipped network; the shipped networks "
                f"are: {', '.join(names) or 'none'}"
            )
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MAX_FILE:
                _fail(str(path), f"it has {size} bytes, the limit is {MAX_FILE}")
            content = stream.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"load_network: {str(source)!r:.200} cannot be read ({error}); check the path") from error
    return _parse(content, str(path))


def _fail(where: str, why: str) -> NoReturn:
    raise ModelError(f"load_network: {where:.200}: {why}; get the file again or save it anew with save_network")


def _parse(content: bytes, where: str) -> Network:
    if len(content) < 8 or len(content) > MAX_FILE:
        _fail(where, f"{len(content)} bytes are no network file (8 to {MAX_FILE})")
    length = int.from_bytes(content[:8], "little")
    if length > MAX_HEADER or length > len(content) - 8:
        _fail(where, f"its header claims {length} bytes, of {len(content) - 8} present and {MAX_HEADER} allowed")
    header = _json(content[8 : 8 + length], where, "header")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("hegpu"), str):
        _fail(where, "it has no hegpu description, so it is not a hegpu network")
    description = _json(metadata["hegpu"].encode("utf-8", "surrogatepass"), where, "description")
    layers = _layers(description, where)
    try:
        lifting = description["lifting"]
        check_graph(str(description["name"])[:64], layers, len(lifting) if isinstance(lifting, list) else 1)
    except ModelError as error:
        _fail(where, str(error))
    weights = _arrays(header, memoryview(content)[8 + length :], weight_shapes(layers), where)
    try:
        return Network(layers=layers, weights=weights, **{field: description[field] for field in _NETWORK_FIELDS})
    except (ModelError, TypeError) as error:
        _fail(where, str(error))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _json(text: bytes, where: str, part: str) -> dict[str, Any]:
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        _fail(where, f"its {part} is not JSON ({str(error)[:100]})")
    if not isinstance(value, dict):
        _fail(where, f"its {part} is not a JSON object")
    return value


def _layers(description: dict[str, Any], where: str) -> tuple[Layer, ...]:
    if description.get("format") != FORMAT:
        _fail(where, f"its format is {description.get('format')!r:.80}, not {FORMAT!r}")
    if type(description.get("version")) is not int or description["version"] != VERSION:
        _fail(where, f"its version is {description.get('version')!r:.80}, this hegpu reads version {VERSION}")
    if set(description) != _FIELDS:
        _fail(where, f"its description has the fields {sorted(description)!s:.200}, not {sorted(_FIELDS)}")
    entries = description["layers"]
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_LAYERS:
        _fail(where, f"its layers are not a list of 1 to {MAX_LAYERS}")
    layers = []
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or set(entry) != _LAYER_FIELDS:
            _fail(where, f"its layer {position} does not have exactly the fields {sorted(_LAYER_FIELDS)}")
        try:
            layers.append(Layer(**entry))
        except (ModelError, TypeError) as error:
            _fail(where, str(error))
    return tuple(layers)


def _is_shape(value: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, list) and all(type(size) is int for size in value) and tuple(value) == shape


def _arrays(
    header: dict[str, Any], data: memoryview, shapes: dict[str, tuple[int, ...]], where: str
) -> dict[str, NDArray[np.float32]]:
    if set(header) != set(shapes):
        _fail(where, f"its {len(header)} arrays are not the {len(shapes)} that its layers need")
    spans = []
    for name, shape in shapes.items():
        entry = header[name]
        if not isinstance(entry, dict) or entry.get("dtype") != "F32" or not _is_shape(entry.get("shape"), shape):
            _fail(where, f"{name} is not declared as F32 of shape {list(shape)}")
        offsets = entry.get("data_offsets")
        if (
            not isinstance(offsets, list)
            or len(offsets) != 2
            or any(type(offset) is not int for offset in offsets)
            or offsets[0] < 0
            or offsets[1] - offsets[0] != 4 * math.prod(shape)
        ):
            _fail(where, f"{name} has the data offsets {offsets!r:.80}, which do not fit its shape {list(shape)}")
        spans.append((offsets[0], offsets[1], name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            _fail(where, f"{name} starts at byte {start} of the data, expected {end}")
        end = stop
    if end != len(data):
        _fail(where, f"its arrays need {end} bytes of data, {len(data)} are present")
    return {
        name: np.frombuffer(data[start:stop], dtype="<f4").reshape(shapes[name]).astype(np.float32)
        for start, stop, name in spans
    }
