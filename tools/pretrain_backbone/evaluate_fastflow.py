"""Trains FastFlow shortly with a backbone and tells its image AUROC.

``python -m tools.pretrain_backbone.evaluate_fastflow``. The same pictures of 224 px as PatchCore is measured on
(``benchmark_sets``), which FastFlow takes at 256 x 256. The epoch of the least training loss counts, so the pictures
to score choose nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from tools.pretrain_backbone.benchmark_sets import SIZE, benchmark_sets
from vad_lib.detectors.fastflow.detector import FastFlow
from vad_lib.detectors.images import ImageDataset
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.preprocessing import Preprocessing


def _dataset(pictures: np.ndarray, folder: Path) -> ImageDataset:
    folder.mkdir()
    files = [folder / f"{number:04d}.png" for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        cv2.imwrite(str(file), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return ImageDataset(files, Preprocessing((256, 256)), shapes=[(SIZE, SIZE)] * len(files))


def main() -> None:
    """Print a row of JSON: set, backbone, epochs, image AUROC, seconds of the fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vadnet10", help="a name that the weights store or the package knows")
    parser.add_argument("--set", default="mvtec_bottle")
    parser.add_argument("--part", choices=("A", "B"), default="B")
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    (images,) = benchmark_sets(arguments.part, [arguments.set])
    weights = resolve_backbone_weights(arguments.backbone)
    with tempfile.TemporaryDirectory() as folder:
        train = _dataset(images.train, Path(folder) / "train")
        test = _dataset(images.test, Path(folder) / "test")
        detector = FastFlow(weights, max_epochs=arguments.epochs, batch_size=8, monitor_metric="loss", seed=0)
        start = time.perf_counter()
        detector.fit(train)
        seconds = time.perf_counter() - start
        scores = np.zeros(len(images.test))
        for batch in test.batches(8):
            scores[np.asarray(batch.indices)] = np.asarray(detector.score(batch.images).scores)
    auroc = float(roc_auc_score(images.is_anomalous, scores))
    row = {"set": images.name, "detector": "fastflow", "backbone": weights.name, "epochs": arguments.epochs}
    print(json.dumps({**row, "image_auroc": round(auroc, 3), "fit_seconds": round(seconds)}))


if __name__ == "__main__":
    main()
