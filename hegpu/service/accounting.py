"""Around every request: one line in the log, the counters, what it reserved is given back, every error is JSON.

A line holds method, route template, status, seconds, bytes and the token's name; never a path, body or header.
"""

import json
import logging
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import perf_counter

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hegpu.service.bodies import declared_length
from hegpu.service.errors import ServiceError, as_service_error
from hegpu.service.metrics import Metrics

log = logging.getLogger("hegpu.service")
_DISCONNECTED = 499  # as other servers log it; nobody receives it
DISCARDED = 1 << 24  # an unread rest of this size is swallowed to keep the connection, a larger one ends it


@dataclass
class Account:
    """One request. ``stack`` is closed after the answer was sent."""

    caller: str = "-"
    status: int = 0
    received: int = 0
    sent: int = 0
    stack: ExitStack = field(default_factory=ExitStack)


def account_of(request: Request) -> Account:
    account: Account = request.state.account
    return account


class Accounting:
    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        account, started = Account(), perf_counter()
        scope.setdefault("state", {})["account"] = account

        async def counted_receive() -> Message:
            message = await receive()
            account.received += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                account.status = message["status"]
            account.sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        except ClientDisconnect:
            account.status = _DISCONNECTED
        except Exception as error:
            if not account.status:
                status, headers, body = error_response(Request(scope), error)
                raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
                await counted_send({"type": "http.response.start", "status": status, "headers": raw})
                await counted_send({"type": "http.response.body", "body": body})
        finally:
            account.stack.close()
            route = getattr(scope.get("route"), "path", "-")
            method = scope["method"] if route != "-" else "-"
            seconds = perf_counter() - started
            self._metrics.count(method, route, account.status, account.received, account.sent)
            log.info(
                "%s %s %d %.3f s, %d bytes in, %d out, %s",
                method, route, account.status, seconds, account.received, account.sent, account.caller,
            )  # fmt: skip


def error_response(request: Request, error: Exception) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body). What is no refusal is logged: its kind and place, not its message."""
    refusal = as_service_error(error)
    if refusal.status >= 500 and not isinstance(error, ServiceError):
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
        log.error("%s at %s", type(error).__name__, place)
    headers = {"Content-Type": "application/json", **refusal.headers}
    if _rest_is_large(request) or refusal.status == 408:
        headers["Connection"] = "close"
    return refusal.status, headers, json.dumps(refusal.body()).encode()


def _rest_is_large(request: Request) -> bool:
    try:
        declared = declared_length(request)
    except ServiceError:
        return True
    return declared is None or declared - account_of(request).received > DISCARDED
