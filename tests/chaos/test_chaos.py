"""Images arrive while processes are killed and the database fails: nothing is lost or done twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def _chaos(*words: str, seconds: float) -> str:
    """Run a chaos test in a process of its own, as it mounts a small disk; what it printed names the seed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VAD_HOME", "DAGSTER_"))}
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *words],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert answer.returncode == 0, f"{answer.stdout}\n{answer.stderr[-4000:]}"
    return answer.stdout


@pytest.fixture(scope="module")
def _needs_postgresql(postgres: object) -> None:
    """The chaos test starts a server of its own."""


@pytest.mark.spec("V9.05", "Q1.05")
def test_a_small_chaos_test_passes() -> None:
    assert "1 of 1 chaos tests passed" in _chaos("--small", "--seed", "1", seconds=250)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_small_chaos_tests_of_20_seeds_pass() -> None:
    assert "20 of 20 chaos tests passed" in _chaos("--small", "--seed", "100", "--seeds", "20", seconds=2900)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("_needs_postgresql")
def test_small_chaos_tests_on_a_database_server_that_crashes_pass() -> None:
    printed = _chaos("--small", "--database", "postgresql", "--seed", "1", "--seeds", "5", seconds=1100)
    assert "5 of 5 chaos tests passed" in printed


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("_needs_postgresql")
@pytest.mark.spec("Q1.14")
def test_two_machines_that_share_one_queue_decide_each_image_once_though_their_services_are_killed() -> None:
    assert "1 of 1 chaos tests passed" in _chaos("--machines", "2", "--seed", "1", seconds=1100)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.spec("V9.05")
def test_a_chaos_test_over_the_real_processes_passes(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAD_WEIGHTS", str(shared_data / "weights"))
    assert "1 of 1 chaos tests passed" in _chaos("--seed", "1", seconds=1700)
