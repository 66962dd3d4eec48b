"""Denoise a slice on a server. What is sent depends on the slice only through its ciphertexts and its size."""

import contextlib
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hegpu.api import key_fingerprint
from hegpu.backend.protocol import Backend
from hegpu.ckks.wire import Body
from hegpu.ct.hounsfield import clip
from hegpu.errors import FormatError, HegpuError, KeyMismatchError, ParameterError
from hegpu.protocols.client_relu.client import denoise as denoise_rounds
from hegpu.protocols.client_relu.plan import Plan
from hegpu.protocols.linear import MasterKey, decrypt_result, encrypt_slice
from hegpu.protocols.messages import dump_slice, load_result, load_slice
from hegpu.ring.random import fresh_key
from hegpu.service.client_relu import ClientReluServer
from hegpu.service.client_state import ClientSession, ClientState
from hegpu.service.errors import is_disk_full
from hegpu.service.http import Connection, Refused
from hegpu.service.linear import LinearPlan

F64 = npt.NDArray[np.float64]
_SECRET, _SLICE, _ROUNDS = "master.secret", "slice.ct", "rounds"
_SESSION_IS_OF_NO_USE = (404, 409, 410)


@dataclass(frozen=True, slots=True)
class Task:
    model: str
    protocol: str = "linear"
    preset: str | None = None
    accept_model_disclosure: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """All that a protocol's client part needs. ``keys`` only for ``linear``; None: made for this slice."""

    backend: Backend
    connection: Connection
    state: ClientState
    session: ClientSession
    keys: MasterKey | None
    preset: str | None = None

    def exchange(self, round: int, group: int, message_id: str, body: Body, most: int) -> Body:
        path = f"/v1/sessions/{self.session.id}/rounds/{round}/groups/{group}/{message_id}"
        return self.connection.put(path, body, most)


Client = Callable[[Link, F64], F64]


def denoise(
    backend: Backend, connection: Connection, task: Task, hu: F64, state: Path, keys: MasterKey | None = None
) -> F64:
    """Denoised HU ``[H, W]``, not rounded. ``state``: a folder of the client's own; call again to go on after a crash.

    Call :func:`finish` when the result is safe. Errors: any :class:`~hegpu.errors.HegpuError`.
    """
    if task.protocol not in CLIENTS:
        raise ParameterError(f"client: there is no protocol {task.protocol!r:.40}; choose one of {', '.join(CLIENTS)}")
    hu = clip(hu)[0]
    with ClientState(state, _request(task, hu, keys)) as kept:
        link = Link(backend, connection, kept, _agree(connection, kept, task, hu.shape), keys, task.preset)
        try:
            return CLIENTS[task.protocol](link, hu)
        except Refused as refusal:
            if refusal.status not in _SESSION_IS_OF_NO_USE:
                raise
            kept.keep_session(None)
            raise HegpuError(f"{refusal}; start the same command again, it opens a new session") from refusal
        except OSError as cause:
            if not is_disk_full(cause):
                raise
            raise HegpuError(
                f"client: no room in {state} ({cause.strerror}); make some, then start the same command again, it goes "
                "on where it stopped"
            ) from cause


def finish(connection: Connection, task: Task, hu: F64, state: Path, keys: MasterKey | None = None) -> None:
    """Removes what both sides kept. A server that can not be reached forgets by itself when the session expires."""
    with ClientState(state, _request(task, clip(hu)[0], keys)) as kept:
        if kept.session is not None:
            with contextlib.suppress(HegpuError):
                connection.json("DELETE", f"/v1/sessions/{kept.session.id}", patience=5.0)
        kept.remove()


def _request(task: Task, hu: F64, keys: MasterKey | None) -> dict[str, str | None]:
    image = hashlib.blake2b(np.ascontiguousarray(hu).tobytes() + str(hu.shape).encode(), digest_size=16).hexdigest()
    own = None if keys is None else key_fingerprint(keys)
    return {"model": task.model, "protocol": task.protocol, "preset": task.preset, "image": image, "keys": own}


def _agree(connection: Connection, state: ClientState, task: Task, shape: tuple[int, ...]) -> ClientSession:
    if state.session is not None:
        try:
            connection.json("GET", f"/v1/sessions/{state.session.id}")
            return state.session
        except Refused as refusal:
            if refusal.status != 404:
                raise
    asked = {
        "model": task.model,
        "protocol": task.protocol,
        "height": shape[0],
        "width": shape[1],
        "accept_model_disclosure": task.accept_model_disclosure,
    }
    if task.preset is not None:
        asked["preset"] = task.preset
    answer = connection.json("POST", "/v1/sessions", asked, key=state.opening_key())
    session = ClientSession.from_json(answer, task.protocol)
    state.keep_session(session)
    return session


def _linear(link: Link, hu: F64) -> F64:
    """One slice, one request. The encrypted slice is stored before it is sent; a retry resends these bytes."""
    plan, nonce, backend = LinearPlan.from_json(link.session.plan), link.session.nonce, link.backend
    if (plan.tiling.height, plan.tiling.width) != hu.shape:
        raise FormatError("client: the server planned for another size of slice; this service is not to be used")
    keys = link.keys or MasterKey(plan.params, _own_secret(link.state))
    if keys.params.hash != plan.params.hash:
        raise KeyMismatchError(
            f"client: the keys are of preset {keys.params.name!r}, the server computes with {plan.params.name!r}; "
            f"make keys with 'hegpu keygen --preset {plan.params.name}'"
        )
    body = link.state.read(_SLICE)
    sent = load_slice(backend, body) if body is not None else None
    if body is None or sent is None or sent.nonce != nonce:
        sent = encrypt_slice(backend, hu, keys, plan.tiling.halo, nonce)
        body = dump_slice(backend, sent)
        link.state.write(_SLICE, body)
    if len(body) != plan.request:
        raise FormatError(
            f"client: the server expects {plan.request:,} bytes, the slice has {len(body):,}; its version differs"
        )
    message_id = hashlib.blake2b(body, digest_size=16).hexdigest()
    result = load_result(backend, link.exchange(0, 0, message_id, body, plan.answer))
    if (result.params.hash, result.tiling, result.slice_id) != (plan.params.hash, plan.tiling, sent.slice_id):
        raise FormatError("client: the server's answer is not one to this slice; this service is not to be used")
    return decrypt_result(backend, result, keys, nonce)


def _own_secret(state: ClientState) -> bytes:
    secret = state.read(_SECRET)
    if secret is None or len(secret) != 32:
        secret = fresh_key()
        state.write(_SECRET, secret)
    return secret


def _client_relu(link: Link, hu: F64) -> F64:
    plan = Plan.from_json(link.session.plan)
    if plan.shape != hu.shape or plan.preset != (link.preset or ClientReluServer.presets[0]):
        raise FormatError("client: the server planned for another slice or preset; this service is not to be used")

    def exchange(index: int, group: int, message_id: str, body: Body) -> Body:
        return link.exchange(index, group, message_id, body, plan.answer_bytes(index, group))

    result, report = denoise_rounds(
        link.backend, plan, hu, exchange, nonce=link.session.nonce, state=link.state.folder / _ROUNDS
    )
    if report.saturated:
        warnings.warn(
            f"client-relu: {report.saturated} values left the network's recorded range and were clipped; the result may "
            "differ from the network in the clear (metal, or an image unlike those it was made for?)",
            stacklevel=2,
        )
    return result


CLIENTS: dict[str, Client] = {"linear": _linear, "client-relu": _client_relu}
