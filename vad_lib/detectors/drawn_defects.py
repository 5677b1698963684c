"""Defects drawn on prepared images, for detectors that learn from what was made anomalous."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from vad_lib.synthetic import DEFECT_KINDS, DefectKind, draw_defect
from vad_lib.synthetic.cut_paste import cut_paste


def with_defect(
    image: torch.Tensor, kind: DefectKind | Literal["cut_paste"], seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an image, float32 (3, H, W) in 0..1, with one defect, and the defect's mask, bool (H, W).

    Raises:
        InputError: a side has fewer than 16 pixels.
    """
    pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    if kind == "cut_paste":
        made, where = cut_paste(pixels, seed)
        changed = torch.from_numpy((made != pixels).any(2))  # the soft edge reaches out of the mask
        return torch.where(changed, _as_image(made), image), torch.from_numpy(where)
    drawn = draw_defect(pixels, kind, seed)
    mask = torch.from_numpy(drawn.mask)
    return torch.where(mask, _as_image(drawn.image), image), mask


def random_defect(image: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a defect, half of the time in the image's colours, half of the time by moving a piece of it.

    Image and result are those of ``with_defect``.
    """
    shape, moved = divmod(seed, 2)
    return with_defect(image, "cut_paste" if moved else DEFECT_KINDS[shape % len(DEFECT_KINDS)], seed)


def seed_of(*parts: int) -> int:
    """Return a seed that depends on all of several numbers."""
    return int(np.random.default_rng([abs(part) for part in parts]).integers(2**32))


def _as_image(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
