"""The client's side of HTTP: sends the same bytes again until they are answered, believes no size, counts all bytes."""

import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from hegpu.backend import pool
from hegpu.ckks.wire import Body
from hegpu.errors import FormatError, HegpuError, ParameterError
from hegpu.service.hosts import is_loopback

MAX_JSON = 1 << 24
_MAX_ERROR = 1 << 16
_PIECE = 1 << 18
_TIMEOUT = httpx.Timeout(30.0, read=300.0)
_AGAIN = "start the same command again, it goes on where it stopped"


class Refused(HegpuError):
    """The server answered with an error that repetition does not cure."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"client: the server refused ({status}): {text}")
        self.status = status


@dataclass
class Traffic:
    """Bytes of requests and answers, headers included, repetitions too; what TLS and TCP add is not."""

    up: int = 0
    down: int = 0

    def seconds(self, bits_per_second: float) -> float:
        """Of both directions, one after the other."""
        return 8 * (self.up + self.down) / bits_per_second


class Connection:
    """``patience`` bounds the seconds for which one request is repeated."""

    def __init__(self, server: str, token: str | None, ca: Path | None = None, patience: float = 300.0) -> None:
        self.traffic = Traffic()
        self._patience = patience
        self._lock = threading.Lock()
        headers = {"Accept-Encoding": "identity", "User-Agent": "hegpu"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            base_url=_checked(server, token), headers=headers, timeout=_TIMEOUT, verify=_verification(ca)
        )

    def close(self) -> None:
        self._client.close()

    def json(
        self,
        method: str,
        path: str,
        content: dict[str, Any] | None = None,
        *,
        key: str | None = None,
        patience: float | None = None,
    ) -> dict[str, Any]:
        """``key`` makes a POST one that can be repeated. Errors: :class:`Refused`, :class:`FormatError` for an answer
        that is no JSON object."""
        headers = {"Idempotency-Key": key} if key else None
        answer = self._repeat(
            lambda: self._client.build_request(method, path, json=content, headers=headers), MAX_JSON, patience
        )
        if not answer:
            return {}
        try:
            value = httpx.Response(200, content=bytes(answer)).json()
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise FormatError(f"client: {method} {path} was not answered by a JSON object; is this a hegpu server?")
        return value

    def put(self, path: str, body: Body, most: int) -> Body:
        """The answer to ``body``, of at most ``most`` bytes; whenever it is lost, the very same bytes are sent again."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
        return self._repeat(
            lambda: self._client.build_request("PUT", path, content=_pieces(body), headers=headers), most, None
        )

    def _repeat(self, request: Callable[[], httpx.Request], most: int, patience: float | None) -> Body:
        patience = self._patience if patience is None else patience
        deadline, pause = time.monotonic() + patience, 0.25
        while True:
            try:
                status, headers, data = self._once(request(), most)
                if status < 300:
                    return data
                why = f"{status}: {shown(data)}"
                if status not in (408, 429) and status < 500:
                    raise Refused(status, shown(data))
                wait = _retry_after(headers) or pause
            except (httpx.TransportError, httpx.StreamError) as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise HegpuError(
                        f"client: the server's certificate is not trusted ({clean(str(error))}); name its authority "
                        "with --ca"
                    ) from error
                why, wait = clean(f"{type(error).__name__} {error}"), pause
            wait *= random.uniform(0.8, 1.2)
            if time.monotonic() + wait > deadline:
                raise HegpuError(f"client: no answer for {patience:.0f} s (last: {why}); {_AGAIN}")
            time.sleep(wait)
            pause = min(2 * pause, 15.0)

    def _once(self, request: httpx.Request, most: int) -> tuple[int, httpx.Headers, Body]:
        up = sum(len(name) + len(value) + 4 for name, value in request.headers.raw) + int(
            request.headers.get("Content-Length", 0)
        )
        self._count(up + len(request.method) + len(request.url.raw_path) + 13, 0)
        response = self._client.send(request, stream=True)
        try:
            self._count(0, sum(len(name) + len(value) + 4 for name, value in response.headers.raw) + 19)
            limit = most if response.status_code < 300 else _MAX_ERROR
            data, at = pool.empty((limit,), np.uint8).data, 0
            for piece in response.iter_raw():
                self._count(0, len(piece))
                if at + len(piece) > limit:
                    raise FormatError(
                        f"client: the server's answer is larger than the {limit:,} bytes that were agreed; this "
                        "service is not to be used"
                    )
                data[at : at + len(piece)] = piece
                at += len(piece)
            return response.status_code, response.headers, data[:at]
        finally:
            response.close()

    def _count(self, up: int, down: int) -> None:
        with self._lock:
            self.traffic.up += up
            self.traffic.down += down


def _pieces(body: Body) -> Iterator[bytes]:
    view = memoryview(body)
    for at in range(0, len(view), _PIECE):
        yield bytes(view[at : at + _PIECE])


def clean(text: str) -> str:
    """What a stranger wrote, fit for a terminal: no control characters, not long."""
    return "".join(c if c.isprintable() else "?" for c in text[:300])


def shown(data: Body) -> str:
    """A server's error in its own words, if it is one."""
    try:
        value = httpx.Response(200, content=bytes(data)).json()
        return clean("; ".join(str(value[key])[:140] for key in ("error", "what_to_do")))
    except (ValueError, KeyError, TypeError, RecursionError):
        return clean(bytes(data[:100]).decode("utf-8", "replace")) or "no reason given"


def _retry_after(headers: httpx.Headers) -> float | None:
    text = headers.get("retry-after", "")
    return min(60.0, max(0.1, float(text))) if text.isascii() and text.isdigit() and len(text) < 6 else None


def _checked(server: str, token: str | None) -> str:
    try:
        parts = urlsplit(server)
        _ = parts.port
    except ValueError as cause:
        raise ParameterError(f"client: {server!r:.200} is no URL ({cause}); give https://HOST:PORT") from cause
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ParameterError(f"client: {server!r:.200} is no URL of a server; give https://HOST:PORT")
    if parts.scheme == "http" and token is not None and not is_loopback(parts.hostname):
        raise ParameterError(f"client: {server!r:.200} would send the token in the clear; use https://")
    return server


def _verification(ca: Path | None) -> ssl.SSLContext | bool:
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as cause:
        raise ParameterError(f"client: {ca} is no certificate file ({cause}); give a PEM file with --ca") from cause
