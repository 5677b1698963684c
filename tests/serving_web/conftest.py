"""The test rig of the inference service, for its web interface."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import requests
import uvicorn
from serving_rig import RigSource, db, inspection_url, source, start, until

from tests.words.words_rig import stub
from vad_dagster.service.connections import server_config
from vad_dagster.service.people import Tokens
from vad_dagster.service.web_app import WebSettings, create_app
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.serving import InferenceService, ServiceLimits

__all__ = ["db", "inspection_url", "source", "start", "stub"]

Web = Callable[..., str]


@pytest.fixture
def web(db: InspectionDatabase, source: RigSource) -> Iterator[Web]:
    """Start a service and its web interface as ``vad serve`` does; returns the address."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def begin(token: str = "", **settings: object) -> str:
        service = InferenceService(db, source, ServiceLimits(follow_seconds=0.1))
        app = create_app(service, WebSettings(**{"tokens": Tokens(token), **settings}))  # type: ignore[arg-type]
        server = uvicorn.Server(server_config(app, "127.0.0.1", 0))
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        until(lambda: server.started)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        until(lambda: requests.get(f"{address}/ready", timeout=5).status_code == 200)
        return address

    yield begin
    for server, thread in servers:
        server.should_exit = True
        thread.join(20)
