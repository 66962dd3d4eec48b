"""The two messages of the ``linear`` protocol and their files: ``slice`` (client to server), ``result`` (back).

Neither holds a DICOM field or a file name. Layout: a safetensors file, see :mod:`hegpu.ckks.wire`; residues are packed
to the bit length of their prime. The uniform half of the ciphertexts is a 32-byte seed.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import U32, Backend
from hegpu.ckks.params import Parameters, parse_fraction
from hegpu.ckks.truncate import packed_bits, restore, truncate
from hegpu.ckks.wire import Body, dump, load, pack_residues, unpack_residues
from hegpu.errors import FormatError, HegpuError, ParameterError
from hegpu.tensor.tiles import Tiling

MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class EncryptedSlice:
    """One slice under a key of its own. ``c0`` ``[tiles, limb, n]`` coefficients; ``pk0`` ``[limb, n]`` evaluations
    of that key's public half, whose uniform half comes from ``slice_id`` and ``nonce``."""

    params: Parameters
    tiling: Tiling
    slice_id: bytes
    nonce: bytes
    seed: bytes
    fingerprint: bytes
    c0: U32
    pk0: U32


@dataclass(frozen=True, slots=True)
class EncryptedResult:
    """The denoised slice. ``c0`` ``[tiles, pixels]`` residues of the last modulus at the valid coefficients, their
    lowest ``params.c0_drop_down`` bits dropped (rounded); ``c1`` ``[tiles, n]``. ``floor_hu``: the client's ReLU."""

    params: Parameters
    tiling: Tiling
    slice_id: bytes
    fingerprint: bytes
    scale: Fraction
    floor_hu: float | None
    c0: U32
    c1: U32

    @property
    def modulus(self) -> int:
        return self.params.q_primes[0]


def _tiling_header(t: Tiling) -> dict[str, int]:
    return {k: getattr(t, k) for k in ("height", "width", "halo", "tile_w", "tile_h")}


def _bytes(packed_values: int, bits: int) -> int:
    return (packed_values * bits + 7) // 8


def _common(header: dict[str, Any]) -> tuple[Parameters, Tiling, bytes, bytes]:
    """Everything that both messages declare, checked; any damage is a :class:`FormatError`."""
    try:
        params = Parameters.from_json(header["params"])
        numbers = header["tiling"]
        if not all(type(numbers[k]) is int for k in ("height", "width", "halo", "tile_w", "tile_h")):
            raise FormatError("load: the tiling is not made of integers; the file is damaged")
        tiling = Tiling(params.n, **{k: numbers[k] for k in ("height", "width", "halo", "tile_w", "tile_h")})
        slice_id, fingerprint = bytes.fromhex(header["slice_id"]), bytes.fromhex(header["fingerprint"])
    except FormatError:
        raise
    except (HegpuError, KeyError, TypeError, ValueError) as cause:
        raise FormatError(f"load: the header is damaged or hostile ({cause}); get the file again") from cause
    if len(slice_id) != 16 or len(fingerprint) != 16:
        raise FormatError("load: slice id or fingerprint is not 16 bytes; the file is damaged")
    return params, tiling, slice_id, fingerprint


def _rows_bytes(params: Parameters) -> int:
    return sum(_bytes(params.n, q.bit_length()) for q in params.q_primes)


def _c0_bytes(params: Parameters) -> int:
    """Bytes of a tile's c0: whole residues, or composed modulo q without the bits that the preset drops."""
    if not params.c0_drop_up:
        return _rows_bytes(params)
    try:
        return _bytes(params.n, packed_bits(params.q_primes, params.c0_drop_up))
    except ParameterError as cause:
        raise FormatError(f"load: {cause}; get the file again") from cause


def _pack_c0(backend: Backend, c0: U32, params: Parameters) -> npt.NDArray[np.uint8]:
    if params.c0_drop_up:
        return truncate(backend, c0, params.q_primes, params.c0_drop_up)
    return pack_residues(backend, c0, params.q_primes)


def dump_slice(backend: Backend, s: EncryptedSlice) -> bytes:
    header = {
        "params": s.params.to_json(),
        "tiling": _tiling_header(s.tiling),
        "slice_id": s.slice_id.hex(),
        "nonce": s.nonce.hex(),
        "seed": s.seed.hex(),
        "fingerprint": s.fingerprint.hex(),
        "domain": "coefficients",
    }
    arrays = {
        "c0": _pack_c0(backend, s.c0, s.params),
        "pk0": pack_residues(backend, s.pk0, s.params.q_primes),
    }
    return bytes(dump("slice", header, arrays))


