"""Homes with lines that can be inspected at once: a model registered in MLflow, and the champion's record."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
FACTS = "versions.json"
"""Label of each version -> its threshold."""
PLAN = """
external_path:
    - load_train_data_path: ./train/
user_parameters:
    - train_pipeline:
        - step: readiness
          args:
            - ok_class: good
              train_validate_column: train_val_split
        - step: train
          args:
            - model_name: patchcore
              img_size: [{side}, {side}]
              model_parameters: {{patchcore_backbone: resnet18, patchcore_coreset_sampling_ratio: {sampling_ratio}}}
operation: {{settle_seconds: {settle_seconds}, max_batch_images: {max_batch_images}}}
"""


def write_plan(
    file: Path, *, side: int, sampling_ratio: float, settle_seconds: float = 2.0, max_batch_images: int = 256
) -> Path:
    """Write the plan of a line with PatchCore on resnet18."""
    text = PLAN.format(
        side=side,
        sampling_ratio=sampling_ratio,
        settle_seconds=settle_seconds,
        max_batch_images=max_batch_images,
    )
    file.write_text(text, encoding="utf-8")
    return file


def environment_of(
    home: Path, database_url: str | None = None, *, checkout: Path = REPOSITORY, **more: str
) -> dict[str, str]:
    """Return the environment of all processes that work on a home with the code of a checkout."""
    dropped = ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "VAD_INSPECTION_DB")
    environment = {
        **{name: value for name, value in os.environ.items() if name not in dropped},
        "VAD_HOME": str(home),
        "PYTHONPATH": str(checkout),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
        **more,
    }
    if database_url:
        environment["VAD_INSPECTION_DB"] = database_url
    if not environment.get("VAD_WEIGHTS"):
        environment["VAD_ALLOW_RANDOM_WEIGHTS"] = "1"
    return environment


def fill_home(home: Path, lines: Sequence[str], models: Sequence[Path], plan: str) -> None:
    """Make lines with a plan, and register each model as a version of each line; the first version serves."""
    import dagster as dg

    from vad_dagster.home import prepare_home
    from vad_dagster.partitions import LINES_PARTITION
    from vad_dagster.registry import LineRegistry
    from vad_dagster.resources import MLflowTracking
    from vad_dagster.sensors.serving import Serving, record_move
    from vad_lib.lines import PLAN_FILE, Home
    from vad_lib.models import InspectionModel

    os.environ.update(prepare_home(Home(home)))
    tracking = MLflowTracking()
    facts = {}
    thresholds = [InspectionModel.load(folder).threshold.value for folder in models]
    for name in lines:
        line = Home(home).line(name)
        line.inbox.mkdir(parents=True)
        (line.folder / PLAN_FILE).write_text(plan, encoding="utf-8")
        registry = LineRegistry(tracking, name)
        for folder, threshold in zip(models, thresholds, strict=True):
            with tracking.run(name) as run:
                version = registry.register(folder, run_id=run.run_id, tags={}, description="", example_image=None)
            facts[version.label] = threshold
        record_move(Serving(name, "", registry.promote(registry.version(1), by="the benchmark").number))
    (home / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(LINES_PARTITION, list(lines))


def fit_patchcore(
    files: Sequence[Path], folders: Sequence[Path], *, side: int, sampling_ratio: float, quantiles: Sequence[float]
) -> None:
    """Fit one PatchCore on resnet18 and save it into each folder, with a threshold at another quantile in each."""
    import numpy as np
    import torch
    from PIL import Image

    from vad_lib.detectors.images import ImageDataset
    from vad_lib.models import InspectionModel, ModelInfo
    from vad_lib.plan.arguments import TrainArguments
    from vad_lib.preprocessing import Preprocessing
    from vad_lib.thresholds import LearningRule, learn_calibration, learn_threshold
    from vad_lib.training import create_detector

    parameters: dict[str, Any] = {
        "patchcore_backbone": "resnet18",
        "patchcore_coreset_sampling_ratio": sampling_ratio,
    }
    preprocessing = Preprocessing((side, side))
    detector = create_detector(
        TrainArguments(model_name="patchcore", img_size=(side, side), model_parameters=parameters)
    )
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    detector.fit(ImageDataset(list(files), preprocessing, shapes=[each.shape[:2] for each in pictures]))
    sample = torch.stack([preprocessing.prepare(each) for each in pictures[:10]])
    scores = np.asarray(detector.score(sample).scores, dtype=float)
    normal = np.zeros(len(scores), dtype=bool)
    info = ModelInfo(model_name="patchcore", ok_class="good", n_train=len(files), backbone={}, arguments={})
    for folder, quantile in zip(folders, quantiles, strict=True):
        threshold = learn_threshold(scores, normal, LearningRule(method="Percentile", percentile=quantile))
        calibration = learn_calibration(scores, normal, threshold)
        InspectionModel(detector, preprocessing, threshold, calibration, info).save(folder)


def call(task: str, environment: dict[str, str], *words: object) -> None:
    """Run one of the functions below in a process of its own, so that torch is not loaded in this one.

    The code is that of the checkout that ``environment`` names.
    """
    command = [sys.executable, "-m", "benchmarks.homes", task, *map(str, words)]
    subprocess.run(command, env=environment, cwd=environment["PYTHONPATH"], check=True)


def _small_models(folder: str) -> None:
    """``folder/a`` and ``folder/b``: a PatchCore at 64 px on drawn images, with two thresholds."""
    from vad_lib.synthetic import make_demo_line

    place = Path(folder)
    make_demo_line(place / "data", train_normal=24, valid_normal=4, valid_of_each_kind=1, side=64)
    files = sorted((place / "data" / "train").rglob("*.png"))[:24]
    fit_patchcore(files, [place / "a", place / "b"], side=64, sampling_ratio=0.05, quantiles=(0.5, 0.9))
    shutil.rmtree(place / "data")


def _bottle_model(data: str, folder: str) -> None:
    """A PatchCore at 256 px on 40 normal bottles."""
    files = sorted((Path(data) / "mvtec_bottle" / "train" / "good").glob("*.*"))[:40]
    fit_patchcore(files, [Path(folder)], side=256, sampling_ratio=0.01, quantiles=(0.8,))


def _home(home: str, plan_file: str, lines: str, *models: str) -> None:
    fill_home(Path(home), lines.split(","), [Path(model) for model in models], Path(plan_file).read_text())


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    what, *given = sys.argv[1:]
    {"small-models": _small_models, "bottle-model": _bottle_model, "home": _home}[what](*given)
