"""The recipe of the documentation, in a real nginx before the real service, and before what stands before Dagster."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import uvicorn
from serving_rig import until

from tests.end_to_end.real_processes import free_ports
from vad_dagster.service.people import Tokens
from vad_dagster.web_gate import WebGate

Web = Callable[..., str]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "behind_a_proxy.md"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
KIM = ("kim", "right")

pytestmark = pytest.mark.skipif(not (NGINX and shutil.which("openssl")), reason="needs nginx and openssl")


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    """Tell which headers came."""
    if scope["type"] == "lifespan":
        return
    told = json.dumps([[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": told})


@contextmanager
def _served(application: Any) -> Iterator[int]:
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)


def _recipe() -> str:
    (text,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(text)


@contextmanager
def _nginx(folder: Path, port: int, upstreams: dict[int, int]) -> Iterator[None]:
    """Run nginx with the recipe, on other ports and with files in ``folder``."""
    files = folder / "vad"
    files.mkdir(mode=0o700)
    names = ",".join(f"DNS:{name}.vad.example" for name in ("dagster", "mlflow", "service"))
    request = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=vad.example")
    written = ("-keyout", str(files / "key.pem"), "-out", str(files / "certificate.pem"))
    command = ["openssl", *request, "-addext", f"subjectAltName={names}", *written]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    hashed = subprocess.run(["openssl", "passwd", "-6", KIM[1]], check=True, capture_output=True, text=True, timeout=60)
    (files / "users").write_text(f"{KIM[0]}:{hashed.stdout}")
    recipe = _recipe().replace("listen 443", f"listen 127.0.0.1:{port}").replace("/etc/nginx/vad", str(files))
    for documented, real in upstreams.items():
        assert f"127.0.0.1:{documented};" in recipe
        recipe = recipe.replace(f"127.0.0.1:{documented};", f"127.0.0.1:{real};")
    kept = "".join(f"{name}_temp_path {folder / name};\n" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
    body = f"client_body_temp_path {folder / 'body'};\n{kept}access_log off;\n"
    (folder / "nginx.conf").write_text(
        f"user root;\ndaemon off;\npid {folder / 'pid'};\nerror_log {folder / 'error.log'};\n"
        f"events {{}}\nhttp {{\n{body}{recipe}}}\n"
    )
    command = [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            log = folder / "error.log"
            assert process.poll() is None, log.read_text() if log.exists() else "it ended"
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "nginx does not listen"
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def ask(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., requests.Response]]:
    """Ask the proxy as a browser of another machine does."""
    (port,) = free_ports(1)
    names = {name: f"{name}.vad.example" for name in ("dagster", "mlflow", "service", "evil")}
    monkeypatch.setenv("VAD_ALLOWED_HOSTS", ",".join(names[name] for name in ("dagster", "mlflow", "service")))
    service = urlsplit(web(tokens=Tokens(proxy="SECRET_OF_THE_SERVICE"))).port or 0
    dagster = WebGate(_echo, hosts=[names["dagster"]], tokens=["SECRET_OF_DAGSTER"])
    with _served(dagster) as dagster_port, _served(_echo) as mlflow_port:
        upstreams = {3000: dagster_port, 5000: mlflow_port, 8600: service}
        with _nginx(tmp_path, port, upstreams):

            def send(
                name: str, path: str = "/", *, method: str = "GET", login: Any = KIM, **headers: str
            ) -> requests.Response:
                named = {"Host": names[name], **{key.replace("_", "-"): value for key, value in headers.items()}}
                return requests.request(
                    method,
                    f"https://127.0.0.1:{port}{path}",
                    headers=named,
                    auth=login,
                    timeout=30,
                    verify=False,
                    allow_redirects=False,
                )

            yield send


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_who_has_a_login_reaches_all_three_and_nobody_else_any(ask: Callable[..., requests.Response]) -> None:
    for name in ("dagster", "mlflow", "service"):
        assert ask(name).status_code == 200
        for wrong in (None, ("kim", "wrong"), ("lee", "right"), ("kim", "SECRET_OF_DAGSTER")):
            assert ask(name, login=wrong).status_code == 401
    with pytest.raises(requests.ConnectionError):
        ask("evil")
    # the secrets of this machine do not take the place of a login, and no password goes further than the proxy
    told = ask("service", login=None, Authorization="Bearer SECRET_OF_THE_SERVICE")
    assert told.status_code == 401
    assert ["authorization", "Bearer SECRET_OF_DAGSTER"] in ask("dagster").json()
    assert "authorization" not in dict(ask("mlflow").json())


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_behind_the_proxy_pages_of_others_cause_nothing_though_the_browser_is_logged_in(
    ask: Callable[..., requests.Response],
) -> None:
    graphql = {"method": "POST", "path": "/graphql", "Content_Type": "application/json"}
    assert ask("dagster", **graphql, Origin="https://dagster.vad.example").status_code == 200
    assert ask("dagster", **graphql, Origin="https://evil.example").status_code == 403
    assert ask("dagster", "/graphql?query=mutation", Sec_Fetch_Site="cross-site").status_code == 403
    label = {"method": "POST", "path": "/lines/bottles/results/1/labels"}
    assert ask("service", **label, Origin="https://evil.example").status_code == 403
    assert ask("service", **label, Origin="https://service.vad.example").status_code == 404


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_behind_the_proxy_mlflow_runs_nothing_and_knows_who_is_far(ask: Callable[..., requests.Response]) -> None:
    for path in (
        "/ajax-api/3.0/mlflow/assistant/message",
        "/ajax-api//3.0/mlflow/assistant",
        "/ajax-api/3.0/%6dlflow/assistant/config",
        "/x/../ajax-api/3.0/jobs/1",
        "/gateway/a/mlflow/invocations",
    ):
        assert ask("mlflow", path).status_code == 403
    headers = dict(ask("mlflow", X_Forwarded_For="10.9.9.9").json())
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["host"] == "mlflow.vad.example"


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_behind_the_proxy_the_service_leads_to_its_own_name(ask: Callable[..., requests.Response]) -> None:
    assert ask("service", "/lines").json()[0]["line"] == "bottles"
    assert ask("service", "/lines/").headers["location"] == "https://service.vad.example/lines"
    assert ask("service", "/docs").status_code == 200


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_behind_the_proxy_the_service_knows_who_asks_and_a_browser_cannot_say_it(
    ask: Callable[..., requests.Response],
) -> None:
    page = ask("service", X_Forwarded_User="boss", X_Forwarded_Groups="viewer")
    assert ">kim<" in page.text
    assert 'title="approver"' in page.text
