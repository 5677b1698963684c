"""From decoded pixels to what a detector sees: three channels, one size, values in 0..1.

Normalisation with the backbone's mean and deviation is not here: it belongs to the weights, so the detector does it.
Decoding is not here either (``vad_lib.images.decoding``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vad_lib.errors import ModelFormatError, PlanError, VadError
from vad_lib.findings import ArgumentChange
from vad_lib.images.budget import LARGE_PICTURES

if TYPE_CHECKING:
    import torch

MAX_PREPARED_PIXELS = 4096 * 4096
"""Pixels of one prepared image: above it one long picture could take all the memory."""

ImageSize = int | tuple[int, int]
"""Pixels: (height, width), or the length of the shorter side with the aspect ratio kept."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image is brought to the size that the detector was trained on.

    Attributes:
        image_size: (height, width) in pixels: the image is stretched to it. One number: the shorter side becomes that
            long and the aspect ratio is kept, so images of different aspect come out in different shapes and are
            batched by shape.
        grey_bits: of 16-bit grey images: the bits that the training images use. White is the largest value of so many
            bits, in training and ever after; brighter values are white too.
    """

    image_size: ImageSize
    grey_bits: int = 16

    def __post_init__(self) -> None:
        sides = (self.image_size,) if isinstance(self.image_size, int) else self.image_size
        if min(sides) < 1:
            raise PlanError(f"img_size is {self.image_size}: every side must be at least 1 pixel.")
        if not 1 <= self.grey_bits <= 16:
            raise PlanError(f"grey_bits is {self.grey_bits}: a 16-bit image uses 1 to 16 bits.")

    def shape_for(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) after preparation of an image of ``height`` x ``width`` pixels.

        >>> Preprocessing((256, 320)).shape_for(100, 50), Preprocessing(64).shape_for(100, 50)
        ((256, 320), (128, 64))
        """
        if not isinstance(self.image_size, int):
            return self.image_size
        if height <= width:
            return self.image_size, max(1, round(width * self.image_size / height))
        return max(1, round(height * self.image_size / width)), self.image_size

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        """Turn pixels into a detector's input.

        Args:
            pixels: uint8, (height, width) grey or (height, width, 3) RGB; or uint16 (height, width), 16-bit grey. Grey
                becomes three equal channels.

        Returns:
            float32 (3, H, W) in 0..1, resized bilinearly with antialiasing, as torchvision's ``Resize`` does.

        Raises:
            VadError: with ``img_size`` as one number, the image is so long and thin that it would come out beyond
                ``MAX_PREPARED_PIXELS``.
        """
        with LARGE_PICTURES.hold(pixels.shape[0] * pixels.shape[1]):
            return self._prepare(pixels)

    def _prepare(self, pixels: np.ndarray) -> torch.Tensor:
        import torch
        from torch.nn import functional

        white = 255
        if pixels.dtype == np.uint16:
            white = 2**self.grey_bits - 1
            pixels = np.minimum(pixels, white).astype(np.int32)  # torch's own uint16 lacks most operations
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float().div_(float(white))
        shape = self.shape_for(image.shape[1], image.shape[2])
        if shape[0] * shape[1] > MAX_PREPARED_PIXELS:
            height, width = image.shape[1:]
            raise VadError(
                f"too long and thin: {width} x {height} pixels become {shape[1]} x {shape[0]} with img_size "
                f"{self.image_size}; give img_size as [height, width], or cut the picture."
            )
        if shape == tuple(image.shape[1:]):
            return image
        resized = functional.interpolate(image[None], size=shape, mode="bilinear", align_corners=False, antialias=True)
        return resized[0].clamp_(0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` needs."""
        size = self.image_size
        return {
            "image_size": size if isinstance(size, int) else list(size),
            "resize": "bilinear, antialiased",
            "grey_bits": self.grey_bits,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Preprocessing:
        """Inverse of ``to_json``.

        Raises:
            ModelFormatError: the content is not that of a preprocessing.
        """
        try:
            size = content["image_size"]
            bits = int(content.get("grey_bits", 16))
            return cls(int(size) if isinstance(size, int) else (int(size[0]), int(size[1])), bits)
        except (AttributeError, KeyError, TypeError, IndexError, ValueError, PlanError) as error:
            raise ModelFormatError(f"The model's preprocessing section is not usable: {error!r}.") from error


def resolve_image_size(
    asked: ImageSize, fixed: ImageSize | None, reason: str = ""
) -> tuple[ImageSize, tuple[ArgumentChange, ...]]:
    """Return the image size in force and the change that led to it.

    Args:
        asked: ``img_size`` of the plan.
        fixed: the size that the model takes instead; None where it takes any.
        reason: why it takes another.
    """
    if fixed is None or asked == fixed:
        return asked, ()
    old, new = (size if isinstance(size, int) else list(size) for size in (asked, fixed))
    return fixed, (ArgumentChange(argument="img_size", old=old, new=new, reason=reason),)
