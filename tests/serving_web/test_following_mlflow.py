"""Champions from a real registry, and the command ``vad serve`` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from serving_rig import until

from vad_dagster.registry import CHAMPION, LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_dagster.service.champions import ChampionSource, validation_images
from vad_lib.detectors.storage import description_text
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home, Line
from vad_lib.plan import write_plan_for_folder
from vad_lib.serving import Sinks

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def line(vad_home: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """A line with a plan and six photographs, in a home of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("VAD_INSPECTION_DB", raising=False)
    line = Home(vad_home).line("gravel")
    line.inbox.mkdir(parents=True)
    for number in range(6):
        _photograph(line.folder / "images" / "good" / f"{number}.png", number)
    write_plan_for_folder(line.folder / "images", line.plan_file)
    return line


def _photograph(file: Path, number: int) -> Path:
    from skimage.data import gravel

    row, column = divmod(number, 12)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(gravel()[row * 30 : row * 30 + 64, column * 36 : column * 36 + 64]).convert("RGB").save(file)
    return file


def _register(line: Line, model_folder: Path) -> str:
    tracking = MLflowTracking()
    with tracking.run(line.name, name="test") as run:
        registry = LineRegistry(tracking, line.name)
        made = registry.register(model_folder, run_id=run.run_id, tags={}, description="x", example_image=None)
    return made.number


def _move_alias(line: Line, number: str) -> None:
    """As a person does in MLflow's page."""
    MLflowTracking().connect().set_registered_model_alias(f"vad-{line.name}", CHAMPION, number)


@pytest.mark.spec("S1.03")
def test_an_alias_that_a_person_moves_is_seen_and_an_idle_registry_is_not_asked(line: Line, tmp_path: Path) -> None:
    folder = tmp_path / "inspection_model"
    folder.mkdir()
    (folder / "detector.json").write_text(description_text({}))
    source = ChampionSource(Home.from_environment(), sinks=Sinks("http://x/{line}", "key", True))
    assert source.watched()[line.name].model_version == ""
    first, second = _register(line, folder), _register(line, folder)
    _move_alias(line, first)
    found = source.watched()[line.name]
    assert found.model_version == f"vad-gravel/{first}"
    assert found.folder == line.inbox
    assert found.sinks.names == ("webhook", "file")
    asked = source._asked
    assert source.watched()[line.name] is found
    assert source._asked == asked
    _move_alias(line, second)
    assert source.watched()[line.name].model_version == f"vad-gravel/{second}"


def test_a_plan_that_becomes_faulty_leaves_the_line_as_it_was(line: Line) -> None:
    source = ChampionSource(Home.from_environment())
    before = source.watched()[line.name]
    line.plan_file.write_text("no: plan")
    assert source.watched()[line.name] == before
    assert ChampionSource(Home.from_environment()).watched() == {}


@pytest.mark.parametrize("content", ['{"format_version": 99}', "cut o"])
def test_validation_rows_that_cannot_be_read_keep_no_model_from_serving(
    line: Line, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = line.store / "validated_dataset"
    store.mkdir(parents=True)
    (store / "dataset.json").write_text(content)
    assert validation_images(line) == []
    assert "the validation rows cannot be read" in caplog.text


def _train(line: Line, folder: Path, quantile: float) -> None:
    from vad_lib.detectors.images import ImageDataset
    from vad_lib.heatmaps import HeatmapScale
    from vad_lib.models import InspectionModel, ModelInfo
    from vad_lib.plan.arguments import TrainArguments
    from vad_lib.preprocessing import Preprocessing
    from vad_lib.thresholds import LearningRule, learn_calibration, learn_threshold
    from vad_lib.training import create_detector

    preprocessing = Preprocessing((64, 64))
    files = sorted((line.folder / "images" / "good").iterdir())
    detector = create_detector(
        TrainArguments(
            model_name="patchcore",
            img_size=(64, 64),
            model_parameters={
                "patchcore_backbone": "resnet18",
                "patchcore_layers": ["layer1", "layer2"],
                "patchcore_coreset_sampling_ratio": 0.1,
            },
        )
    )
    detector.fit(ImageDataset(files, preprocessing, shapes=[(64, 64)] * len(files)))
    import torch

    pixels = [np.asarray(Image.open(file)) for file in files]
    scores = np.asarray(
        detector.score(torch.stack([preprocessing.prepare(image) for image in pixels])).scores, dtype=float
    )
    normal = np.zeros(len(scores), dtype=bool)
    threshold = learn_threshold(scores, normal, LearningRule(method="Percentile", percentile=quantile))
    calibration = learn_calibration(scores, normal, threshold)
    info = ModelInfo(model_name="patchcore", ok_class="good", n_train=len(files), backbone={}, arguments={})
    scale = HeatmapScale(low=0.0, high=255.0, contour=128.0)
    InspectionModel(detector, preprocessing, threshold, calibration, info, scale).save(folder)


@pytest.mark.slow
@pytest.mark.spec("S1.03")
def test_serve_scores_what_arrives_follows_a_moved_alias_and_ends_in_good_order(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_ALLOW_RANDOM_WEIGHTS", "1")
    numbers = []
    for quantile in (0.9, 0.5):
        folder = tmp_path / str(quantile) / "inspection_model"
        folder.parent.mkdir()
        _train(line, folder, quantile)
        numbers.append(_register(line, folder))
    _move_alias(line, numbers[0])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", "from vad_dagster.cli import app; app()", "serve", "--port", str(port)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "VAD_TOKEN": "secret"},
            stderr=stream,
        )
    try:
        address, token = f"http://127.0.0.1:{port}", {"Authorization": "Bearer secret"}

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return requests.get(f"{address}/ready", timeout=5).status_code == 200
            except requests.ConnectionError:
                return False

        until(ready, 120)
        db = InspectionDatabase.of(Home.from_environment())
        for number in range(6, 12):
            _photograph(line.inbox / f"{number}.png", number)
        until(lambda: db.count_predictions(line.name) == 6, 60)
        assert set(db.predictions(line.name)["model_version"]) == {f"vad-gravel/{numbers[0]}"}
        _move_alias(line, numbers[1])

        def follows() -> bool:
            (found,) = requests.get(f"{address}/lines", headers=token, timeout=5).json()
            return bool(found["warm"] == f"vad-gravel/{numbers[1]}")

        until(follows, 60)
        data = _photograph(tmp_path / "sent.png", 20).read_bytes()
        sent = requests.post(f"{address}/lines/gravel/images?seconds=30", data=data, headers=token, timeout=60)
        assert sent.status_code == 200
        assert sent.json()["model_version"] == f"vad-gravel/{numbers[1]}"
        heatmap = requests.get(
            f"{address}/lines/gravel/heatmaps/{sent.json()['sha256']}.png", headers=token, timeout=60
        )
        assert (heatmap.status_code, heatmap.content[:4]) == (200, b"\x89PNG")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM, 130)
        messages = [json.loads(row)["message"] for row in log.read_text().splitlines() if row.startswith("{")]
        assert {"a model is warm", "inspected"} <= set(messages)
        assert "secret" not in log.read_text()
    finally:
        process.kill()
        process.wait()
