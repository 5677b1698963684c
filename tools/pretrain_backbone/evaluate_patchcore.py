"""Compares backbones under the PatchCore that lines use, on image sets as a whole: a table in markdown.

``python -m tools.pretrain_backbone.evaluate_patchcore --sizes 256 320 --seeds 42 0 1``. All normal training images are
fitted on and all test images scored, the files as they are (``benchmark_sets`` scales them to 224 px first); nothing is
chosen by it. Other weights of ``vadnet10`` than those that ship are measured by ``--weights FILE``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from tools.pretrain_backbone.benchmark_sets import data_folder
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.encoders.store import sha256_of
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.preprocessing import Preprocessing


def image_scores(weights: BackboneWeights, folder: Path, size: int, ratio: float, seed: int) -> dict[str, np.ndarray]:
    """Fit on ``train/good`` and return the raw scores of the images of each folder of ``test``, by kind."""

    def dataset(files: list[Path]) -> ImageDataset:
        return ImageDataset(files, Preprocessing((size, size)), shapes=[(size, size)] * len(files))

    detector = PatchCore(weights, coreset_sampling_ratio=ratio, seed=seed)
    detector.fit(dataset(sorted((folder / "train" / "good").iterdir())))
    found = {}
    for kind in sorted((folder / "test").iterdir()):
        images = dataset(sorted(kind.iterdir()))
        scores = np.full(len(images), np.nan)
        for batch in images.batches(8):
            scores[batch.indices] = detector.score(batch.images, with_maps=False).scores
        found[kind.name] = scores
    return found


def image_auroc(scores: dict[str, np.ndarray], kinds: list[str]) -> float:
    """Area under the ROC curve of the normal images against those of ``kinds``."""
    anomalous = np.concatenate([scores[kind] for kind in kinds])
    labels = np.r_[np.zeros(len(scores["good"])), np.ones(len(anomalous))]
    return float(roc_auc_score(labels, np.r_[scores["good"], anomalous]))


def main() -> None:
    """Print a row for each set, size and backbone: means over the seeds, and the least."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["mvtec_bottle", "magnetic_tile"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 320], help="pixels of a side")
    parser.add_argument("--ratio", type=float, default=0.01, help="coreset ratio")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--backbones", nargs="+", default=["vadnet10", "resnet18"])
    parser.add_argument("--weights", type=Path, help="of vadnet10, instead of those that ship")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"PatchCore, coreset {given.ratio:.0%}, seeds {', '.join(map(str, given.seeds))}\n")
    print(
        "| set | pixels of a side | backbone | image AUROC | least of the seeds | by kind |\n|---|--:|---|--:|--:|---|"
    )
    for name in given.sets:
        for size in given.sizes:
            for backbone in given.backbones:
                weights = resolve_backbone_weights(backbone, data_folder() / "weights")
                if given.weights and backbone == "vadnet10":
                    weights = BackboneWeights(
                        backbone, given.weights, "plan", sha256_of(given.weights), asked_for=backbone
                    )
                runs = [image_scores(weights, data_folder() / name, size, given.ratio, seed) for seed in given.seeds]
                kinds = [kind for kind in runs[0] if kind != "good"]
                areas = [image_auroc(run, kinds) for run in runs]
                by_kind = (
                    f"{kind.replace('_', ' ')} {np.mean([image_auroc(run, [kind]) for run in runs]):.3f}"
                    for kind in kinds
                )
                print(
                    f"| {name.replace('_', ' ')} | {size} | {backbone} ({weights.source}) | {np.mean(areas):.4f} "
                    f"| {min(areas):.4f} | {', '.join(by_kind)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
