"""Ciphertexts as bytes: each residue in as many bits as its prime has."""

import math
from typing import Any

import numpy as np

from hegpu.backend.protocol import Backend
from hegpu.ckks.ciphertext import Ciphertext
from hegpu.ckks.params import Parameters, parse_fraction
from hegpu.ckks.wire import Body, dump, load, pack_residues, unpack_residues
from hegpu.errors import FormatError

KIND = "ciphertext"


def dump_ciphertext(backend: Backend, x: Ciphertext) -> Body:
    header = {
        "params": x.params.to_json(), "shape": list(x.data.shape[:-2]), "level": x.level,
        "scale": f"{x.scale.numerator}/{x.scale.denominator}", "fingerprint": x.fingerprint.hex(),
        "noise": x.noise, "bound": x.bound, "evaluations": x.evaluations,
    }  # fmt: skip
    return dump(KIND, header, {"data": pack_residues(backend, x.data, x.moduli)})


def load_ciphertext(backend: Backend, data: Body, params: Parameters, max_bytes: int = 1 << 30) -> Ciphertext:
    """Errors: :class:`FormatError` for anything but what :func:`dump_ciphertext` writes for ``params``."""

    def expect(header: dict[str, Any]) -> dict[str, tuple[Any, tuple[int, ...]]]:
        if Parameters.from_json(header.get("params")) != params:
            raise FormatError(f"load: the ciphertext has other parameters than {params.name!r}; ask for the right one")
        shape, level = header.get("shape"), header.get("level")
        if type(shape) is not list or not 1 <= len(shape) <= 8 or any(type(v) is not int or v < 0 for v in shape):
            raise FormatError("load: the shape of the ciphertext is damaged; get the file again")
        if type(level) is not int or not 0 <= level <= params.depth or shape[-1] not in (2, 3):
            raise FormatError(f"load: level or degree do not exist in {params.name!r}; the file is damaged")
        size = sum((params.n * q.bit_length() + 7) // 8 for q in params.levels[level])
        return {"data": (np.uint8, (*shape, size))}

    header, arrays = load(data, KIND, expect, max_bytes)
    try:
        scale, fingerprint = parse_fraction(header["scale"]), bytes.fromhex(header["fingerprint"])
        noise, bound, evaluations = header["noise"], header["bound"], header["evaluations"]
    except (KeyError, TypeError, ValueError) as cause:
        raise FormatError(
            f"load: the header of the ciphertext is damaged ({cause!r:.60}); get the file again"
        ) from cause
    if type(noise) is not float or type(bound) is not float or not (noise >= 0 and 0 < bound < math.inf):
        raise FormatError("load: noise or bound are no sensible numbers; the file is damaged or hostile")
    level = header["level"]
    if type(evaluations) is not bool or len(fingerprint) != 16 or not 1 <= scale < math.prod(params.levels[level]):
        raise FormatError("load: domain, fingerprint or scale are damaged; get the file again")
    residues = unpack_residues(backend, arrays["data"], params.levels[level], params.n)
    return Ciphertext(residues, params, level, scale, fingerprint, noise, bound, evaluations)
