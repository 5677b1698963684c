"""An endpoint that does what a test tells it, over a real socket."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER: dict[str, Any] = {
    "reference_difference": "The reference has no mark there.",
    "regions": [
        {"number": 1, "kind": "scratch", "place": "top left", "description": "A thin line.", "severity": "high"}
    ],
    "anomaly": "yes",
    "confidence": "high",
    "agrees_with_detector": True,
    "summary": "A scratch at the top left.",
    "next_check": "Look at it in slanting light.",
}


@dataclass
class Turn:
    """What the endpoint does with one request.

    Attributes:
        text: the content of the reply.
        status: of the response.
        headers: further ones.
        body: the whole response, in place of one made from ``text``.
        delay: seconds before it replies.
        hang_up: it closes the connection instead.
        refusal: the words of a refusal.
        usage: tokens; None: it counts none.
    """

    text: str = field(default_factory=lambda: json.dumps(ANSWER))
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay: float = 0.0
    hang_up: bool = False
    refusal: str | None = None
    usage: dict[str, int] | None = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 20})

    def response(self) -> bytes:
        if self.body is not None:
            return self.body
        if self.status != 200:
            return json.dumps({"error": {"message": f"status {self.status}"}}).encode()
        message = {"role": "assistant", "content": None if self.refusal else self.text, "refusal": self.refusal}
        made: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 0, "model": "stub"}
        made["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        if self.usage is not None:
            made["usage"] = self.usage
        return json.dumps(made).encode()


Script = Callable[[dict[str, Any]], Turn]


@dataclass
class Stub:
    """The endpoint as tests see it.

    Attributes:
        url: as ``VAD_VLM_URL`` would have it.
        turns: what it does with the next requests; afterwards ``script`` is asked.
        script: what it does with a request whose turn nobody wrote.
        asked: bodies of the requests so far.
        seen: method and path of all requests.
    """

    url: str
    turns: list[Turn] = field(default_factory=list)
    script: Script = lambda body: Turn()
    asked: list[dict[str, Any]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    models: tuple[str, ...] = ("stub",)

    def formats(self) -> list[str]:
        """The response_format of each request."""
        return [body.get("response_format", {"type": "text"})["type"] for body in self.asked]


@contextmanager
def stub_endpoint() -> Iterator[Stub]:
    """Start one."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            stub.seen.append(f"GET {self.path}")
            listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in stub.models]}
            self.answer(200, json.dumps(listed).encode(), {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                stub.seen.append(f"POST {self.path}")
                stub.asked.append(body)
                stub.headers.append({name.lower(): value for name, value in self.headers.items()})
                turn = stub.turns.pop(0) if stub.turns else stub.script(body)
            time.sleep(turn.delay)
            if turn.hang_up:
                self.close_connection = True
                return
            self.answer(turn.status, turn.response(), turn.headers)

        def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            try:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub = Stub(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