def load_slice(backend: Backend, data: Body) -> EncryptedSlice:
    def expect(header: dict[str, Any]) -> dict[str, tuple[Any, tuple[int, ...]]]:
        params, tiling, _, _ = _common(header)
        return {"c0": (np.uint8, (tiling.tiles, _c0_bytes(params))), "pk0": (np.uint8, (_rows_bytes(params),))}

    header, arrays = load(data, "slice", expect, MAX_BYTES)
    params, tiling, slice_id, fingerprint = _common(header)
    try:
        nonce, seed = bytes.fromhex(header["nonce"]), bytes.fromhex(header["seed"])
    except (KeyError, TypeError, ValueError) as cause:
        raise FormatError(f"load: nonce or seed is damaged ({cause}); get the file again") from cause
    if len(seed) != 32 or len(nonce) > 64:
        raise FormatError("load: the seed is not 32 bytes or the nonce is longer than 64; the file is damaged")
    if params.c0_drop_up:
        c0 = restore(backend, arrays["c0"], params.n, params.q_primes, params.c0_drop_up)
    else:
        c0 = unpack_residues(backend, arrays["c0"], params.q_primes, params.n)
    pk0 = unpack_residues(backend, arrays["pk0"], params.q_primes, params.n)
    return EncryptedSlice(params, tiling, slice_id, nonce, seed, fingerprint, c0, pk0)


def _c0_bits(params: Parameters) -> int:
    q, drop = params.q_primes[0], params.c0_drop_down
    return ((q - 1 + (1 << drop >> 1)) >> drop).bit_length()


def dump_result(backend: Backend, r: EncryptedResult) -> bytes:
    header = {
        "params": r.params.to_json(),
        "tiling": _tiling_header(r.tiling),
        "slice_id": r.slice_id.hex(),
        "fingerprint": r.fingerprint.hex(),
        "scale": f"{r.scale.numerator}/{r.scale.denominator}",
        "floor_hu": r.floor_hu,
        "domain": "coefficients",
    }
    c0 = backend.pack_bits(r.c0.astype(np.uint64), _c0_bits(r.params))
    c1 = backend.pack_bits(r.c1.astype(np.uint64), r.modulus.bit_length())
    return bytes(dump("result", header, {"c0": c0, "c1": c1}))


def load_result(backend: Backend, data: Body) -> EncryptedResult:
    def expect(header: dict[str, Any]) -> dict[str, tuple[Any, tuple[int, ...]]]:
        params, tiling, _, _ = _common(header)
        pixels, bits = tiling.step_w * tiling.step_h, params.q_primes[0].bit_length()
        return {
            "c0": (np.uint8, (tiling.tiles, _bytes(pixels, _c0_bits(params)))),
            "c1": (np.uint8, (tiling.tiles, _bytes(params.n, bits))),
        }

    header, arrays = load(data, "result", expect, MAX_BYTES)
    params, tiling, slice_id, fingerprint = _common(header)
    floor = header.get("floor_hu")
    if not (floor is None or type(floor) in (int, float)):
        raise FormatError("load: the floor is damaged; get the file again")
    scale = parse_fraction(header.get("scale"))
    q = params.q_primes[0]
    if not 1 <= scale < q or (floor is not None and not -1e6 < floor < 1e6):
        raise FormatError("load: scale or floor is out of range; the file is damaged or hostile")
    pixels = tiling.step_w * tiling.step_h
    c0 = backend.unpack_bits(arrays["c0"], _c0_bits(params), pixels)
    c1 = backend.unpack_bits(arrays["c1"], q.bit_length(), params.n)
    if c1.max(initial=0) >= q or c0.max(initial=0) > (q - 1 + (1 << params.c0_drop_down >> 1)) >> params.c0_drop_down:
        raise FormatError(f"load: a residue is not below its modulus {q}; the file is damaged or hostile")
    floor_hu = None if floor is None else float(floor)
    return EncryptedResult(
        params, tiling, slice_id, fingerprint, scale, floor_hu, c0.astype(np.uint32), c1.astype(np.uint32)
    )
