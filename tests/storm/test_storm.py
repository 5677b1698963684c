"""Images land while processes are killed and the disk of the database fills up: nothing is lost or done twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def _storm(*words: str, seconds: float) -> str:
    """Run a storm in a process of its own, as it mounts a small disk; what it printed names the seed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VAD_HOME", "DAGSTER_"))}
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.storm", *words],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert answer.returncode == 0, f"{answer.stdout}\n{answer.stderr[-4000:]}"
    return answer.stdout


@pytest.mark.spec("V9.05")
def test_a_small_storm_passes() -> None:
    assert "1 of 1 storms passed" in _storm("--small", "--seed", "1", seconds=200)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_small_storms_of_20_seeds_pass() -> None:
    assert "20 of 20 storms passed" in _storm("--small", "--seed", "100", "--seeds", "20", seconds=2900)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.spec("V9.05")
def test_a_storm_over_the_real_processes_passes(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAD_WEIGHTS", str(shared_data / "weights"))
    assert "1 of 1 storms passed" in _storm("--seed", "1", seconds=1100)
