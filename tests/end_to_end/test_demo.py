"""The demo, as a newcomer runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from real_processes import Place, wait_for

from vad_lib.lines import Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.spec("P1.06", "V4.17")
def test_the_demo_trains_both_models_inspects_a_drop_and_can_be_run_again(place: Place) -> None:
    if "VAD_ALLOW_RANDOM_WEIGHTS" in place.environment:
        pytest.skip("the demo never trains on random weights; set VAD_WEIGHTS to a folder with resnet18")
    first = place.vad("demo", seconds=1500)
    for model in ("fastflow", "patchcore"):
        row = next(line for line in first.splitlines() if re.match(rf"\s*{model}\s+│", line))
        auroc = float(row.split("│")[1])
        assert auroc > 0.8, row
    assert re.search(r"good\s+│\s+12 │", first)
    assert "refused: drop_001_brick" in first
    assert "dev --only dagster" in first
    assert "dev --only mlflow" in first
    heatmaps = Home(place.home).line("demo").train_artifacts / "extra_output" / "train" / "images"
    assert any(heatmaps.iterdir())
    wait_for(lambda: place.processes() == [], 60, "end of all processes")

    again = place.vad("demo", seconds=300)
    assert "trained already" in again
    assert "refused: drop_002_brick" in again
    wait_for(lambda: place.processes() == [], 60, "end of all processes")


def test_without_weights_the_demo_says_which_file_is_wanted_before_it_does_anything(
    place: Place, tmp_path: Path
) -> None:
    import subprocess
    import sys

    (tmp_path / "none").mkdir()
    environment = {name: value for name, value in place.environment.items() if name != "VAD_ALLOW_RANDOM_WEIGHTS"}
    environment |= {"VAD_WEIGHTS": str(tmp_path / "none"), "HF_HUB_OFFLINE": "1"}
    answer = subprocess.run(
        [sys.executable, "-m", "vad_dagster.cli.app", "demo"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    from vad_lib.encoders.fallback import fallback_backbone

    if fallback_backbone() is not None:
        pytest.skip("a fallback backbone is installed")
    assert answer.returncode == 1
    assert "resnet18" in answer.stderr
    assert "vad weights" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not Home(place.home).lines()
