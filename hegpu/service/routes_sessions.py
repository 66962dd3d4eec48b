"""Models and sessions. A session is one slice: parameters agreed once, a nonce of the server."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hegpu.service.bodies import receive
from hegpu.service.errors import ServiceError
from hegpu.service.jobs import PlanJob
from hegpu.service.linear import NONCE_BYTES
from hegpu.service.protocols import Plan, choose_preset
from hegpu.service.service import Service
from hegpu.service.store import Opening, Session
from hegpu.service.tokens import Caller
from hegpu.tensor.tiles import MAX_SIDE

_MOST_JSON = 4096
SessionId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", examples=["0" * 32])]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", pattern="^[0-9A-Za-z_-]{8,64}$", description="the same key and body: the same session"
    ),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _whole(value: object) -> object:
    """In JSON 48.0 is an integer, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Side = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=MAX_SIDE)]


class SessionRequest(_Strict):
    model: str = Field(min_length=1, max_length=64)
    protocol: Literal["linear", "client-relu"]
    preset: str | None = Field(None, min_length=1, max_length=32)
    height: Side
    width: Side
    accept_model_disclosure: bool = False


class SessionOpened(_Strict):
    session: str
    nonce: str
    protocol: str
    plan: dict[str, Any]
    expires_at: str
    disclosure: str


class RoundStatus(_Strict):
    groups: int
    answered: list[int]


class SessionStatus(_Strict):
    session: str
    model: str
    protocol: str
    expires_at: str
    rounds: list[RoundStatus]


class ModelInfo(_Strict):
    name: str
    protocols: list[str]
    largest_side: int


def routes(service: Service, authenticate: Callable[..., Awaitable[Caller]]) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["sessions"])
    Authenticated = Annotated[Caller, Depends(authenticate)]

    @router.get("/models")
    async def models(caller: Authenticated) -> list[ModelInfo]:
        """The networks and the protocols in which this token may use them."""
        catalogue = service.catalogue
        return [
            ModelInfo(name=m.name, protocols=catalogue.allowed(m, caller), largest_side=MAX_SIDE)
            for m in catalogue.by_name.values()
        ]

    schema = {"application/json": {"schema": SessionRequest.model_json_schema()}}

    @router.post("/sessions", status_code=201, openapi_extra={"requestBody": {"required": True, "content": schema}})
    async def open_session(request: Request, caller: Authenticated, key: Key = None) -> SessionOpened:
        """Agree on a plan for one slice. With an Idempotency-Key the request can be repeated."""
        body, digest = await receive(request, _MOST_JSON, False, service.limits.body_seconds)
        asked = _parse(bytes(body))
        job = _plan_job(service, caller, asked)
        opening = Opening(key, digest) if key else None
        session = service.store.opened(caller.name, opening) if opening else None
        if session is None:
            text = service.store.plan(job.key) or bytes(await asyncio.wrap_future(service.jobs.submit(job))).decode()
            _check_fits(service.plan_from(asked.protocol, text), service.limits.body_memory)
            session = Session(
                secrets.token_hex(16), caller.name, asked.model, job.model, asked.protocol, asked.height, asked.width,
                secrets.token_bytes(NONCE_BYTES), text, time.time() + 3600 * service.limits.session_hours,
            )  # fmt: skip
            session = service.store.add(session, opening, service.limits.sessions)
        return SessionOpened(
            session=session.id,
            nonce=session.nonce.hex(),
            protocol=session.protocol,
            plan=json.loads(session.plan),
            expires_at=_when(session),
            disclosure=service.catalogue.protocols[session.protocol].disclosure,
        )

    @router.get("/sessions/{session}")
    async def status(session: SessionId, caller: Authenticated) -> SessionStatus:
        """Which groups of which rounds were answered."""
        found = service.store.get(session, caller.name)
        answered = service.store.answered(found.id)
        rounds = [
            RoundStatus(groups=r.groups, answered=[group for round, group in answered if round == i])
            for i, r in enumerate(service.plan_of(found).rounds)
        ]
        return SessionStatus(
            session=found.id, model=found.model, protocol=found.protocol, expires_at=_when(found), rounds=rounds
        )

    @router.delete("/sessions/{session}", status_code=204)
    async def delete(session: SessionId, caller: Authenticated) -> None:
        """Forget the session and every answer kept for it."""
        service.store.delete(service.store.get(session, caller.name).id)

    return router


def _parse(body: bytes) -> SessionRequest:
    try:
        return SessionRequest.model_validate_json(body)
    except ValidationError as error:
        # Not what was sent, which the error would repeat.
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors())
        raise ServiceError(422, "open session", faults[:500], "send what the page /docs describes") from None


def _plan_job(service: Service, caller: Caller, asked: SessionRequest) -> PlanJob:
    """Errors: 404, 422, 403 and 400 for a model, a protocol or a disclosure that this caller can not have."""
    catalogue = service.catalogue
    model = catalogue.by_name.get(asked.model)
    if model is None:
        raise ServiceError(404, "open session", "there is no such model", "choose one of GET /v1/models")
    if asked.protocol not in model.protocols:
        raise ServiceError(
            422, "open session", f"the model cannot be run by {asked.protocol}",
            f"choose one of {', '.join(model.protocols) or 'the other models'}",
        )  # fmt: skip
    protocol = catalogue.protocols[asked.protocol]
    if protocol.discloses_model and not caller.may_hold_the_model:
        raise ServiceError(
            403, "open session", f"{protocol.name} lets a client learn the whole network, which this token may not hold",
            "use linear, or ask the operator for a token made with --may-hold-the-model",
        )  # fmt: skip
    if protocol.discloses_model and not asked.accept_model_disclosure:
        raise ServiceError(400, "open session", protocol.disclosure, "agree with accept_model_disclosure = true")
    return PlanJob(asked.protocol, model.digest, choose_preset(protocol, asked.preset), (asked.height, asked.width))


def _check_fits(plan: Plan, memory: int) -> None:
    largest = max(
        plan.request_bytes(r, g) + plan.answer_bytes(r, g) for r, x in enumerate(plan.rounds) for g in range(x.groups)
    )
    if largest > memory:
        raise ServiceError(
            413, "open session", f"a request and its answer take {largest:,} bytes, the server has {memory:,}",
            "ask the operator for more --body-memory-mib, or send a smaller slice",
        )  # fmt: skip


def _when(session: Session) -> str:
    return datetime.fromtimestamp(session.expires, timezone.utc).isoformat(timespec="seconds")
