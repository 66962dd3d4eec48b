"""Evaluation keys as files: one a key, the uniform half as its seed; a folder of them is loaded as keys are used."""

from pathlib import Path
from typing import Any

import numpy as np

from hegpu.backend.protocol import Backend, GadgetKey
from hegpu.ckks.evaluation_keys import RELINEARISE, EvaluationKeys
from hegpu.ckks.params import Parameters
from hegpu.ckks.wire import Body, dump, load, pack_residues, unpack_residues
from hegpu.errors import FormatError, KeyMismatchError
from hegpu.files import write_atomic
from hegpu.ring.random import UNIFORM

KIND = "evaluation key"
MAX_BYTES = 4 << 30


def _file(element: int) -> str:
    return "relinearise.key" if element == RELINEARISE else f"galois-{element}.key"


def dump_key(backend: Backend, keys: EvaluationKeys, element: int) -> Body:
    """One key of the set, half the size it has in memory."""
    key = keys.key("dump_key", element, f"Galois element {element}")
    header = {
        "params": keys.params.to_json(), "element": element, "fingerprint": keys.fingerprint.hex(),
        "seed": key.seed.hex(),
    }  # fmt: skip
    return dump(KIND, header, {"first": pack_residues(backend, key.first, key.moduli)})


def load_key(
    backend: Backend, data: Body, *, compact: bool = False, max_bytes: int = MAX_BYTES
) -> tuple[Parameters, bytes, int, GadgetKey]:
    """(parameters, fingerprint, Galois element, key). ``compact``: the uniform half stays a seed.

    Errors: :class:`FormatError` for anything but what :func:`dump_key` writes.
    """

    def expect(header: dict[str, Any]) -> dict[str, tuple[Any, tuple[int, ...]]]:
        params = Parameters.from_json(header.get("params"))
        if not params.levels or not params.p_primes:
            raise FormatError("load: these parameters have no evaluation keys; the file is damaged or hostile")
        sizes = [(params.n * q.bit_length() + 7) // 8 for q in params.q_primes + params.p_primes]
        return {"first": (np.uint8, (len(params.digits), sum(sizes)))}

    header, arrays = load(data, KIND, expect, max_bytes)
    params = Parameters.from_json(header["params"])
    try:
        seed, fingerprint, element = (
            bytes.fromhex(header["seed"]),
            bytes.fromhex(header["fingerprint"]),
            header["element"],
        )
    except (KeyError, TypeError, ValueError) as cause:
        raise FormatError(f"load: the header of the key is damaged ({cause!r:.60}); get the file again") from cause
    if len(seed) != 32 or len(fingerprint) != 16 or type(element) is not int or not 0 <= element < 2 * params.n:
        raise FormatError("load: seed, fingerprint or Galois element of the key are damaged; get the file again")
    if element % 2 == 0 and element != RELINEARISE:
        raise FormatError(f"load: Galois element {element} is even; the file is damaged")
    primes = params.q_primes + params.p_primes
    first = unpack_residues(backend, arrays["first"], primes, params.n)
    second = None
    if not compact:
        objects = np.arange(len(params.digits), dtype=np.uint32)
        second = backend.sample_uniform(seed, UNIFORM, objects, params.n, primes)
    return params, fingerprint, element, GadgetKey(primes, first, second, seed, UNIFORM)


def save_keys(backend: Backend, keys: EvaluationKeys, folder: Path) -> None:
    """Each key of the set into ``folder``, files renamed into place."""
    for element in keys.elements:
        write_atomic(folder / _file(element), [dump_key(backend, keys, element)])


def open_keys(
    backend: Backend, folder: Path, params: Parameters, fingerprint: bytes, *, compact: bool = False
) -> EvaluationKeys:
    """The set in ``folder``; a key is read when it is first used.

    Errors: :class:`FormatError` for a folder without keys, and at first use for a damaged file;
    :class:`KeyMismatchError` at first use for a key of other parameters or another public key.
    """
    elements = [RELINEARISE] * (folder / _file(RELINEARISE)).is_file()
    for path in folder.glob("galois-*.key"):
        number = path.name[len("galois-") : -len(".key")]
        if number.isdigit() and path.name == _file(int(number)):
            elements.append(int(number))
    if not elements:
        raise FormatError(f"open_keys: {folder} holds no evaluation keys; write them with save_keys")

    def fetch(element: int) -> GadgetKey:
        path = folder / _file(element)
        found, owner, inside, key = load_key(backend, path.read_bytes(), compact=compact)
        if found != params or owner != fingerprint or inside != element:
            raise KeyMismatchError(
                f"open_keys: {path.name} is for {found.name!r}, key {owner.hex()}, element {inside}; needed are "
                f"{params.name!r}, key {fingerprint.hex()}, element {element}"
            )
        return key

    return EvaluationKeys(params, fingerprint, tuple(sorted(elements)), {}, fetch)
