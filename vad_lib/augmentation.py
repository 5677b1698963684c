"""Random changes of training images, so that harmless variation is not taken for a defect.

Only training images are augmented; validation and inference images never are. What is drawn for an image depends on
the seed, the epoch and the image's position alone, so neither the order nor the number of reading threads matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

TRANSFORMS = ("rotation", "brightness", "contrast", "saturation", "hue", "blur")
COLOUR_TRANSFORMS = ("saturation", "hue")
LARGEST_HUE = 0.5
"""torchvision's limit: half a turn of the colour circle reaches every hue."""


@dataclass(frozen=True)
class Augmentation:
    """Draws ``choice`` of ``transforms`` for each image, RandAugment-like, and applies them in a random order.

    Attributes:
        transforms: which may be drawn; see ``TRANSFORMS``.
        choice: how many are applied to an image; never more than there are.
        rotation_angle: degrees; drawn in [-angle, +angle]. Corners are filled by mirroring, because black corners would
            be learnt as normal.
        brightness_degree: 0..1; a factor is drawn in [1 - degree, 1 + degree]. Same for contrast and saturation.
        hue_degree: 0..0.5; a shift drawn in [-degree, +degree] of the colour circle.
        blur_kernel_size: the largest Gaussian kernel in pixels; an odd size from 3 up to it is drawn. Below 3: no blur.
        seed: any integer.
        notices: what was left out or capped, for the user.

    Paper: Cubuk et al., "RandAugment", https://arxiv.org/abs/1909.13719
    """

    transforms: tuple[str, ...]
    choice: int
    rotation_angle: float
    brightness_degree: float
    contrast_degree: float
    saturation_degree: float
    hue_degree: float
    blur_kernel_size: int
    seed: int
    notices: tuple[str, ...] = ()

    @property
    def changes_images(self) -> bool:
        """False where no transform can be applied."""
        return self.choice > 0 and bool(self.transforms)

    def apply(self, image: torch.Tensor, *, index: int, epoch: int = 0) -> torch.Tensor:
        """Return an augmented copy of ``image``, float32 (3, H, W) in 0..1, of the same shape and range."""
        if not self.changes_images:
            return image
        draw = np.random.default_rng([abs(self.seed), int(self.seed < 0), epoch, index])
        chosen: Sequence[str] = draw.permutation(np.array(self.transforms))[: self.choice].tolist()
        for name in chosen:
            image = _APPLY[name](self, image, draw)
        return image.clamp(0.0, 1.0)


def _factor(draw: np.random.Generator, degree: float) -> float:
    return float(draw.uniform(1.0 - degree, 1.0 + degree))


def _rotation(settings: Augmentation, image: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    from torchvision.transforms.v2 import InterpolationMode, functional

    angle = float(draw.uniform(-settings.rotation_angle, settings.rotation_angle))
    height, width = image.shape[-2:]
    # Mirroring cannot reach further than the image; half its diagonal is enough for any angle.
    margin = int(np.ceil(np.hypot(height, width) / 2))
    pad = [min(margin, width - 1), min(margin, height - 1)]
    padded = functional.pad(image, pad, padding_mode="reflect")
    turned = functional.rotate(padded, angle, interpolation=InterpolationMode.BILINEAR)
    return functional.crop(turned, pad[1], pad[0], height, width)


def _brightness(settings: Augmentation, image: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    return functional.adjust_brightness(image, _factor(draw, settings.brightness_degree))


def _contrast(settings: Augmentation, image: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    return functional.adjust_contrast(image, _factor(draw, settings.contrast_degree))


def _saturation(settings: Augmentation, image: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    return functional.adjust_saturation(image, _factor(draw, settings.saturation_degree))


def _hue(settings: Augmentation, image: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    return functional.adjust_hue(image, float(draw.uniform(-settings.hue_degree, settings.hue_degree)))


def _blur(settings: Augmentation, image: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    largest = min(settings.blur_kernel_size, image.shape[-1], image.shape[-2])
    if largest < 3:
        return image
    size = int(draw.choice(np.arange(3, largest + 1, 2)))
    return functional.gaussian_blur(image, [size, size])


_APPLY: dict[str, Callable[[Augmentation, torch.Tensor, np.random.Generator], torch.Tensor]] = {
    "rotation": _rotation,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
    "blur": _blur,
}
