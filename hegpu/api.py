"""The public Python API; the command line only calls it. Each function takes arrays or files."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hegpu.backend.protocol import Backend
from hegpu.backend.select import select
from hegpu.ckks.evaluation_keys import make_keys
from hegpu.ckks.key_files import open_keys, save_keys
from hegpu.ckks.params import Parameters, preset
from hegpu.ckks.session import Client, key_pair
from hegpu.ct.dicom import read_slice, write_derived
from hegpu.ct.hounsfield import clip
from hegpu.errors import FormatError, ParameterError
from hegpu.files import write_atomic
from hegpu.nets.compose import affine_filter
from hegpu.nets.description import Network
from hegpu.nets.file import load_network
from hegpu.protocols.linear import DEFAULT_HALO, MasterKey, decrypt_result, denoise_slice, encrypt_slice
from hegpu.protocols.messages import (
    EncryptedResult,
    EncryptedSlice,
    dump_result,
    dump_slice,
    load_result,
    load_slice,
)
from hegpu.ring.random import fresh_key

F64 = npt.NDArray[np.float64]
PathLike = str | os.PathLike[str]
SECRET_FILE, PARAMETERS_FILE = "master.secret", "parameters.json"
EVALUATION_FOLDER = "evaluation"


def keygen(preset_name: str = "linear", out: PathLike | None = None) -> MasterKey:
    """A new master secret for a preset; with ``out`` also written to that new folder (secret 0600, folder 0700).

    Errors: :class:`ParameterError` if ``out`` already holds keys (they are never overwritten).
    """
    keys = MasterKey(preset(preset_name), fresh_key())
    if out is not None:
        folder = Path(out)
        if (folder / SECRET_FILE).exists():
            raise ParameterError(f"keygen: {folder} already holds keys; choose another folder or remove it yourself")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(folder / SECRET_FILE, b"hegpu-master-secret 1\n" + keys.secret.hex().encode() + b"\n", 0o600)
        public = {
            "format": "hegpu-keys",
            "version": 1,
            "fingerprint": key_fingerprint(keys),
            "parameters": keys.params.to_json(),
        }
        write_atomic(folder / PARAMETERS_FILE, json.dumps(public, indent=2).encode() + b"\n")
    return keys


def key_fingerprint(keys: MasterKey) -> str:
    """32 hex digits that name a master secret without telling anything about it."""
    data = keys.params.hash.encode()
    return hashlib.blake2b(data, digest_size=16, key=keys.secret, person=b"master name").hexdigest()


def load_keys(folder: PathLike) -> MasterKey:
    """Read what :func:`keygen` wrote. Errors: :class:`FormatError`."""
    folder = Path(folder)
    try:
        secret_text = (folder / SECRET_FILE).read_bytes()
        public = json.loads((folder / PARAMETERS_FILE).read_bytes())
    except OSError as cause:
        raise FormatError(
            f"load_keys: cannot read {folder} ({cause.strerror}); make keys with 'hegpu keygen'"
        ) from cause
    except ValueError as cause:
        raise FormatError(f"load_keys: {folder / PARAMETERS_FILE} is damaged ({cause}); restore it") from cause
    lines = secret_text.split(b"\n")
    if len(lines) != 3 or lines[0] != b"hegpu-master-secret 1" or len(lines[1]) != 64:
        raise FormatError(f"load_keys: {folder / SECRET_FILE} is no hegpu secret of version 1; restore it")
    try:
        secret = bytes.fromhex(lines[1].decode("ascii"))
    except ValueError:
        raise FormatError(f"load_keys: {folder / SECRET_FILE} is damaged; restore it") from None
    if not isinstance(public, dict) or public.get("format") != "hegpu-keys" or public.get("version") != 1:
        raise FormatError(f"load_keys: {folder / PARAMETERS_FILE} is not of format hegpu-keys 1; restore it")
    keys = MasterKey(Parameters.from_json(public.get("parameters")), secret)
    if key_fingerprint(keys) != public.get("fingerprint"):
        raise FormatError(f"load_keys: secret and parameters in {folder} do not belong together; restore both")
    return keys


def evaluation_keys(keys: PathLike, rotations: Iterable[int] = (), backend: str | Backend | None = None) -> Path:
    """Keys for products, conjugation and the given rotations into ``keys / "evaluation"``: what a server needs.

    For a key folder of a ``ckks-`` preset. Errors: :class:`ParameterError` for other presets.
    """
    chosen = _backend(backend)
    master = load_keys(keys)
    secret, _ = key_pair(chosen, master.params, master.secret)
    folder = Path(keys) / EVALUATION_FOLDER
    save_keys(chosen, make_keys(chosen, secret, rotations, conjugation=True), folder)
    return folder


def open_client(keys: PathLike, backend: str | Backend | None = None) -> Client:
    """The owner of a key folder of a ``ckks-`` preset: encrypts, decrypts; evaluation keys are read as they are used."""
    chosen = _backend(backend)
    master = load_keys(keys)
    secret, public = key_pair(chosen, master.params, master.secret)
    folder = Path(keys) / EVALUATION_FOLDER
    return Client(chosen, secret, public, open_keys(chosen, folder, master.params, public.fingerprint))


def load_model(source: PathLike | bytes | Network) -> Network:
    """A network by file, by the name of a shipped one (``"linear"``), or from bytes."""
    return source if isinstance(source, Network) else load_network(source)


def encrypt(
    image: F64 | PathLike,
    keys: MasterKey | PathLike,
    out: PathLike | None = None,
    *,
    halo: int = DEFAULT_HALO,
    backend: str | Backend | None = None,
) -> EncryptedSlice:
    """Encrypt a slice: HU ``[H, W]`` (sides up to 1024) or a DICOM file. HU are clipped to [-1024, 3071].

    ``halo``: filters of up to ``2 halo + 1`` pixels can be applied. With ``out`` also written as a ``.ct`` file.
    """
    hu = read_slice(image).hu if isinstance(image, str | os.PathLike) else image
    b = _backend(backend)
    s = encrypt_slice(b, clip(hu)[0], _keys(keys), halo)
    if out is not None:
        write_atomic(out, dump_slice(b, s))
    return s


def denoise(
    encrypted: EncryptedSlice | PathLike | bytes,
    model: Network | PathLike,
    out: PathLike | None = None,
    *,
    backend: str | Backend | None = None,
) -> EncryptedResult:
    """The server's part: apply a linear network to an encrypted slice. No secret key is needed or read."""
    b = _backend(backend)
    s = encrypted if isinstance(encrypted, EncryptedSlice) else load_slice(b, _read(encrypted))
    network = load_model(model)
    affine = affine_filter(network)
    floor = network.hu_offset if affine.final_relu else None
    r, _ = denoise_slice(b, s, affine.kernel, affine.bias_hu, floor)
    if out is not None:
        write_atomic(out, dump_result(b, r))
    return r


def decrypt(
    encrypted: EncryptedResult | PathLike | bytes,
    keys: MasterKey | PathLike,
    out: PathLike | None = None,
    *,
    like: PathLike | None = None,
    backend: str | Backend | None = None,
) -> F64:
    """Denoised HU ``[H, W]``, float64, not rounded. ``like`` and ``out``: a derived DICOM after the slice ``like``."""
    if (like is None) != (out is None):
        raise ParameterError("decrypt: a DICOM needs both 'out' and 'like', the slice it is derived from")
    b = _backend(backend)
    r = encrypted if isinstance(encrypted, EncryptedResult) else load_result(b, _read(encrypted))
    hu = decrypt_result(b, r, _keys(keys))
    if like is not None and out is not None:
        write_derived(hu, like, out, "hegpu: denoised while encrypted (research software, not a medical device)")
    return hu


def _backend(backend: str | Backend | None) -> Backend:
    return select(backend) if backend is None or isinstance(backend, str) else backend


def _keys(keys: MasterKey | PathLike) -> MasterKey:
    return keys if isinstance(keys, MasterKey) else load_keys(keys)


def _read(source: PathLike | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as cause:
        raise FormatError(f"load: cannot read {os.fspath(source)!r} ({cause.strerror}); check the path") from cause
