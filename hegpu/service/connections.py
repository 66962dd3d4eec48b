"""HTTP connections that end: uvicorn waits for ever for a head that does not come, and holds one of any size."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hegpu.service.accounting import DISCARDED
from hegpu.service.bodies import allowed

MOST_HEAD = 1 << 16  # bytes of a request that are not its body: head, chunk sizes, trailers


def bounded(seconds: float) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, which gives a request's head ``seconds`` and the unread rest of a refused body a slow line's
    time; what is over either, or larger than ``MOST_HEAD`` and an eighth of the body, loses the connection."""

    class Bounded(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _in_body = False
        _surplus = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start(seconds)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self._start(allowed(seconds, DISCARDED) if self._in_body else seconds)
            self._surplus += len(data)
            super().data_received(data)
            if self._surplus > MOST_HEAD:
                self.transport.abort()

        def on_message_begin(self) -> None:
            self._surplus = 0  # what came with the end of the last message is let off
            self._start(seconds)
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._stop()
            self._in_body = True
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._surplus -= len(body) + len(body) // 8
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._stop()
            self._in_body = False
            super().on_message_complete()

        def _start(self, after: float) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(after, self.transport.abort)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Bounded
