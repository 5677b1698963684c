"""What both sides get: the same images, weights and features. Weights that are not at hand are random, and said so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vad_lib.encoders import fallback

BACKBONES = ("resnet18", fallback.NAME, "wide_resnet50_2")
"""The guide's default, the one that is recommended on a processor, and a large one."""
SIZE = (256, 256)
SEED = 42
REAL_IMAGES = 60
"""Images whose features are computed for the coreset; more are these again, jittered by 2 % of the deviation."""


def layers_of(backbone: str) -> tuple[str, ...]:
    """Return the layers that PatchCore reads of a backbone."""
    return fallback.LAYERS if backbone == fallback.NAME else ("layer2", "layer3")


def training_files(data: Path) -> list[Path]:
    """Return normal bottles."""
    return sorted((data / "mvtec_bottle" / "train" / "good").iterdir())


def test_files(data: Path, count: int) -> list[Path]:
    """Return ``count`` test bottles, good and bad, over and over where there are fewer."""
    found = sorted((data / "mvtec_bottle" / "test").glob("*/*"))
    return [found[number * 7 % len(found)] for number in range(count)]


def weights_of(backbone: str, data: Path) -> Any:
    """Return the weights in the store, or random ones from a fixed seed: as fast, and of no use otherwise."""
    from vad_lib.encoders.weight_file import BackboneWeights
    from vad_lib.encoders.weights import resolve_backbone_weights
    from vad_lib.errors import WeightsMissingError

    try:
        found = resolve_backbone_weights(backbone, data / "weights")
    except WeightsMissingError:
        return BackboneWeights(backbone, None, "random", "")
    return found if found.name == backbone else BackboneWeights(backbone, None, "random", "")


def dataset(files: list[Path]) -> Any:
    """Return images at ``SIZE``."""
    from PIL import Image

    from vad_lib.detectors.images import ImageDataset
    from vad_lib.preprocessing import Preprocessing

    return ImageDataset(files, Preprocessing(SIZE), shapes=[Image.open(file).size[::-1] for file in files])


def batch_of(files: list[Path]) -> Any:
    """Return images as one tensor (N, 3, H, W) in 0..1."""
    import torch

    images = dataset(files)
    return torch.stack([images[number] for number in range(len(files))])


def write_features(backbone: str, images: int, data: Path, file: Path) -> str:
    """Write patch features (images x 1024, D) as .npy and return how they came about."""
    import numpy as np
    import torch

    from vad_lib.detectors.patchcore.network import PatchEmbedder
    from vad_lib.randomness import seeded

    weights = weights_of(backbone, data)
    with seeded(SEED):
        embedder = PatchEmbedder(weights, layers_of(backbone))
    real = min(images, REAL_IMAGES)
    first = embedder(batch_of(training_files(data)[:1]))[0][0]
    out = np.lib.format.open_memmap(file, "w+", np.float32, (images * len(first), first.shape[1]))
    draw = torch.Generator().manual_seed(SEED)
    scale = 0.02 * float(first.std())
    for number in range(images):
        start = number * len(first)
        if number < real:
            found = embedder(batch_of([training_files(data)[number]]))[0][0]
        else:
            again = torch.from_numpy(out[(number % real) * len(first) :][: len(first)].copy())
            found = again + scale * torch.randn(again.shape, generator=draw)
        out[start : start + len(first)] = found.numpy()
    out.flush()
    return f"{weights.source} weights, {real} images" + (f", {images - real} more jittered" if images > real else "")
