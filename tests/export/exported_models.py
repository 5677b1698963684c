"""Models fitted on real bottles, small enough for a test, and exported folders run where nothing of ours is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vad_lib.detectors.fastflow.detector import FastFlow
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.models import InspectionModel, ModelInfo
from vad_lib.preprocessing import ImageSize, Preprocessing
from vad_lib.thresholds import Calibration, Threshold

ALONE = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ImportError(name + " is not here")

sys.meta_path.insert(0, Absent())
sys.argv = {arguments!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NEEDED = {"onnx": "onnxruntime", "openvino": "openvino"}
OURS = [
    "vad_lib",
    "vad_dagster",
    "torch",
    "safetensors",
    "anomalib",
    "timm",
    "lightning",
    "torchvision",
    "pandas",
    "scipy",
    "sklearn",
]


def bottles(shared_data: Path) -> tuple[list[Path], list[Path]]:
    """Return training and test images."""
    folder = shared_data / "mvtec_bottle"
    return sorted((folder / "train" / "good").iterdir()), sorted((folder / "test").glob("*/*"))


def fitted_model(kind: str, weights: BackboneWeights, shared_data: Path, size: ImageSize) -> InspectionModel:
    """Return a model with a threshold in the middle of its scores of the test images."""
    train, test = bottles(shared_data)
    preprocessing = Preprocessing(size)
    shape = preprocessing.shape_for(320, 320)
    images = ImageDataset(train[:6], preprocessing, shapes=[shape] * 6)
    detector: Any
    if kind == "patchcore":
        detector = PatchCore(weights, coreset_sampling_ratio=0.2).fit(images)
    else:
        detector = FastFlow(weights, flow_steps=2, input_size=shape, max_epochs=2, monitor_metric="loss").fit(images)
    threshold = Threshold(value=0.0, method="chosen", n_normal=1, n_anomalous=1, rows_digest="0" * 64)
    info = ModelInfo(model_name=kind, ok_class="good", n_train=6, backbone={}, arguments={})
    model = InspectionModel(detector, preprocessing, threshold, Calibration(threshold=0.0, scale=1.0), info)
    raw = [result.raw_score for result in model.predict_files(test[::7])]
    value = float(np.median(np.array(raw, dtype=float)))
    moved = model.with_threshold(threshold.model_copy(update={"value": value}))
    moved.calibration = Calibration(threshold=value, scale=float(np.std(np.array(raw, dtype=float))))
    return moved


def score_alone(folder: Path, files: list[Path], work: Path, *options: str) -> list[dict[str, Any]]:
    """Run the folder's script in an isolated process, elsewhere, where only numpy, Pillow and one runtime exist."""
    runtime = json.loads((folder / "detector.json").read_text(encoding="utf-8"))["export"]["format"]
    absent = [*OURS, *(package for name, package in NEEDED.items() if name != runtime)]
    arguments = [str(folder / "score.py"), *map(str, files), *options]
    code = ALONE.format(absent=absent, arguments=arguments)
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=work, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
