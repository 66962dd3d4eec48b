"""``hegpu client denoise``: from a DICOM file to a derived one, through a server."""

from pathlib import Path

from hegpu import api
from hegpu.backend.protocol import Backend
from hegpu.ct.dicom import read_slice, write_derived
from hegpu.errors import FormatError
from hegpu.service.client import Task, denoise, finish
from hegpu.service.http import Connection, Traffic

_DESCRIPTION = "hegpu: denoised while encrypted (research software, not a medical device)"


def denoise_file(
    backend: Backend,
    server: str,
    task: Task,
    image: Path,
    out: Path,
    *,
    token_file: Path | None = None,
    keys: Path | None = None,
    state: Path | None = None,
    ca: Path | None = None,
) -> Traffic:
    """What was sent and received. The same call after a crash goes on where the last one stopped."""
    token = None if token_file is None else read_token(token_file)
    master = None if keys is None else api.load_keys(keys)
    folder = state or out.parent / f".{out.name}.hegpu"
    hu = read_slice(image).hu
    connection = Connection(server, token, ca)
    try:
        result = denoise(backend, connection, task, hu, folder, master)
        write_derived(result, image, out, _DESCRIPTION)
        finish(connection, task, hu, folder, master)
    finally:
        connection.close()
    return connection.traffic


def read_token(path: Path) -> str:
    """Errors: :class:`FormatError`."""
    try:
        token = path.read_text("ascii").strip()
    except (OSError, ValueError) as cause:
        raise FormatError(f"client: cannot read a token from {path} ({cause}); check --token-file") from cause
    if not token or len(token) > 200 or not token.isprintable() or " " in token:
        raise FormatError(f"client: {path} does not hold one token and nothing else; check --token-file")
    return token
