"""The wire format: a safetensors file with a small versioned header, every byte accounted for before it is used."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hegpu.backend import pool
from hegpu.backend.protocol import U32, Backend, Moduli
from hegpu.errors import FormatError

VERSION = 1
MAX_HEADER = 1 << 16
_DTYPES = {"uint8": "U8"}

Body = bytes | memoryview
"""A file or message in memory."""
Expect = Callable[[dict[str, Any]], dict[str, tuple[Any, tuple[int, ...]]]]


def dump(kind: str, header: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> memoryview:
    """A file of this ``kind``; ``header`` is JSON, ``arrays`` are uint8."""
    start = np.frombuffer(frame_start(kind, header, {name: array.shape for name, array in arrays.items()}), np.uint8)
    parts = [start, *(array.reshape(-1) for array in arrays.values())]
    out = pool.empty((sum(part.size for part in parts),), np.uint8)
    return np.concatenate(parts, out=out).data


def frame_start(kind: str, header: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> bytes:
    """What comes before the bytes of the uint8 arrays, which follow in this order: safetensors' own layout, written
    here because its library copies every array twice."""
    text = json.dumps({"format": "hegpu", "version": VERSION, "kind": kind, **header}, sort_keys=True)
    tensors: dict[str, Any] = {"__metadata__": {"hegpu": text}}
    at = 0
    for name, shape in shapes.items():
        end = at + int(np.prod(shape, dtype=object))
        tensors[name] = {"dtype": "U8", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    head = json.dumps(tensors, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head


def header_of(data: Body) -> tuple[dict[str, Any], dict[str, Any], int]:
    """(our header, the declared tensors, where their bytes start). Errors: :class:`FormatError`."""
    if len(data) < 8:
        raise FormatError(f"load: {len(data)} bytes are no hegpu file; it is truncated")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER or 8 + length > len(data):
        raise FormatError(f"load: a header of {length} bytes does not fit; the file is damaged or no hegpu file")
    try:
        tensors = json.loads(bytes(data[8 : 8 + length]))
        header = json.loads(tensors.pop("__metadata__")["hegpu"])
        if not isinstance(tensors, dict) or not isinstance(header, dict):
            raise TypeError("not an object")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise FormatError(f"load: the header is not readable ({cause!r:.80}); the file is damaged") from cause
    if header.get("format") != "hegpu" or type(header.get("version")) is not int or header["version"] != VERSION:
        raise FormatError(
            f"load: format {header.get('format')!r:.40} version {header.get('version')!r:.20} is not hegpu {VERSION}; "
            "use the hegpu version that wrote it"
        )
    return header, tensors, 8 + length


def load(data: Body, kind: str, expect: Expect, max_bytes: int) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Header and arrays of a ``kind`` file.

    ``expect`` maps the header to each array's (dtype, shape); names, dtypes, shapes and the file's size must agree
    with it exactly, before anything is allocated. Errors: :class:`FormatError`, and nothing else.
    """
    if len(data) > max_bytes:
        raise FormatError(f"load: {len(data)} bytes are more than the limit of {max_bytes}; it is refused")
    header, tensors, start = header_of(data)
    if header.get("kind") != kind:
        raise FormatError(
            f"load: this is a {header.get('kind')!r:.40} file, a {kind!r} file is needed here; give that one"
        )
    wanted = expect(header)
    if set(tensors) != set(wanted):
        raise FormatError(
            f"load: the file holds {sorted(tensors)!r:.80}, a {kind!r} file holds {sorted(wanted)}; get it again"
        )
    arrays: dict[str, Any] = {}
    spans = []
    for name, (dtype, shape) in wanted.items():
        entry = tensors[name]
        size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        try:
            begin, end = entry["data_offsets"]
            ok = entry["dtype"] == _DTYPES[np.dtype(dtype).name] and entry["shape"] == list(shape)
            ok = ok and type(begin) is int and type(end) is int and begin >= 0 and end - begin == size
        except (KeyError, TypeError, ValueError):
            ok = False
        if not ok or start + end > len(data):
            raise FormatError(f"load: array {name!r} does not match its header or is truncated; get the file again")
        spans.append((begin, end))
        arrays[name] = np.frombuffer(data, dtype, size, start + begin).reshape(shape)
    spans.sort()
    if [b for b, _ in spans] + [len(data) - start] != [0] + [e for _, e in spans]:
        raise FormatError("load: the arrays do not fill the file exactly; it is damaged or hostile")
    return header, arrays


def pack_residues(backend: Backend, x: U32, moduli: Moduli) -> npt.NDArray[np.uint8]:
    """``[..., limb, n]`` -> bytes ``[..., m]``: limb after limb, each packed to the bit length of its prime."""
    wide = x.astype(np.uint64)
    parts = [backend.pack_bits(wide[..., l, :], q.bit_length()) for l, q in enumerate(moduli)]
    return np.concatenate(parts, axis=-1)


def unpack_residues(backend: Backend, data: npt.NDArray[np.uint8], moduli: Moduli, n: int) -> U32:
    """Inverse of :func:`pack_residues`; every residue must lie below its prime. Errors: :class:`FormatError`."""
    out = np.empty((*data.shape[:-1], len(moduli), n), np.uint32)
    at = 0
    for l, q in enumerate(moduli):
        size = (n * q.bit_length() + 7) // 8
        limb = backend.unpack_bits(np.ascontiguousarray(data[..., at : at + size]), q.bit_length(), n)
        if limb.size and int(limb.max()) >= q:
            raise FormatError(f"load: a residue is not below its prime {q}; the file is damaged or hostile")
        out[..., l, :] = limb
        at += size
    return out
