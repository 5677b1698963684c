"""``vad dev``: all servers come up, what dies comes back, and one Ctrl-C ends everything."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from real_processes import Place, free_ports, wait_for

from vad_dagster.cli.supervisor import answers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_all_come_up_what_dies_comes_back_and_one_ctrl_c_stops_all(place: Place, tmp_path: Path) -> None:
    dagster, mlflow, service = free_ports(3)
    ports = ["--port", str(dagster), "--mlflow-port", str(mlflow), "--service-port", str(service)]
    log = tmp_path / "dev.log"
    process = place.start([sys.executable, "-m", "vad_dagster.cli.app", "dev", *ports], log)

    def words() -> str:
        return log.read_text().replace("\n", " ")

    try:
        wait_for(lambda: "Ctrl-C stops everything" in words(), 300, f"addresses: {log.read_text()[-3000:]}")
        for port in (dagster, mlflow, service):
            assert answers(f"http://127.0.0.1:{port}")
        # the addresses come last, after at most a line or two
        assert len(log.read_text().splitlines()) < 12, log.read_text()
        served = place.numbers_of("mlflow server")
        for number in served:
            os.kill(number, signal.SIGKILL)
        wait_for(lambda: "MLflow has ended by itself" in words(), 60, "word about MLflow")
        assert process.poll() is None
        assert answers(f"http://127.0.0.1:{dagster}")
        wait_for(lambda: answers(f"http://127.0.0.1:{mlflow}"), 120, "answer of the new MLflow")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()[-3000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    wait_for(lambda: place.processes() == [], 60, "end of all processes")
    assert not answers(f"http://127.0.0.1:{dagster}")


def test_a_given_server_of_mlflow_is_used_and_none_is_started(place: Place, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    place.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9/"
    log = tmp_path / "dev.log"
    with place.development("--no-service", "--port", port, log=log):
        wait_for(lambda: "Ctrl-C stops everything" in log.read_text(), 300, "addresses")
        assert not place.numbers_of("mlflow server")
    assert "http://127.0.0.1:9/#/models" in log.read_text()


def test_a_taken_port_is_told_with_the_option_that_helps(place: Place, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        log = tmp_path / "dev.log"
        port = str(taken.getsockname()[1])
        process = place.start([sys.executable, "-m", "vad_dagster.cli.app", "dev", "--port", port], log)
        assert process.wait(60) == 1
    assert "--port" in log.read_text()
