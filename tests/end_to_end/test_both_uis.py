"""``vad dev``: both pages and the scorer come up, and one Ctrl-C ends everything."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from real_processes import Place, free_ports, wait_for

from vad_dagster.cli.development import answers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_both_uis_and_the_scorer_come_up_and_one_ctrl_c_stops_all(place: Place, tmp_path: Path) -> None:
    dagster, mlflow, scorer = free_ports(3)
    ports = ["--port", str(dagster), "--mlflow-port", str(mlflow), "--scorer-port", str(scorer)]
    command = [sys.executable, "-m", "vad_dagster.cli.app", "dev", *ports]
    log = tmp_path / "dev.log"
    process = place.start(command, log)
    try:
        for port in (dagster, mlflow, scorer):
            wait_for(lambda port=port: answers(f"http://127.0.0.1:{port}"), 300, f"answer: {log.read_text()[-3000:]}")
        # the one that can be done without may die
        (serving,) = place.numbers_of("vad serve")
        os.kill(serving, signal.SIGKILL)
        wait_for(lambda: "runs inspect what lands" in log.read_text().replace("\n", " "), 30, "word about the scorer")
        assert answers(f"http://127.0.0.1:{dagster}")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()[-3000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    wait_for(lambda: place.processes() == [], 60, "end of all processes")
    assert not answers(f"http://127.0.0.1:{dagster}")


def test_a_taken_port_is_told_with_the_option_that_helps(place: Place, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        log = tmp_path / "dev.log"
        port = str(taken.getsockname()[1])
        process = place.start([sys.executable, "-m", "vad_dagster.cli.app", "dev", "--port", port], log)
        assert process.wait(60) == 1
    assert "--port" in log.read_text()
