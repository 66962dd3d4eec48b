"""Bodies: received into one buffer of a size known beforehand, sent in pieces, both within a time and a memory."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hegpu.backend import pool
from hegpu.ckks.wire import Body
from hegpu.service.errors import ServiceError

log = logging.getLogger("hegpu.service")
_PIECE = 1 << 18
_SLOWEST = 1 << 17  # bytes a second, one Mbit/s


def allowed(seconds: float, size: int) -> float:
    """The time for a body of ``size`` bytes: the configured one and what the slowest honest line takes."""
    return seconds + size / _SLOWEST


class Room:
    """A budget that requests reserve from. Used on the event loop only."""

    def __init__(self, what: str, size: int) -> None:
        self._what, self.size, self.used = what, size, 0

    @contextmanager
    def reserve(self, amount: int) -> Iterator[None]:
        """Errors: 429 where it does not fit now."""
        if self.used + amount > self.size:
            raise ServiceError(
                429, "request", f"{self._what} is in use ({self.used:,} of {self.size:,})", "send it again later",
                retry_after=1,
            )  # fmt: skip
        self.used += amount
        try:
            yield
        finally:
            self.used -= amount


def declared_length(request: Request) -> int | None:
    """None for a chunked body, which declares none. Errors: 400 for what is no length."""
    if "transfer-encoding" in request.headers:
        return None
    text = request.headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ServiceError(400, "request", "the Content-Length is no number", "send the length of the body")
    return int(text)


def check_length(request: Request, size: int, exact: bool) -> None:
    """Before a byte is read: the declared length must be ``size``, or at most that."""
    declared = declared_length(request)
    if declared is None:
        return
    if declared > size:
        raise _too_large(size)
    if exact and declared < size:
        raise ServiceError(400, "request", f"the body has {declared:,} bytes, {size:,} are needed", "send all of it")


async def receive(request: Request, size: int, exact: bool, seconds: float) -> tuple[memoryview, bytes]:
    """(the body, its BLAKE2b digest of 16 bytes). Errors: 400, 413, and 408 for a body that takes too long."""
    check_length(request, size, exact)
    digest = hashlib.blake2b(digest_size=16)
    buffer, at = pool.empty((size,), np.uint8).data, 0
    try:
        with anyio.fail_after(allowed(seconds, size)):
            async for piece in request.stream():
                if at + len(piece) > size:
                    raise _too_large(size)
                buffer[at : at + len(piece)] = piece
                at += len(piece)
                digest.update(piece)
    except TimeoutError:
        raise ServiceError(
            408,
            "request",
            f"the body took longer than {allowed(seconds, size):.1f} s",
            "send it again over a faster connection",
        ) from None
    if exact and at != size:
        raise ServiceError(400, "request", f"the body has {at:,} bytes, {size:,} are needed", "send it all")
    return buffer[:at], digest.digest()


def _too_large(size: int) -> ServiceError:
    return ServiceError(
        413, "request", f"the body is larger than {size:,} bytes, which is expected", "check what you send"
    )


class Answer(Response):
    """Sent piece by piece, so that at most one waits in the transport, and given up when the client does not read."""

    media_type = "application/octet-stream"

    def __init__(self, content: Body, seconds: float) -> None:
        super().__init__(content)
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        view = memoryview(self.body)
        with anyio.move_on_after(allowed(self._seconds, len(view))) as scope_of_time:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for at in range(0, len(view), _PIECE):
                await send({"type": "http.response.body", "body": bytes(view[at : at + _PIECE]), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        if scope_of_time.cancelled_caught:  # incomplete: the HTTP server closes the connection
            log.warning("an answer of %d bytes was not read in time", len(view))
