"""The same code with a tracking server by URL, which keeps the artifacts itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from vad_dagster.home import NO_TELEMETRY, executable
from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.detectors.storage import description_text

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(executable("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"),
            *("--artifacts-destination", str(tmp_path / "artifacts")),
        ],
        env={**os.environ, **NO_TELEMETRY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
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
