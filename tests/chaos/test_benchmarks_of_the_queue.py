"""The benchmarks of the queue measure what they say, at their smallest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def _run(module: str, *words: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=250
    )
    assert answer.returncode == 0, f"{answer.stdout}\n{answer.stderr[-4000:]}"
    return answer.stdout


@pytest.mark.usefixtures("postgres")
def test_each_micro_batch_of_the_queue_takes_three_transactions_that_write(tmp_path: Path) -> None:
    words = ("--writers", "2", "--lines", "1", "--network", "0", "--seconds", "3", "--rounds", "1")
    _run("benchmarks.queue_throughput", *words, "--json", str(tmp_path / "found.json"))
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert row["batches_per_second"] > 0
    assert row["transactions_per_batch"] == pytest.approx(3.0, abs=0.2)


def test_a_look_at_a_folder_of_known_files_finds_nothing_new(tmp_path: Path) -> None:
    printed = _run("benchmarks.burst", "--only", "look", "--seen", "200", "--json", str(tmp_path / "found.json"))
    assert "200 files that have been inspected" in printed
    assert json.loads((tmp_path / "found.json").read_text())["look"]["files"] == 200
