"""Who calls, from the bearer token; asked before anything else of a request is read."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from hegpu.service.accounting import account_of
from hegpu.service.errors import ServiceError
from hegpu.service.service import NOBODY
from hegpu.service.tokens import Caller, Tokens

_bearer = HTTPBearer(auto_error=False, description="a token made by 'hegpu token'")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


def authenticator(tokens: Tokens | None) -> Callable[[Request, Bearer], Awaitable[Caller]]:
    """A dependency that names the caller. Errors: 401."""

    async def caller(request: Request, bearer: Bearer) -> Caller:
        found = NOBODY if tokens is None else tokens.find(bearer.credentials) if bearer else None
        if found is None:
            raise ServiceError(
                401, "request", "a valid token is needed", "send 'Authorization: Bearer TOKEN'",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        account_of(request).caller = found.name
        return found

    return caller
