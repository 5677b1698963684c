"""The heads on embeddings and zero-shot text on real sets: image AUROC with its interval, and milliseconds an image.

    python -m benchmarks.embedding_heads [--sets bottle,magnetic_tile,drawn] [--encoders resnet18,tf_efficientnet_lite0]
                                         [--heads clip_knn,…] [--train 100] [--test 150] [--size 224] [--data FOLDER]

Each encoder reads each image once on each level, and all heads share what it gave. The interval holds 95 % of 1,000
resamplings of the test images. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.real_data import add_data_argument
from vad_lib.comparison.running import dataset_of
from vad_lib.detectors.embedding.detector import EmbeddingDetector
from vad_lib.detectors.registry import registered
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import VadError
from vad_lib.plan import TrainArguments, model_parameters
from vad_lib.preprocessing import Preprocessing
from vad_lib.synthetic import make_demo_line
from vad_lib.training import create_detector

RESAMPLINGS = 1000
Files = tuple[list[Path], list[Path], list[bool]]


def files_of(name: str, data: Path, work: Path) -> Files:
    """Return training files, test files, and which of these are anomalous."""
    if name == "drawn":
        line = make_demo_line(work / "drawn")
        table = pd.read_csv(line.train_folder / "train.csv")
        table["file"] = [line.train_folder / path for path in table["image_path"]]
        train, valid = (table[table["train_val_split"] == split] for split in ("train", "valid"))
        return train["file"].tolist(), valid["file"].tolist(), (valid["label"] != "good").tolist()
    folder = data / {"bottle": "mvtec_bottle"}.get(name, name)
    test = sorted(file for file in folder.glob("test/*/*") if file.is_file())
    return sorted((folder / "train" / "good").iterdir()), test, [file.parent.name != "good" for file in test]


def some(files: list[Path], most: int) -> list[int]:
    """Return the places of at most ``most`` of the files, evenly spread."""
    return np.unique(np.linspace(0, len(files) - 1, min(most, len(files))).round().astype(int)).tolist()


def remembering(
    encode: Callable[[torch.Tensor], torch.Tensor], known: dict[bytes, torch.Tensor]
) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """Return a runner that encodes each image once."""

    def run(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        key = hashlib.sha256(image.numpy().tobytes()).digest()
        if key not in known:
            known[key] = encode(image)
        return (known[key],)

    return run


def interval(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles of the AUROC of resampled images."""
    draw, found = np.random.default_rng(0), []
    while len(found) < RESAMPLINGS:
        chosen = draw.integers(len(labels), size=len(labels))
        if 0 < labels[chosen].sum() < len(labels):
            found.append(roc_auc_score(labels[chosen], scores[chosen]))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def rows(options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Yield the rows of the table as they are measured."""
    preprocessing = Preprocessing((options.size, options.size))
    for name in options.sets.split(","):
        train, test, anomalous = files_of(name, options.data, work)
        train = [train[place] for place in some(train, options.train)]
        places = some(test, options.test)
        test, labels = [test[place] for place in places], np.array(anomalous)[places]
        for encoder in options.encoders.split(","):
            known: dict[bool, dict[bytes, torch.Tensor]] = {False: {}, True: {}}
            for head in options.heads.split(","):
                for level in (False, True):
                    detector = make(head, encoder, level)
                    if isinstance(detector, EmbeddingDetector) and len(detector.features.encoders) == 1:
                        detector.runner = remembering(detector.features, known[level])
                    start = time.perf_counter()
                    detector.fit(dataset_of(train, preprocessing))
                    fitted = time.perf_counter()
                    scores = np.zeros(len(test))
                    for batch in dataset_of(test, preprocessing).batches(4):
                        scores[batch.indices] = detector.score(batch.images, with_maps=False).scores
                    seconds = time.perf_counter() - fitted
                    low, high = interval(labels, scores)
                    yield (
                        f"| {name} | {encoder} | {head} | {'patches' if level else 'image'} "
                        f"| {roc_auc_score(labels, scores):.3f} | {low:.3f} to {high:.3f} "
                        f"| {len(train)} | {len(labels) - labels.sum()} + {labels.sum()} "
                        f"| {fitted - start:.1f} | {1000 * seconds / len(test):.0f} |"
                    )


def make(head: str, encoder: str, level: bool) -> EmbeddingDetector:
    """Return an unfitted detector."""
    own = {f"{head}_encoder": encoder, f"{head}_patch_level": level}
    if head == "clip_similarity":
        own["clip_similarity_second_encoder"] = ""
    detector = create_detector(TrainArguments(model_name=head, model_parameters=model_parameters(**own)))
    assert isinstance(detector, EmbeddingDetector)
    return detector


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    heads = [name for name, row in registered().items() if issubclass(row.load_class(), EmbeddingDetector)]
    parser.add_argument("--sets", default="bottle,magnetic_tile,drawn")
    parser.add_argument("--encoders", default="resnet18,tf_efficientnet_lite0")
    parser.add_argument("--heads", default=",".join(heads))
    parser.add_argument("--train", type=int, default=100, help="most training images of a set")
    parser.add_argument("--test", type=int, default=150, help="most test images of a set")
    parser.add_argument("--size", type=int, default=224)
    add_data_argument(parser)
    options = parser.parse_args()
    for encoder in options.encoders.split(","):
        try:
            weights = resolve_backbone_weights(encoder)
        except VadError as error:
            parser.error(str(error))
        print(f"{encoder}: {weights.name}, {weights.source}, sha256 {weights.sha256[:12]}")
    print("| set | encoder | head | level | AUROC | 95 % interval | train | test, normal + anomalous | fit s | ms |")
    print("|---|---|---|---|--:|---|--:|---|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="vad_heads_") as work:
        for row in rows(options, Path(work)):
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
