"""Compares backbones under one plain PatchCore on the same files: ``python -m tools.pretrain_backbone.evaluate``.

The detector is the paper's, without what would blur the comparison: features of layer2 and layer3, averaged over 3x3,
layer3 brought to layer2's grid, a greedy k-centre coreset of 1 % of the patches (picked among a seeded sample of
100,000), the distance to the nearest kept patch as the map, its largest value as the image's score (Roth et al.,
Towards Total Recall in Industrial Anomaly Detection, CVPR 2022).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from tools.pretrain_backbone.benchmark_sets import SIZE, BenchmarkSet, benchmark_sets, data_folder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Features = Callable[[Tensor], Sequence[Tensor]]


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """uint8 (N, H, W, 3) to normalised float32 (N, 3, H, W)."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def embed(model: Features, images: NDArray[np.uint8], batch: int = 16) -> Tensor:
    """Patch embeddings (N, h, w, C) of images, as PatchCore joins them."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            maps = [F.avg_pool2d(m.float(), 3, 1, 1) for m in model(to_input(images[start : start + batch]))]
            maps = [maps[0], *[F.interpolate(m, maps[0].shape[-2:], mode="bilinear") for m in maps[1:]]]
            found.append(torch.cat(maps, 1).permute(0, 2, 3, 1).contiguous())
    return torch.cat(found)


def greedy_coreset(patches: Tensor, count: int, seed: int = 0, sample: int = 100_000) -> Tensor:
    """``count`` patches that cover a seeded sample of ``patches`` by greedy k-centre, in 64 random directions."""
    generator = torch.Generator().manual_seed(seed)
    patches = patches[torch.randperm(len(patches), generator=generator)[:sample]]
    if count >= len(patches):
        return patches
    projected = patches @ torch.randn(patches.shape[1], 64, generator=generator) / 8
    norms, nearest, chosen = projected.square().sum(1), torch.full((len(patches),), torch.inf), [0]
    for _ in range(count - 1):
        centre = projected[chosen[-1]]
        nearest = torch.minimum(nearest, norms - 2 * projected @ centre + centre.square().sum())
        chosen.append(int(nearest.argmax()))
    return patches[chosen]


def distance_maps(embeddings: Tensor, bank: Tensor) -> Tensor:
    """Distance (N, h, w) of each patch to the nearest of ``bank``."""
    flat, bank_norms = embeddings.flatten(0, 2), bank.square().sum(1)
    squares = [(bank_norms - 2 * chunk @ bank.T).amin(1) + chunk.square().sum(1) for chunk in flat.split(8192)]
    return torch.cat(squares).clamp(min=0).sqrt().view(embeddings.shape[:3])


def aupro(maps: NDArray[np.float32], masks: NDArray[np.bool_], limit: float = 0.3, steps: int = 200) -> float:
    """Area under the per-region overlap up to a false positive rate of ``limit``, as a share of the best (0..1)."""
    from scipy.ndimage import label

    labels = [label(mask)[0] for mask in masks]
    normal = np.sort(maps[~masks])[::-1]
    rates = np.linspace(0, limit, steps)
    thresholds = normal[np.minimum((rates * len(normal)).astype(int), len(normal) - 1)]
    regions = [np.sort(m[lab == i]) for m, lab in zip(maps, labels, strict=True) for i in range(1, lab.max() + 1)]
    overlap = np.mean(
        [1 - np.searchsorted(values, thresholds, side="right") / len(values) for values in regions], axis=0
    )
    return float(np.trapezoid(overlap, rates) / limit)


def evaluate(
    model: Features, images: BenchmarkSet, pixels: bool = False, seeds: Sequence[int] = (0,)
) -> dict[str, float]:
    """Image AUROC of one set, with AUROC and AUPRO of the pixels where asked for and masks exist.

    Each is the mean over coresets that begin from samples of these ``seeds``.
    """
    train, test = embed(model, images.train).flatten(0, 2), embed(model, images.test)
    rows = []
    for seed in seeds:
        bank = greedy_coreset(train, max(200, round(0.01 * len(train))), seed)
        rows.append(_measured(distance_maps(test, bank), images, pixels))
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _measured(maps: Tensor, images: BenchmarkSet, pixels: bool) -> dict[str, float]:
    found = {"image_auroc": float(roc_auc_score(images.is_anomalous, maps.flatten(1).amax(1).numpy()))}
    if pixels and images.masks is not None:
        from torchvision.transforms.functional import gaussian_blur

        full = F.interpolate(maps[:, None], (SIZE, SIZE), mode="bilinear")
        smooth = gaussian_blur(full, [33, 33], [4.0, 4.0])[:, 0].numpy()
        found["pixel_auroc"] = float(roc_auc_score(images.masks[:, ::2, ::2].ravel(), smooth[:, ::2, ::2].ravel()))
        found["aupro"] = aupro(smooth, images.masks)
    return found


def milliseconds_per_image(model: Features, repeats: int = 40) -> float:
    """Least time of one 224 px image alone on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    image, best = torch.zeros(1, 3, SIZE, SIZE), float("inf")
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.perf_counter()
            model(image)
            best = min(best, time.perf_counter() - start)
    torch.set_num_threads(threads)
    return best * 1000


