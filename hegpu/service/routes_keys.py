"""Key blobs by fingerprint."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Annotated

import anyio
from fastapi import APIRouter, Depends, Path, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import FileResponse

from hegpu.service.accounting import account_of
from hegpu.service.bodies import allowed, check_length, declared_length
from hegpu.service.errors import ServiceError
from hegpu.service.routes_rounds import BINARY
from hegpu.service.service import Service
from hegpu.service.tokens import Caller

Fingerprint = Annotated[str, Path(pattern="^[0-9a-f]{32}$", examples=["0" * 32])]


def routes(service: Service, authenticate: Callable[..., Awaitable[Caller]]) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["keys"])
    Authenticated = Annotated[Caller, Depends(authenticate)]

    @router.put(
        "/keys/{fingerprint}", status_code=204, openapi_extra={"requestBody": {"required": True, "content": BINARY}}
    )
    async def put(fingerprint: Fingerprint, request: Request, caller: Authenticated) -> None:
        """Store a public key blob, named by its BLAKE2b digest of 16 bytes."""
        size = declared_length(request)
        if size is None:
            raise ServiceError(411, "key", "the body declares no length", "send a Content-Length")
        check_length(request, service.limits.key_bytes, exact=False)
        account_of(request).stack.enter_context(service.in_flight(caller).reserve(1))
        digest = hashlib.blake2b(digest_size=16)
        with service.keys.arriving(caller.name, size, service.limits.key_quota) as file:
            try:
                with anyio.fail_after(allowed(service.limits.body_seconds, size)):
                    async for piece in request.stream():
                        file.write(piece)
                        digest.update(piece)
            except TimeoutError:
                raise ServiceError(408, "key", "the body took too long", "send it over a faster connection") from None
            if digest.hexdigest() != fingerprint:
                raise ServiceError(400, "key", "the fingerprint is not the digest of the body", "check what you send")
            await run_in_threadpool(service.keys.keep, caller.name, fingerprint, file, size)

    @router.head("/keys/{fingerprint}", response_class=FileResponse)
    @router.get("/keys/{fingerprint}", response_class=FileResponse, responses={200: {"content": BINARY}})
    async def get(fingerprint: Fingerprint, caller: Authenticated) -> FileResponse:
        """A stored blob."""
        return FileResponse(service.keys.path(caller.name, fingerprint), media_type="application/octet-stream")

    @router.delete("/keys/{fingerprint}", status_code=204)
    async def delete(fingerprint: Fingerprint, caller: Authenticated) -> None:
        """Make room under the quota."""
        service.keys.delete(caller.name, fingerprint)

    return router
