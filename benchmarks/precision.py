"""bfloat16 beside float32 on real sets: image AUROC, decisions that differ, and milliseconds an image.

    python -m benchmarks.precision [--sets mvtec_bottle,magnetic_tile] [--backbones resnet18,tf_efficientnet_lite0]
                                   [--most-normal 209] [--most-of-each-kind 0] [--data FOLDER]

PatchCore with a coreset of 1 %, images of 256 x 256 pixels, resnet18 and the fallback backbone; the threshold of each
model is the 99th percentile of normal images that were held back. The time has reading and maps in it, by torch. Says
whether the processor has units for bfloat16, and prints a markdown table.
"""

from __future__ import annotations

import argparse

from benchmarks.detectors.__main__ import processor
from benchmarks.real_data import add_data_argument
from vad_lib.comparison.image_sets import folder_set
from vad_lib.comparison.running import Candidate, Compared, compare
from vad_lib.encoders import fallback
from vad_lib.encoders.precision import multiplies_bfloat16

LAYERS = {"resnet18": ("layer2", "layer3"), fallback.NAME: fallback.LAYERS}


def row(backbone: str, single: Compared, half: Compared) -> str:
    """Return a row of the table; where one side did not run, its reason."""
    if single.evaluation is None or half.evaluation is None:
        return f"| {single.images} | {backbone} | {single.reason or half.reason} | | | | | |"
    sides = []
    for one in (single, half):
        assert one.evaluation is not None
        low, high = one.interval or (float("nan"), float("nan"))
        sides.append(f"{one.evaluation.image_auroc:.4f} ({low:.3f} to {high:.3f})")
    differ = int((single.rows["predicted"] != half.rows["predicted"]).sum())
    pixels = " / ".join("-" if one.pixel_auroc is None else f"{one.pixel_auroc:.4f}" for one in (single, half))
    times = f"{single.ms_per_image:.0f} / {half.ms_per_image:.0f}"
    return (
        f"| {single.images} | {backbone} | {sides[0]} | {sides[1]} | {pixels} | {differ} of {len(single.rows)} "
        f"| {single.evaluation.accuracy:.3f} / {half.evaluation.accuracy:.3f} | {times} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="mvtec_bottle,magnetic_tile")
    parser.add_argument("--most-normal", type=int, default=209, help="normal images to learn from; 0 takes all")
    parser.add_argument("--most-of-each-kind", type=int, default=0, help="images to report on; 0 takes all")
    parser.add_argument("--backbones", default=",".join(LAYERS), help=f"of {', '.join(LAYERS)}")
    add_data_argument(parser)
    asked = parser.parse_args()
    units = "with units" if multiplies_bfloat16() else "without units"
    print(f"{processor()}, {units} for bfloat16\n")
    print(
        "| set | backbone | image AUROC float32 (95 %) | image AUROC bfloat16 (95 %) | pixel AUROC | decisions that "
        "differ | accuracy | ms an image |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for name in asked.sets.split(","):
        images = folder_set(asked.data / name, asked.most_normal, asked.most_of_each_kind)
        for backbone in asked.backbones.split(","):
            parameters = {
                "patchcore_backbone": backbone,
                "patchcore_layers": LAYERS[backbone],
                "patchcore_coreset_sampling_ratio": 0.01,
            }
            single, half = (
                compare(
                    Candidate("patchcore", parameters, precision=precision),
                    images,
                    weights_store=asked.data / "weights",
                )
                for precision in ("float32", "bfloat16")
            )
            print(row(backbone, single, half), flush=True)


if __name__ == "__main__":
    main()