def imagenet_resnet18(file: Path) -> nn.Module:
    """timm's resnet18 to layer3 with the weights in ``file`` (batch norm folded)."""
    import timm

    model = timm.create_model("resnet18", features_only=True, out_indices=(2, 3))
    model.load_state_dict(torch.load(file, weights_only=True), strict=False)
    return model.eval()


def untrained_resnet18(seed: int = 0) -> nn.Module:
    """timm's resnet18 to layer3 as initialised."""
    import timm

    torch.manual_seed(seed)
    return timm.create_model("resnet18", features_only=True, out_indices=(2, 3)).eval()


def vadnet10(file: Path) -> nn.Module:
    """Our backbone to layer3 with the weights in ``file``."""
    import timm
    from safetensors.torch import load_file

    from vad_lib.encoders import vadnet  # noqa: F401  registers the architecture

    model = timm.create_model("vadnet10", features_only=True, out_indices=(2, 3))
    model.load_state_dict({key: value.float() for key, value in load_file(file).items()}, strict=False)
    return model.eval()


def in_bfloat16(model: Features) -> Features:
    """The same features, computed in bfloat16: several times as fast on processors that have it."""

    def features(images: Tensor) -> Sequence[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return model(images.contiguous(memory_format=torch.channels_last))

    return features


def main() -> None:
    """Print and write a row for each backbone and set: image AUROC, pixel AUROC, AUPRO, ms for an image on one core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="vadnet10.safetensors to measure")
    parser.add_argument(
        "--imagenet", type=Path, help="ImageNet weights of resnet18; the store of the test data by default"
    )
    parser.add_argument("--part", choices=("A", "B"), default="B", help="A for choosing, B for reporting")
    parser.add_argument("--sets", nargs="*", default=None, help="names of sets, all by default")
    parser.add_argument("--quick", action="store_true", help="fewer images, features in bfloat16")
    parser.add_argument("--seeds", type=int, default=1, help="how many coresets to take the mean of")
    parser.add_argument("--untrained", action="store_true", help="measure an untrained resnet18 too")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    imagenet = arguments.imagenet or data_folder() / "weights" / "resnet18_tv_bnfolded_stem_to_layer3.pth"
    models = {
        "vadnet10": vadnet10(arguments.weights),
        "resnet18 ImageNet": imagenet_resnet18(imagenet),
    }
    if arguments.untrained:
        models["resnet18 untrained"] = untrained_resnet18()
    speed = {name: milliseconds_per_image(model) for name, model in models.items()}
    if arguments.quick:
        models = {name: in_bfloat16(model) for name, model in models.items()}
    rows: list[dict[str, object]] = []
    for images in benchmark_sets(arguments.part, arguments.sets, arguments.quick):
        for name, model in models.items():
            rows.append(
                {
                    "set": images.name,
                    "backbone": name,
                    **evaluate(model, images, True, range(arguments.seeds)),
                    "ms": speed[name],
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
