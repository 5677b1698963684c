"""anomalib's models behind our protocol on a real set: image and pixel AUROC, and milliseconds an image.

    python -m benchmarks.anomalib_models [--models padim,mh_patchcore,dfm] [--backbones resnet18] [--set mvtec_bottle]
                                         [--size 256] [--epochs 15] [--data FOLDER]

Each model with each backbone, whose weights must be in the weights store. Prints a markdown table.
"""

from __future__ import annotations

import argparse

from benchmarks.real_data import add_data_argument
from vad_lib.comparison.image_sets import folder_set
from vad_lib.comparison.running import Candidate, compare


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="padim,mh_patchcore,dfm")
    parser.add_argument("--backbones", default="resnet18")
    parser.add_argument("--set", default="mvtec_bottle")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=15)
    add_data_argument(parser)
    asked = parser.parse_args()
    images = folder_set(asked.data / asked.set)
    print("| model | backbone | image AUROC | pixel AUROC | fit, s | an image, ms | MB |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for model in asked.models.split(","):
        for backbone in asked.backbones.split(","):
            candidate = Candidate("anomalib", {"anomalib_model": model, "anomalib_backbone": backbone})
            found = compare(candidate, images, size=asked.size, max_epochs=asked.epochs)
            if found.evaluation is None:
                print(f"| {model} | {backbone} | {found.reason} | | | | |", flush=True)
                continue
            pixels = "" if found.pixel_auroc is None else f"{found.pixel_auroc:.3f}"
            print(
                f"| {model} | {found.encoder} | {found.evaluation.image_auroc:.3f} | {pixels} "
                f"| {found.fit_seconds:.0f} | {found.ms_per_image:.0f} | {found.megabytes:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
