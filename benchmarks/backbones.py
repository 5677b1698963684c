"""Compares backbones under the PatchCore that lines use, on real image sets: a table in markdown.

``python -m benchmarks.backbones``. Each set is cut in two halves that share no image: the even ones are for choosing
layers and size (``--half even``), the odd ones are for reporting once. ``--write`` puts the figures of the fallback
backbone beside resnet18's into ``vad_lib/encoders/fallback.json``, from which warnings and reports have them.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from benchmarks.real_data import add_data_argument
from vad_lib.comparison.running import dataset_of
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.encoders import fallback
from vad_lib.encoders.build import create_backbone
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.metrics import auroc_interval
from vad_lib.preprocessing import Preprocessing

SEED = 42
RATIO = 0.01
SIZE = 256


@dataclass(frozen=True)
class Measured:
    """What one backbone reached on one half of one set.

    Attributes:
        normal: test images that are normal.
        anomalous: test images that are not.
        image_auroc: of the scores.
        low: end of its 95 % interval.
        high: end of its 95 % interval.
        pixel_auroc: of the maps; None where the set has no masks.
        rows: of the memory bank.
    """

    normal: int
    anomalous: int
    image_auroc: float
    low: float
    high: float
    pixel_auroc: float | None
    rows: int


def half_of(folder: Path, half: str) -> list[Path]:
    """Return every other file of a folder."""
    return sorted(folder.iterdir())[half == "odd" :: 2]


def measure(folder: Path, half: str, backbone: str, layers: tuple[str, ...], size: int, store: Path) -> Measured:
    """Fit on ``train/good`` and score the folders of ``test``."""
    detector = PatchCore(
        resolve_backbone_weights(backbone, store), layers=layers, coreset_sampling_ratio=RATIO, seed=SEED
    )
    preprocessing = Preprocessing((size, size))
    detector.fit(dataset_of(half_of(folder / "train" / "good", half), preprocessing))
    kinds = sorted(kind for kind in (folder / "test").iterdir())
    files = [(file, kind.name) for kind in kinds for file in half_of(kind, half)]
    masks = [folder / "ground_truth" / kind / f"{file.stem}_mask.png" for file, kind in files]
    flags = np.array([kind != "good" for _, kind in files])
    images = dataset_of([file for file, _ in files], preprocessing)
    scores, pixels = np.full(len(files), np.nan), []
    has_masks = any(mask.is_file() for mask in masks)
    for batch in images.batches(8):
        found = detector.score(batch.images, with_maps=has_masks)
        scores[batch.indices] = found.scores
        for number, index in enumerate(batch.indices if has_masks else ()):
            assert found.maps is not None
            truth = np.zeros((size, size), bool)
            if masks[index].is_file():
                truth = np.asarray(Image.open(masks[index]).convert("L").resize((size, size), 0)) > 127
            pixels.append((truth[::4, ::4].ravel(), found.maps[number][::4, ::4].ravel()))
    auroc = float(roc_auc_score(flags, scores))
    low, high = auroc_interval(auroc, int((~flags).sum()), int(flags.sum()))
    by_pixel = [np.concatenate(part) for part in zip(*pixels, strict=True)]
    return Measured(
        int((~flags).sum()),
        int(flags.sum()),
        auroc,
        low,
        high,
        float(roc_auc_score(*by_pixel)) if by_pixel else None,
        len(detector.state_dict()["memory_bank"]),
    )


def milliseconds(backbone: str, layers: tuple[str, ...], size: int, store: Path) -> float:
    """Return the least time of one image alone through the backbone, by torch on one thread."""
    network = create_backbone(resolve_backbone_weights(backbone, store), layers)
    image, best = torch.zeros(1, 3, size, size), float("inf")
    with torch.inference_mode():
        for _ in range(20):
            start = time.perf_counter()
            network(image)
            best = min(best, time.perf_counter() - start)
    return best * 1000


def main() -> int:
    """Print a row for each set, size and backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--sets", nargs="+", default=["magnetic_tile", "mvtec_bottle"])
    parser.add_argument("--half", choices=("even", "odd"), default="odd", help="even for choosing, odd for reporting")
    parser.add_argument("--sizes", nargs="+", type=int, default=[SIZE], help="pixels of a side")
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=[":".join((fallback.NAME, *fallback.LAYERS)), "resnet18:layer2:layer3"],
        help="names and layers, such as resnet18:layer2:layer3",
    )
    parser.add_argument("--store", type=Path, help="folder of weights; that of --data by default")
    parser.add_argument("--write", action="store_true", help="write the figures that warnings give")
    given = parser.parse_args()
    torch.set_num_threads(1)
    store = given.store or given.data / "weights"
    print(f"PatchCore, coreset {RATIO:.0%}, seed {SEED}, the {given.half} half of each set\n")
    print("| set | normal | anomalous | size | backbone | image AUROC (95 %) | pixel AUROC | bank rows | ms |")
    print("|---|--:|--:|--:|---|--:|--:|--:|--:|", flush=True)
    rows: list[dict[str, Any]] = []
    for name in given.sets:
        figures: dict[str, Any] = {}
        for size in given.sizes:
            for spoken in given.backbones:
                backbone, *layers = spoken.split(":")
                one = measure(given.data / name, given.half, backbone, tuple(layers), size, store)
                pixel = "" if one.pixel_auroc is None else f"{one.pixel_auroc:.3f}"
                print(
                    f"| {name.replace('_', ' ')} | {one.normal} | {one.anomalous} | {size} | {spoken} "
                    f"| {one.image_auroc:.3f} ({one.low:.3f} to {one.high:.3f}) | {pixel} | {one.rows} "
                    f"| {milliseconds(backbone, tuple(layers), size, store):.1f} |",
                    flush=True,
                )
                figures |= {"normal": one.normal, "anomalous": one.anomalous}
                figures["fallback" if backbone == fallback.NAME else backbone] = round(one.image_auroc, 3)
        rows.append({"set": name, **figures})
    if given.write:
        file = Path(fallback.__file__).with_suffix(".json")
        file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
