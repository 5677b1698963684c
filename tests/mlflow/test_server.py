"""The same code with a tracking server by URL, which keeps the artifacts itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from vad_dagster.home import NO_TELEMETRY, executable, mlflow_command, prepare_home, prepare_tracking
from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.detectors.storage import description_text

pytestmark = pytest.mark.slow


@contextmanager
def running(command: list[str], address: str, environment: dict[str, str]) -> Iterator[str]:
    """Run a server until the block ends; yields its address."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    command = [
        *(executable("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"),
        *("--artifacts-destination", str(tmp_path / "artifacts")),
    ]
    with running(command, f"http://127.0.0.1:{port}", {**os.environ, **NO_TELEMETRY}) as address:
        yield address


def test_a_version_on_a_server_is_fetched_once_and_kept(
    server: str, vad_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    model = tmp_path / "inspection_model"
    model.mkdir()
    (model / "detector.json").write_text(description_text({"a": 1}))
    tracking = MLflowTracking()
    registry = LineRegistry(tracking, "far")
    with tracking.run("far", name="x") as run:
        version = registry.register(model, run_id=run.run_id, tags={}, description="x", example_image=None)
    assert run.url.startswith(server)
    folder = registry.folder(version)
    assert folder.is_relative_to(vad_home)
    assert (folder / "detector.json").read_text() == description_text({"a": 1})
    written = (folder / "detector.json").stat().st_mtime_ns
    assert (registry.folder(version) / "detector.json").stat().st_mtime_ns == written
    assert not (vad_home / "mlflow" / "mlflow.db").exists()


def test_mlflow_as_vad_dev_starts_it_takes_nothing_from_pages_of_others(
    vad_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("VAD_ALLOWED_HOSTS", "ml.vad.example")
    port = free_port()
    prepare_tracking()
    with running(mlflow_command(port), f"http://127.0.0.1:{port}", prepare_home()) as address:
        search = f"{address}/api/2.0/mlflow/experiments/search"

        def status(**headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return requests.post(search, json={"max_results": 1}, headers=named, timeout=60).status_code

        assert status() == 200
        assert status(Origin=address) == 200
        for name in ("ml.vad.example", "ml.vad.example:8443"):
            assert status(Host=name, Origin="https://ml.vad.example") == 200
        for host in ("evil.example", "127.0.0.1.evil.example", f"127.0.0.1:{port + 1}", "10.0.0.1", "vad.example"):
            assert status(Host=host) == 403
        for origin in ("http://evil.example", "null", "https://evil.vad.example", "http://ml.vad.example"):
            assert status(Origin=origin) == 403
        framed = requests.get(address, timeout=60)
        assert framed.status_code == 200
        assert framed.headers["x-frame-options"] == "SAMEORIGIN"
        jobs = requests.get(f"{address}/ajax-api/3.0/jobs/1", timeout=60)
        assert jobs.status_code >= 400
