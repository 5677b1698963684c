"""The streaming memory bank beside the exact one: image AUROC, covering radius, seconds of the selection.

Both sides take the same files, weights, size, coreset ratio and seeds; features are extracted once and come from the
cache afterwards. A small coreset depends on its random start by some .003 of AUROC, so several seeds are run, and the
means are what is compared. Small chunks (64 images) make a stream of as many chunks as there would be in a large set.

    python -m benchmarks.streaming_bank --data FOLDER [--sets mvtec_bottle magnetic_tile] [--seeds 42 1 2] [--quick]

Ends with status 1 where the means differ by more than .005.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.real_data import add_data_argument

MOST_DIFFERENCE = 0.005


def main() -> int:
    """Run the sets and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--sets", nargs="+", default=["mvtec_bottle", "magnetic_tile"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--ratio", type=float, default=0.01, help="coreset ratio")
    parser.add_argument("--chunk-images", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="96 pixels, every fourth image, one seed")
    options = parser.parse_args()
    if options.quick:
        options.size, options.seeds, options.chunk_images = 96, options.seeds[:1], 16
    failed = False
    for name in options.sets:
        folder = options.data / name
        train = sorted((folder / "train" / "good").iterdir())
        test = sorted((folder / "test").glob("*/*"))
        if options.quick:
            train, test = train[::4], test[::4]
        side = options.size
        print(
            f"{name}: {len(train)} training and {len(test)} test images, {side} x {side}, resnet18, coreset "
            f"{options.ratio:.1%}, chunks of {options.chunk_images} images",
            flush=True,
        )
        means = compare(train, test, options)
        difference = means["streaming"] - means["exact"]
        print(f"  mean AUROC: exact {means['exact']:.4f}, streaming {means['streaming']:.4f} ({difference:+.4f})")
        failed |= abs(difference) > MOST_DIFFERENCE
    return int(failed)


def compare(train: list[Path], test: list[Path], options: argparse.Namespace) -> dict[str, float]:
    """Fit by both methods with each seed, print each, and return the mean AUROC of each method."""
    from sklearn.metrics import roc_auc_score

    from vad_lib.detectors.feature_cache import FeatureCache
    from vad_lib.detectors.images import ImageDataset
    from vad_lib.detectors.patchcore import bank_plan
    from vad_lib.detectors.patchcore.detector import PatchCore
    from vad_lib.encoders.weights import resolve_backbone_weights
    from vad_lib.preprocessing import Preprocessing

    side = options.size
    bank_plan.CHUNK_ROWS = options.chunk_images * (side // 8) ** 2  # layer2 has stride 8

    def dataset(files: list[Path]) -> ImageDataset:
        return ImageDataset(files, Preprocessing((side, side)), shapes=[(side, side)] * len(files))

    weights = resolve_backbone_weights("resnet18", options.data / "weights")
    labels = [file.parent.name != "good" for file in test]
    found: dict[str, list[float]] = {"exact": [], "streaming": []}
    with tempfile.TemporaryDirectory(prefix="vad_features_") as folder:
        for seed in options.seeds:
            for method, areas in found.items():
                detector = PatchCore(
                    weights,
                    coreset_sampling_ratio=options.ratio,
                    seed=seed,
                    memory_bank=method,  # type: ignore[arg-type]
                    memory_budget_gib=1000,  # what fits is not the question here
                    feature_cache=FeatureCache(Path(folder), 2**40),
                )
                detector.fit(dataset(train))
                scores = np.full(len(test), np.nan)
                for batch in dataset(test).batches(8):
                    scores[batch.indices] = detector.score(batch.images, with_maps=False).scores
                areas.append(float(roc_auc_score(labels, scores)))
                record, numbers = detector.bank_record, detector.report.numbers
                bound = record.get("covering_radius_bound")
                print(
                    f"  seed {seed:<4} {method:<10} AUROC {areas[-1]:.4f}  {record['rows']:,} rows  covering radius "
                    f"{record['covering_radius']:.3f}{f' (at most {bound:.3f})' if bound else '':<18}  selection "
                    f"{numbers['selection_seconds']:.1f} s",
                    flush=True,
                )
    return {method: float(np.mean(areas)) for method, areas in found.items()}


if __name__ == "__main__":
    raise SystemExit(main())
