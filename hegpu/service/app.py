"""The HTTP application: routes, errors and housekeeping around one :class:`Service`."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from hegpu.errors import HegpuError
from hegpu.service import routes_keys, routes_rounds, routes_sessions
from hegpu.service.accounting import Accounting, error_response
from hegpu.service.auth import authenticator
from hegpu.service.errors import ServiceError
from hegpu.service.page import NOTHING_IS_LOADED, page
from hegpu.service.service import Service

log = logging.getLogger("hegpu.service")


class Problem(BaseModel):
    """Every answer that is not the one asked for."""

    error: str
    operation: str
    what_to_do: str


_REFUSALS = (400, 401, 403, 404, 408, 409, 410, 411, 413, 422, 429, 503, 507)


def create_app(service: Service) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_expire(service))
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="hegpu",
        version=version("hegpu"),
        summary="Denoise low-dose CT slices while they stay encrypted. Research software, not a medical device.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Accounting, metrics=service.metrics)
    for kind in (HegpuError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _refuse)

    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """Alive; nothing else is told without a token."""
        return {"status": "ok"}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """What /openapi.json says, to be read."""
        return HTMLResponse(page(app.openapi()), headers={"Content-Security-Policy": NOTHING_IS_LOADED})

    @app.get("/metrics", tags=["operation"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    # Not as a model: FastAPI would announce it in the media type of the good answer.
    problem: dict[str, Any] = {
        "description": "Refused",
        "content": {"application/json": {"schema": Problem.model_json_schema()}},
    }
    problems: dict[int | str, dict[str, Any]] = dict.fromkeys(_REFUSALS, problem)
    authenticate = authenticator(service.tokens)
    for module in (routes_sessions, routes_rounds, routes_keys):
        app.include_router(module.routes(service, authenticate), responses=problems)
    return app


async def _expire(service: Service) -> None:
    pause = min(60.0, max(0.5, service.limits.session_hours * 360))
    while True:
        await asyncio.sleep(pause)
        try:
            service.store.expire()
        except (OSError, sqlite3.Error) as error:  # tried again; a server does not die of housekeeping
            log.error("expiry failed: %s", type(error).__name__)


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        error = ServiceError(422, "request", faults[:500], "send what the page /docs describes")
    elif isinstance(error, HTTPException):
        error = ServiceError(
            error.status_code, "request", str(error.detail), "see the page /docs", headers=error.headers
        )
    status, headers, body = error_response(request, error)
    return Response(body, status, headers)
