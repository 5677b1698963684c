"""A small training and a small inspection, with real files and a stand-in for the detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vad_lib.artifacts import InspectionRecord, TrainingRecord
from vad_lib.ground_truth import read_input
from vad_lib.heatmaps import HeatmapScale
from vad_lib.plan.arguments import InputArguments, ReadinessArguments, TrainArguments
from vad_lib.readiness import prepare_inference_data, prepare_training_data
from vad_lib.thresholds import DecisionRule, LearningRule, LearntThreshold, learn_calibration, learn_threshold

SCALE = HeatmapScale(low=0.0, high=8.0, contour=3.5)


def write_images(folder: Path, paths: list[str], seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(file)


def maps_for(rows: pd.DataFrame) -> Iterator[tuple[int, np.ndarray]]:
    """One map a row with a bright spot as high as its score."""
    for row in rows.to_dict("records"):
        one = np.zeros((12, 16), np.float32)
        one[4:7, 5:9] = row["raw_score"]
        yield int(row["row"]), one


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from vad_lib.detectors.storage import write_model_folder

    folder = tmp_path_factory.mktemp("model")
    write_model_folder(folder, {"bank": torch.arange(6.0).reshape(2, 3)}, {"model_name": "patchcore", "größe": [1, 2]})
    return folder


MakeTraining = Callable[..., TrainingRecord]


@pytest.fixture
def make_training(tmp_path: Path, model_folder: Path) -> MakeTraining:
    def make(
        valid: list[tuple[str, str, float]] | None = None, *, model_name: str = "patchcore", extra: str = ""
    ) -> TrainingRecord:
        """Make a training whose validation rows are (path, label, raw score)."""
        if valid is None:
            valid = [
                ("good/v0.png", "good", 1.0),
                ("good/v1.png", "good", 1.2),
                ("good/v2.png", "good", 6.0),  # a false alarm
                ("bad/v0.png", "scratch", 5.0),
                ("bad/v1.jpg", "scratch", 7.0),
                ("bad/v2.png", "hole", 8.0),
                ("bad/v3.png", "hole", 0.2),  # a miss
            ]
        data = tmp_path / "data"
        train = [f"good/t{number}.png" for number in range(6)]
        write_images(data, [*train, *(path for path, _, _ in valid)])
        table = pd.DataFrame(
            [(path, "good", "train", f"lot {n}") for n, path in enumerate(train)]
            + [(path, label, "valid", "=1+1") for path, label, _ in valid],
            columns=["image_path", "label", "phase", extra or "lot"],
        )
        table.to_csv(data / "train.csv", index=False)
        arguments = TrainArguments(model_name=model_name)  # type: ignore[arg-type]
        dataset = prepare_training_data(
            read_input(data, InputArguments(), pipeline="train"),
            ReadinessArguments(
                ok_class="good", train_validate_column="phase", num_minor_threshold=0, ratio_minor_threshold=0
            ),
            arguments,
        )
        raw = {path: score for path, _, score in valid}
        rows = dataset.valid_rows
        scores = rows[["row", "image_path", "file", "label", "is_anomalous"]].assign(
            raw_score=[raw[path] for path in rows["image_path"]]
        )
        learnt = LearntThreshold.learn(scores, LearningRule(method=dataset.threshold_method))
        return TrainingRecord(
            dataset=dataset,
            train=arguments,
            rows=learnt.judged(scores),
            learnt=learnt,
            model_folder=model_folder,
            heatmap_scale=SCALE,
            weights={"name": "resnet18", "source": "store", "sha256": "ab" * 32},
            epochs=[{"number": 1, "loss": 3.25, "best": True}],
            facts={"line": "bottles", "seconds": 75.0, "model_version": "4"},
        )

    return make


MakeInspection = Callable[..., InspectionRecord]


@pytest.fixture
def make_inspection(tmp_path: Path) -> MakeInspection:
    def make(
        rows: list[tuple[str, float]], *, labels: list[str] | None = None, broken: tuple[str, ...] = ()
    ) -> InspectionRecord:
        """Make an inspection of (path, raw score); p is 0.5 at 4."""
        data = tmp_path / "inspected"
        write_images(data, [path for path, _ in rows], seed=1)
        for path in broken:
            (data / path).write_bytes((data / path).read_bytes()[:200] if (data / path).exists() else b"")
        if labels is not None:
            pd.DataFrame({"image_path": [path for path, _ in rows], "label": labels}).to_csv(
                data / "gt.csv", index=False
            )
        dataset = prepare_inference_data(
            read_input(data, InputArguments(), pipeline="inference"), "good" if labels is not None else None
        )
        raw = dict(rows)
        used = dataset.rows
        scores = np.array([raw[path.removeprefix("./")] for path in used["image_path"]])
        threshold = learn_threshold([0, 2, 6, 8], [False, False, True, True])
        rule = DecisionRule(learn_calibration([0, 2, 6, 8], [False, False, True, True], threshold))
        columns = ["row", "image_path", "file", "sha256", "label", "is_anomalous"]
        predictions = used[columns].assign(raw_score=scores, **rule.judge(scores)._asdict())
        return InspectionRecord(
            dataset=dataset, predictions=predictions, model_name="patchcore", version="4", heatmap_scale=SCALE
        )

    return make
