"""One request of a round: ciphertexts in, ciphertexts out, the same answer however often it is sent."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.concurrency import run_in_threadpool

from hegpu.ckks.wire import Body
from hegpu.service.accounting import account_of
from hegpu.service.bodies import Answer, check_length, receive
from hegpu.service.errors import ServiceError
from hegpu.service.jobs import RoundJob
from hegpu.service.limits import MESSAGES_PER_GROUP
from hegpu.service.protocols import Plan
from hegpu.service.routes_sessions import SessionId
from hegpu.service.service import Service
from hegpu.service.store import Message, Session
from hegpu.service.tokens import Caller

Number = Annotated[int, Path(ge=0, lt=1 << 16)]
MessageId = Annotated[str, Path(pattern="^[0-9A-Za-z_-]{8,64}$", examples=["0" * 32])]
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def routes(service: Service, authenticate: Callable[..., Awaitable[Caller]]) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["rounds"])
    Authenticated = Annotated[Caller, Depends(authenticate)]
    running: dict[tuple[str, str], asyncio.Task[Body]] = {}

    @router.put(
        "/sessions/{session}/rounds/{round}/groups/{group}/{message_id}",
        status_code=200,  # FastAPI would read it from the constructor of Answer, which has none
        response_class=Answer,
        responses={200: {"content": BINARY}},
        openapi_extra={"requestBody": {"required": True, "content": BINARY}},
    )
    async def answer(
        session: SessionId, round: Number, group: Number, message_id: MessageId, request: Request, caller: Authenticated
    ) -> Answer:
        """Compute one group of a round. A message id belongs to its bytes: resend them, or take a new id."""
        found = service.store.get(session, caller.name)
        plan = service.plan_of(found)
        if round >= len(plan.rounds) or group >= plan.rounds[round].groups:
            raise ServiceError(404, "answer", "the plan has no such round or group", "follow the plan of the session")
        size, limits, stack = plan.request_bytes(round, group), service.limits, account_of(request).stack
        check_length(request, size, exact=True)
        service.jobs.check()
        stack.enter_context(service.in_flight(caller).reserve(1))
        stack.enter_context(service.memory.reserve(size + plan.answer_bytes(round, group)))
        with service.metrics.timed("receive"):
            body, digest = await receive(request, size, True, limits.body_seconds)
        message = Message(found.id, message_id, round, group, digest)
        keeps = service.catalogue.protocols[found.protocol].keeps_answers
        if service.store.claim(message, keeps, _most(plan)) and keeps:
            return Answer(await run_in_threadpool(service.store.read_answer, message), limits.body_seconds)
        key = found.id, message_id
        if key not in running:
            running[key] = task = asyncio.create_task(_compute(service, found, message, body, keeps))
            task.add_done_callback(functools.partial(_forget, running, key))
        # A client that goes away does not stop the work: it will ask again.
        return Answer(await asyncio.shield(running[key]), limits.body_seconds)

    return router


async def _compute(service: Service, session: Session, message: Message, body: Body, keeps: bool) -> Body:
    job = RoundJob(
        session.protocol, session.digest, session.plan, message.round, message.group, session.nonce, body
    )  # fmt: skip
    data = await asyncio.wrap_future(service.jobs.submit(job))
    with service.metrics.timed("store"):
        if keeps:
            await run_in_threadpool(service.store.write_answer, message, data)
        service.store.mark_answered(message)
    return data


def _forget(running: dict[tuple[str, str], asyncio.Task[Body]], key: tuple[str, str], task: asyncio.Task[Body]) -> None:
    del running[key]
    if not task.cancelled():
        task.exception()  # its waiters have it; asyncio need not print it


def _most(plan: Plan) -> int:
    return MESSAGES_PER_GROUP * sum(r.groups for r in plan.rounds)
