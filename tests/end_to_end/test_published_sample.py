"""The published sample of the guide's tool, from its plan to both artifact trees."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from real_processes import Place, wait_for

from vad_lib.lines import Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.spec("V1.01", "V1.02", "V13.01", "V12.07", "V11.01", "V11.02", "V11.04", "V11.05", "V12.03", "V12.04")
@pytest.mark.parametrize("epochs", [1, None], ids=["one epoch", "unchanged"])
def test_the_sample_leaves_both_trees_whole(
    place: Place, shared_data: Path, tmp_path: Path, epochs: int | None
) -> None:
    """Unchanged means 15 epochs of FastFlow: a quarter of an hour on two idle cores."""
    plan = shared_data / "vad_sample" / "experimental_plan.yaml"
    if epochs is not None:
        (tmp_path / "sample_data").symlink_to(shared_data / "vad_sample" / "sample_data")
        text = plan.read_text(encoding="utf-8")
        line = "            - model_name: fastflow"
        assert line in text
        plan = tmp_path / "experimental_plan.yaml"
        plan.write_text(text.replace(line, f"            - max_epochs: {epochs}\n              model_name: fastflow"))
    place.vad("line", "add", "digits", "--plan", plan)
    trained = place.vad("train", "digits", seconds=3000)
    assert "pictures:" in trained
    inspected = place.vad("inspect", "digits")
    assert "results:" in inspected

    line = Home(place.home).line("digits")
    train, inference = line.train_artifacts, line.inference_artifacts
    for path in (
        "models/readiness/readiness_config.json",
        "models/train/train_config.json",
        "models/train/fastflow_model.ckpt",
        "models/train/best_model_path.json",
        "log/experimental_history.json",
        "log/pipeline.log",
        "log/process.log",
        "output/output.csv",
        "extra_output/train/threshold_test_result.csv",
        "extra_output/train/threshold_test_result.png",
        "output/validation_confusion_matrix.csv",
        "output/validation_classification_report.json",
        "output/validation_score.csv",
    ):
        assert (train / path).is_file(), path
    for path in ("log/experimental_history.json", "log/pipeline.log", "log/process.log", "output/output.csv"):
        assert (inference / path).is_file(), path
    summary = yaml.safe_load((inference / "score" / "inference_summary.yaml").read_text())
    assert {"result", "score", "date", "version"} <= set(summary)
    assert len((inference / "output" / "output.csv").read_text().splitlines()) == 1 + 20
    wait_for(lambda: place.processes() == [], 60, "end of all processes")
