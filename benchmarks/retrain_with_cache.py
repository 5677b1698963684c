"""A retrain after 1 % more images, with the cache of features and without, side by side.

Four fits, each in turn on the same machine: all but the new images with an empty cache (what the cache costs), all
images with that cache (what it gives), and both without a cache. The bank of the retrain must be the same to the last
bit with the cache and without.

    python -m benchmarks.retrain_with_cache --data FOLDER [--quick] [--method exact|streaming]

FOLDER holds ``mvtec_bottle`` and ``weights``.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.real_data import add_data_argument

SEED = 42


def main() -> int:
    """Fit four times and print the table; status 1 where the bank differs or the cache missed an image."""
    from vad_lib.detectors.feature_cache import FeatureCache
    from vad_lib.detectors.images import ImageDataset
    from vad_lib.detectors.patchcore.detector import PatchCore
    from vad_lib.encoders.weights import resolve_backbone_weights
    from vad_lib.preprocessing import Preprocessing

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--images", type=int, default=None, help="of the retrain; all there are by default")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--ratio", type=float, default=0.01, help="coreset ratio")
    parser.add_argument("--method", choices=["exact", "streaming"], default="exact")
    parser.add_argument("--quick", action="store_true", help="30 images of 128 pixels")
    options = parser.parse_args()
    files = sorted((options.data / "mvtec_bottle" / "train" / "good").iterdir())
    files = files[: 30 if options.quick else options.images]
    side = 128 if options.quick else options.size
    new = math.ceil(len(files) / 100)
    weights = resolve_backbone_weights("resnet18", options.data / "weights")

    def fit(count: int, cache: FeatureCache | None) -> tuple[float, PatchCore]:
        images = ImageDataset(files[:count], Preprocessing((side, side)), shapes=[(side, side)] * count)
        detector = PatchCore(
            weights,
            coreset_sampling_ratio=options.ratio,
            seed=SEED,
            memory_bank=options.method,
            feature_cache=cache,
        )
        began = time.monotonic()
        detector.fit(images)
        return time.monotonic() - began, detector

    print(
        f"resnet18 (layer2, layer3), {side} x {side} pixels, coreset {options.ratio:.1%}, {options.method}, "
        f"{len(files) - new} + {new} images, {torch.get_num_threads()} threads, {os.cpu_count()} cores",
        flush=True,
    )
    fit(2, None)  # what is imported and warmed up once is in no figure
    with tempfile.TemporaryDirectory(prefix="vad_cache_") as folder:
        cache = FeatureCache(Path(folder), 2**40)
        first, _ = fit(len(files) - new, cache)
        retrain, with_cache = fit(len(files), cache)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
    plain_first, _ = fit(len(files) - new, None)
    plain_retrain, without = fit(len(files), None)
    numbers, plain_numbers = with_cache.report.numbers, without.report.numbers
    print(f"  {'':<34}{'with the cache':>16}{'without':>12}{'ratio':>10}")
    rows = [
        ("first fit, empty cache, s", first, plain_first),
        ("retrain, s", retrain, plain_retrain),
        ("  of it extraction, s", numbers["extraction_seconds"], plain_numbers["extraction_seconds"]),
        ("  of it selection, s", numbers["selection_seconds"], plain_numbers["selection_seconds"]),
        ("images extracted in the retrain", numbers["features_extracted"], float(len(files))),
    ]
    for name, ours, theirs in rows:
        print(f"  {name:<34}{ours:>16.2f}{theirs:>12.2f}{ours / theirs if theirs else math.nan:>10.3f}")
    assert with_cache.bank_ is not None
    assert without.bank_ is not None
    same = torch.equal(with_cache.bank_.rows, without.bank_.rows)
    print(f"  the cache takes {size / 2**20:.1f} MiB, {size / len(files) / 2**20:.2f} MiB an image; same bank: {same}")
    return int(not same or numbers["features_extracted"] != new)


if __name__ == "__main__":
    raise SystemExit(main())
