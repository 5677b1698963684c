"""A home as a storm finds it: lines with two registered versions of a real model each, one of them serving.

Run as a process of its own (``python -m benchmarks.storm.template HOME LINE...``), so that torch is loaded once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FACTS = "storm.json"
"""Label of each version -> its threshold."""
IMAGE_SIDE = 64
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
              img_size: [64, 64]
              batch_size: 16
              model_parameters: {patchcore_backbone: resnet18, patchcore_coreset_sampling_ratio: 0.05}
operation:
    settle_seconds: 1.0
    max_batch_images: 100
"""


def environment_of(home: Path, database_url: str | None = None) -> dict[str, str]:
    """Return the environment of all processes that work on a home."""
    repository = Path(__file__).resolve().parents[2]
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI")},
        "VAD_HOME": str(home),
        "PYTHONPATH": str(repository),
        "OMP_NUM_THREADS": "1",
        "VAD_RESULT_FILES": "1",
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
    }
    if database_url:
        environment["VAD_INSPECTION_DB"] = database_url
    if not environment.get("VAD_WEIGHTS"):
        environment["VAD_ALLOW_RANDOM_WEIGHTS"] = "1"
    return environment


def make_template(scratch: Path, lines: Sequence[str]) -> Path:
    """Return a home to copy. What MLflow notes is absolute, so it is made where the copies will stand."""
    home, template = scratch / "home", scratch / "template"
    if template.is_dir():
        return template
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-m", "benchmarks.storm.template", str(home), *lines], env=environment_of(home), check=True
    )
    home.rename(template)
    return template


def thresholds_of(home: Path) -> dict[str, float]:
    """Return the threshold of each version by label."""
    found: dict[str, float] = json.loads((home / FACTS).read_text())
    return found


def _main(home_folder: str, *names: str) -> None:
    import dagster as dg
    import torch

    from vad_dagster.home import prepare_home
    from vad_dagster.partitions import LINES_PARTITION
    from vad_dagster.registry import LineRegistry
    from vad_dagster.resources import MLflowTracking
    from vad_dagster.sensors.serving import Serving, record_move
    from vad_lib.lines import PLAN_FILE, Home

    torch.set_num_threads(2)
    home = Home(Path(home_folder))
    os.environ.update(prepare_home(home))
    folders = [home.root / "models" / name for name in ("a", "b")]
    thresholds = _fit(folders)
    tracking = MLflowTracking()
    facts = {}
    for name in names:
        line = home.line(name)
        line.inbox.mkdir(parents=True)
        (line.folder / PLAN_FILE).write_text(PLAN, encoding="utf-8")
        registry = LineRegistry(tracking, name)
        for folder, threshold in zip(folders, thresholds, strict=True):
            with tracking.run(name) as run:
                version = registry.register(folder, run_id=run.run_id, tags={}, description="", example_image=None)
            facts[version.label] = threshold
        record_move(Serving(name, "", registry.promote(registry.version(1), by="the storm").number))
    (home.root / FACTS).write_text(json.dumps(facts))
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(LINES_PARTITION, list(names))


def _fit(folders: Sequence[Path]) -> list[float]:
    """Fit one small PatchCore and save it with two thresholds."""
    import numpy as np
    import torch
    from PIL import Image

    from vad_lib.detectors.images import ImageDataset
    from vad_lib.detectors.registry import create_detector
    from vad_lib.models import InspectionModel, ModelInfo
    from vad_lib.plan.arguments import TrainArguments
    from vad_lib.preprocessing import Preprocessing
    from vad_lib.synthetic import make_demo_line
    from vad_lib.thresholds import learn_calibration, learn_threshold

    data = folders[0].parent / "data"
    make_demo_line(data, train_normal=24, valid_normal=4, valid_of_each_kind=1, side=IMAGE_SIDE)
    files = sorted((data / "train").rglob("*.png"))[:24]
    preprocessing = Preprocessing((IMAGE_SIDE, IMAGE_SIDE))
    detector = create_detector(
        TrainArguments(
            model_name="patchcore",
            img_size=(IMAGE_SIDE, IMAGE_SIDE),
            model_parameters={"patchcore_backbone": "resnet18", "patchcore_coreset_sampling_ratio": 0.05},
        )
    )
    detector.fit(ImageDataset(files, preprocessing, shapes=[(IMAGE_SIDE, IMAGE_SIDE)] * len(files)))
    pixels = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    scores = np.asarray(detector.score(torch.stack([preprocessing.prepare(each) for each in pixels])).scores, float)
    normal = np.zeros(len(scores), dtype=bool)
    values = []
    for folder, quantile in zip(folders, (0.5, 0.9), strict=True):
        threshold = learn_threshold(scores, normal, "Percentile", quantile)
        calibration = learn_calibration(scores, normal, threshold)
        info = ModelInfo(model_name="patchcore", ok_class="good", n_train=len(files), backbone={}, arguments={})
        InspectionModel(detector, preprocessing, threshold, calibration, info).save(folder)
        values.append(threshold.value)
    return values


if __name__ == "__main__":
    _main(*sys.argv[1:])
