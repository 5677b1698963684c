"""No other page of a person's browser can act on Dagster's pages; the person and programs of the machine can."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.end_to_end.real_processes import free_ports
from vad_dagster.cli.supervisor import answers
from vad_dagster.home import prepare_home
from vad_dagster.web_gate import WebGate

HOST = "127.0.0.1:3000"
QUERY = b"query=mutation%7BwipeAssets%7D"


async def _passes(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def ask(
    *,
    path: str = "/graphql",
    method: str = "POST",
    kind: str = "http",
    query: bytes = b"",
    gate: WebGate | None = None,
    **headers: str,
) -> Any:
    """Return the status that a request gets, or the type of the answer to a websocket that is refused."""
    given = {"host": HOST, "content-type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {"type": kind, "method": method, "path": path, "query_string": query}
    scope["headers"] = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    asyncio.run((gate or WebGate(_passes))(scope, receive, send))
    return sent[0].get("status", sent[0]["type"])


def test_the_page_itself_and_programs_of_the_machine_may_ask() -> None:
    assert ask() == 200
    assert ask(origin=f"http://{HOST}", sec_fetch_site="same-origin", sec_fetch_mode="cors") == 200
    assert ask(path="/runs", method="GET", sec_fetch_site="none", sec_fetch_mode="navigate") == 200
    assert ask(kind="websocket", method="GET", origin=f"http://{HOST}") == 200


def test_a_link_from_another_page_opens_a_page_but_no_frame_in_it() -> None:
    for site in ("same-site", "cross-site"):
        link: dict[str, Any] = {"path": "/runs", "method": "GET", "sec_fetch_site": site, "sec_fetch_mode": "navigate"}
        assert ask(**link, sec_fetch_dest="document") == 200
        assert ask(**link, sec_fetch_dest="iframe") == 403


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (405, {"method": "GET", "query": QUERY}),
        (405, {"method": "GET", "query": QUERY, "path": "/graphql/"}),
        (405, {"method": "POST", "query": QUERY, "content_type": "text/plain"}),
        (403, {"method": "GET", "query": QUERY, "sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}),
        (403, {"method": "GET", "query": QUERY, "sec_fetch_site": "same-site", "sec_fetch_mode": "navigate"}),
        (403, {"origin": "http://evil.example"}),
        (403, {"origin": "null"}),
        (403, {"origin": "http://[::1"}),
        (403, {"origin": f"http://{HOST}@evil.example"}),
        (403, {"origin": "http://127.0.0.1:8080"}),
        (415, {"content_type": "text/plain"}),
        (415, {"content_type": "application/x-www-form-urlencoded"}),
        (403, {"path": "/report_asset_materialization/x", "sec_fetch_site": "cross-site", "sec_fetch_mode": "cors"}),
        (421, {"host": "evil.example"}),
        (421, {"host": "evil.example:3000"}),
        (421, {"host": "127.0.0.1.evil.example:3000"}),
        (421, {"host": ""}),
        ("websocket.close", {"kind": "websocket", "origin": "http://evil.example"}),
    ],
)
@pytest.mark.spec("S1.12")
def test_what_another_site_causes_is_refused(status: object, request_: dict[str, Any]) -> None:
    assert ask(**request_) == status


def test_a_further_host_is_one_that_was_named() -> None:
    gate = WebGate(_passes, hosts=[" inspection.local", ""])
    assert ask(gate=gate, host="Inspection.local") == 200
    assert ask(gate=gate, host="other.local") == 421
    assert ask(gate=gate, host="") == 421


def test_with_a_token_nothing_passes_without_it() -> None:
    gate = WebGate(_passes, tokens=["hunter2"])
    basic = base64.b64encode(b"anyone:hunter2").decode()
    assert ask(gate=gate, authorization=f"Basic {basic}") == 200
    assert ask(gate=gate, authorization="Bearer hunter2") == 200
    for wrong in ("", "Bearer hunter3", "Basic %%%", "Basic " + base64.b64encode(b"hunter2").decode(), "hunter2"):
        assert ask(gate=gate, authorization=wrong) == 401
    assert ask(gate=gate, kind="websocket") == "websocket.close"


@pytest.fixture
def web_server(vad_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Dagster's real web server behind the gate, with a location that has one job."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    (port,) = free_ports(1)
    jobs = Path(__file__).with_name("toy_jobs.py")
    command = [sys.executable, "-m", "vad_dagster.web_gate", "--python-file", str(jobs), "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=prepare_home(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 200
        while not answers(address):
            told = (tmp_path / "log").read_text()[-3000:]
            assert process.poll() is None, told
            assert time.monotonic() < deadline, f"no answer within 200 s: {told}"
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            os.killpg(process.pid, 9) if process.poll() is None else None


@pytest.mark.spec("S1.12")
def test_dagsters_real_web_server_stands_behind_the_gate(web_server: str) -> None:
    answer = requests.post(f"{web_server}/graphql", json={"query": "{ version }"}, timeout=60)
    assert answer.json()["data"]["version"]
    assert requests.get(web_server, timeout=60).status_code == 200
    by_get = requests.get(f"{web_server}/graphql", params={"query": "{ version }"}, timeout=60)
    assert by_get.status_code == 405
    headers = {"Origin": "http://evil.example"}
    assert (
        requests.post(f"{web_server}/graphql", json={"query": "{ version }"}, headers=headers, timeout=60).ok is False
    )
    assert requests.get(web_server, headers={"Host": "evil.example"}, timeout=60).status_code == 421
