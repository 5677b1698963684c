"""What one client may hold of the web interface: no connection, body or answer of one turns away others.

Uvicorn's own bound counts idle connections as work, so that 200 of them would make every request 503, and it waits for
ever for a request that does not come to its end. ``TimedProtocol`` closes such connections, and ``RequestBounds`` gives
requests an answer that are too slow, too large or too many.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvicorn
from fastapi import HTTPException
from starlette.responses import PlainTextResponse
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from vad_dagster.web_gate import Application, Receive, Scope, Send

MOST_CONNECTIONS = 500
"""Below the 1,024 files that a process may usually open. One more takes the place of the one that idles longest."""
MOST_REQUESTS = 200
"""That are answered at a time, but for streams."""
STREAMS = ("/events",)
"""Paths of answers that have no end. How many there are is bounded where they are made."""
REQUEST_SECONDS = 10.0
"""Until all headers of a request are there."""
BODY_SECONDS = 60.0
"""Until all of its body is there."""
READING_SECONDS = 30.0
"""How long a client may take nothing of an answer."""
MOST_BODY_BYTES = 2**16
"""Of requests that are no image."""


class TimedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Uvicorn's HTTP, with a bound on the time that a client takes to ask and to take the answer."""

    request_seconds, reading_seconds, most_connections = REQUEST_SECONDS, READING_SECONDS, MOST_CONNECTIONS

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request; where there are too many connections, the one that idles longest ends."""
        super().connection_made(transport)
        self.idle_since = time.monotonic()
        self._for_request: asyncio.TimerHandle | None = None
        self._for_reading: asyncio.TimerHandle | None = None
        self._wait_for_request()
        if len(self.connections) > self.most_connections:
            idle = [each for each in self.connections if not each.is_busy()]
            if idle:
                min(idle, key=lambda each: each.idle_since).transport.abort()

    def is_busy(self) -> bool:
        """Return whether a request has come whose answer is not sent."""
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        if self.is_busy():
            self._cancel(self._for_request)
            self._for_request = None
        elif self._for_request is None:
            self.idle_since = time.monotonic()
            self._wait_for_request()

    def shutdown(self) -> None:
        """The server ends. A stream would not end by itself: its page comes again when there is a server."""
        if self.is_busy() and self.cycle.scope["path"] in STREAMS:
            self.transport.abort()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        """The client takes nothing more for now."""
        super().pause_writing()
        self._for_reading = self.loop.call_later(self.reading_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        self._cancel(self._for_reading)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End everything that waits."""
        self._cancel(self._for_request)
        self._cancel(self._for_reading)
        super().connection_lost(exc)

    def _wait_for_request(self) -> None:
        self._for_request = self.loop.call_later(self.request_seconds, self.transport.abort)

    @staticmethod
    def _cancel(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


class RequestBounds:
    """An ASGI application before another one: bounds how many requests are at work, and the body of each.

    Args:
        application: what answers.
        most_bytes: of the body of a request that sends an image; of any other it is ``MOST_BODY_BYTES``.
        body_seconds: until a body is there.
        always_answered: paths that are asked while everything else is too much.
    """

    def __init__(
        self,
        application: Application,
        most_bytes: int,
        *,
        body_seconds: float = BODY_SECONDS,
        always_answered: tuple[str, ...] = (),
    ) -> None:
        self._application, self._most_bytes, self._body_seconds = application, most_bytes, body_seconds
        self._always_answered, self._at_work = always_answered, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._always_answered:
            await self._application(scope, receive, send)
            return
        if scope["path"] in STREAMS:
            await self._application(scope, self._bounded(scope, receive), send)
            return
        if self._at_work >= MOST_REQUESTS:
            told = "Too many requests are at work: try again."
            await PlainTextResponse(told, 503, {"Retry-After": "1"})(scope, receive, send)
            return
        self._at_work += 1
        try:
            await self._application(scope, self._bounded(scope, receive), send)
        finally:
            self._at_work -= 1

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        most = self._most_bytes if scope["path"].endswith("/images") else MOST_BODY_BYTES
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        deadline = time.monotonic() + self._body_seconds
        taken, more = 0, True

        async def receive_in_time() -> Any:
            nonlocal taken, more
            if not more:  # now only the end of the connection is waited for
                return await receive()
            if int(declared) > most:
                raise HTTPException(413, f"At most {most} bytes are taken.")
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except TimeoutError:
                raise HTTPException(408, f"The body was not there after {self._body_seconds:g} s.") from None
            taken += len(message.get("body", b""))
            more = message.get("more_body", False)
            if taken > most:
                raise HTTPException(413, f"At most {most} bytes are taken.")
            return message

        return receive_in_time


def server_config(application: Any, host: str, port: int) -> uvicorn.Config:
    """Return how the web interface is served."""
    return uvicorn.Config(
        application,
        host=host,
        port=port,
        http=TimedProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,
    )
