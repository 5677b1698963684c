"""No client turns away others: not by connections, not by a slow request, not by an answer that it does not take."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest
import requests
from serving_rig import until

from vad_dagster.service import connections
from vad_dagster.service.connections import TimedProtocol

Web = Callable[..., str]
HEAD = b"POST /lines/bottles/images HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@contextmanager
def _connected(address: str, *sent: bytes) -> Iterator[socket.socket]:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20) as made:
        for data in sent:
            made.sendall(data)
        yield made


def _ended(client: socket.socket) -> bool:
    """Return whether the server has closed a connection; raises if it does not within the socket's time."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET /lines HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Drip: "])
def test_three_hundred_idle_connections_turn_nobody_away(web: Web, sent: bytes) -> None:
    address = web()
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(_connected(address, sent))
        began = time.monotonic()
        assert requests.get(f"{address}/lines", timeout=10).status_code == 200
        assert requests.get(f"{address}/ready", timeout=10).status_code == 200
        assert time.monotonic() - began < 8


def test_where_there_are_too_many_connections_the_one_that_idles_longest_ends(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TimedProtocol, "most_connections", 5)
    address = web()
    with ExitStack() as stack:
        idle = [stack.enter_context(_connected(address)) for _ in range(20)]
        assert requests.get(f"{address}/lines", timeout=10).status_code == 200
        assert _ended(idle[0])


@pytest.mark.parametrize("drip", [b"", b"x"], ids=["silent", "dripping"])
@pytest.mark.parametrize("begun", [b"", b"GET /lines HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Drip: "])
def test_a_connection_on_which_no_request_is_completed_is_closed(
    web: Web, monkeypatch: pytest.MonkeyPatch, begun: bytes, drip: bytes
) -> None:
    monkeypatch.setattr(TimedProtocol, "request_seconds", 1.0)
    address = web()
    with _connected(address, begun) as client:
        began = time.monotonic()
        client.settimeout(0.1)
        while time.monotonic() - began < 20:
            try:
                if drip and begun:
                    client.sendall(drip)
                if _ended(client):
                    break
            except TimeoutError:
                continue
            except OSError:  # the other end is gone
                break
        assert 0.5 < time.monotonic() - began < 15
    # a request that follows another one on the same connection has the same time
    with _connected(address, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") as client:
        assert client.recv(2000).startswith(b"HTTP/1.1 200")
        client.sendall(begun or b"G")
        assert _ended(client) or _ended(client)


def test_a_body_that_does_not_come_to_its_end_is_answered_and_the_others_are_not_delayed(web: Web) -> None:
    address = web(body_seconds=1.0)
    with ExitStack() as stack:
        slow = [stack.enter_context(_connected(address, HEAD + b"Content-Length: 90\r\n\r\nx")) for _ in range(150)]
        assert requests.get(f"{address}/lines", timeout=10).status_code == 200
        for client in slow:
            assert client.recv(2000).startswith(b"HTTP/1.1 408")
    assert requests.get(f"{address}/ready", timeout=10).status_code == 200


def test_more_requests_than_are_worked_at_are_told_to_try_again_and_health_is_told(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_REQUESTS", 10)
    address = web(body_seconds=3.0)
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(_connected(address, HEAD + b"Content-Length: 90\r\n\r\n"))
        until(lambda: requests.get(f"{address}/lines", timeout=10).status_code == 503)
        assert requests.get(f"{address}/lines", timeout=10).headers["Retry-After"] == "1"
        assert requests.get(f"{address}/health", timeout=10).status_code == 200
        assert requests.get(f"{address}/ready", timeout=10).status_code == 200
    until(lambda: requests.get(f"{address}/lines", timeout=10).status_code == 200)


def test_what_is_no_image_may_be_small_only(web: Web) -> None:
    address = web()
    labels = f"{address}/lines/bottles/results/1/labels"
    said = {"label": "OK", "person": "Kim"}
    assert requests.post(labels, json=said, timeout=20).status_code == 404
    assert requests.post(labels, json={**said, "more": "x" * 70_000}, timeout=20).status_code == 413
    in_pieces = iter([b'{"label": "OK", "more": "', b"x" * 70_000, b'"}'])
    json_type = {"Content-Type": "application/json"}
    assert requests.post(labels, data=in_pieces, headers=json_type, timeout=20).status_code == 413


def test_who_takes_no_answer_is_cut_off(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimedProtocol, "reading_seconds", 0.5)
    address = web()
    made: list[TimedProtocol] = []
    connected = TimedProtocol.connection_made
    monkeypatch.setattr(
        TimedProtocol, "connection_made", lambda self, transport: (made.append(self), connected(self, transport))[1]
    )
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.settimeout(20)
        client.connect((urlsplit(address).hostname, urlsplit(address).port))
        try:
            for _ in range(2000):
                client.sendall(ask)
        except OSError:
            pass
        until(lambda: bool(made) and made[-1].transport.is_closing())
    assert requests.get(f"{address}/ready", timeout=10).status_code == 200
