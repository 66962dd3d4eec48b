"""Every error as one JSON shape: what was attempted, why it failed, what to do. Never a traceback, never data."""

import errno
import sqlite3
from collections.abc import Mapping

from hegpu.errors import BackendError, FormatError, HegpuError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SQLITE_FULL = ("database or disk is full", "disk I/O error")


class ServiceError(HegpuError):
    """A refusal with an HTTP status. ``retry_after``: seconds after which the same request may succeed."""

    def __init__(
        self,
        status: int,
        operation: str,
        cause: str,
        what_to_do: str,
        *,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{operation}: {cause}; {what_to_do}")
        self.status, self.operation, self.cause, self.what_to_do = status, operation, cause, what_to_do
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def body(self) -> dict[str, str]:
        return {"error": self.cause, "operation": self.operation, "what_to_do": self.what_to_do}


def as_service_error(error: Exception) -> ServiceError:
    """The refusal that stands for ``error``. Messages of our own family are shown; of others only the kind."""
    if isinstance(error, ServiceError):
        return error
    if is_disk_full(error):
        return ServiceError(
            507, "store", "the server's disk is full, nothing was stored", "tell the operator, then send it again"
        )
    if isinstance(error, HegpuError):
        status = 400 if isinstance(error, FormatError) else 500 if isinstance(error, BackendError) else 422
        operation, found, rest = str(error).partition(": ")
        if not found:
            operation, rest = "request", str(error)
        cause, _, what_to_do = rest.rpartition("; ")
        return ServiceError(status, operation[:200], (cause or rest)[:1000], (what_to_do if cause else "")[:1000])
    return ServiceError(
        500, "request", f"the server failed ({type(error).__name__})", "send it again; tell the operator if it persists"
    )


def is_disk_full(error: BaseException) -> bool:
    """No room, a quota or a file size limit, met by a file or by the data base."""
    if isinstance(error, sqlite3.OperationalError):
        return str(error).startswith(_SQLITE_FULL)
    return isinstance(error, OSError) and error.errno in _FULL
