"""What WinCLIP sees: the image, windows of 2 x 2 and 3 x 3 patches, and the patches; and how scores are joined."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from vad_lib.encoders.clip import OpenClipEncoder, embed_patches
from vad_lib.encoders.precision import in_own_precision
from vad_lib.errors import PlanError

SCALES = (2, 3)
"""Sides of the windows, in patches."""


class Seen(NamedTuple):
    """What CLIP makes of one image.

    Attributes:
        image: (D,), comparable with texts.
        windows: for each scale, (windows, D), comparable with texts.
        patches: (rows x columns, C) behind the tower's last norm.
        grid: rows and columns of the patches.
    """

    image: torch.Tensor
    windows: tuple[torch.Tensor, ...]
    patches: torch.Tensor
    grid: tuple[int, int]


class WindowEncoder(nn.Module):
    """Shows CLIP an image and each of its windows.

    A window is the part of the patches that lies in it, with the token of the whole image before them: the transformer
    sees nothing else.

    Args:
        encoder: of CLIP's kind, with a vision transformer.

    Raises:
        PlanError: the encoder has no token of the whole image, or cannot be compared with texts.
    """

    def __init__(self, encoder: OpenClipEncoder) -> None:
        super().__init__()
        if not hasattr(encoder.visual, "class_embedding") or encoder.visual.attn_pool is not None:
            raise PlanError(
                f"WinCLIP needs a CLIP with a vision transformer; {encoder.weights.name} is of another kind."
            )
        self.weights = encoder.weights
        self.normalise = encoder.normalise
        self.visual = encoder.visual

    @in_own_precision
    def forward(self, image: torch.Tensor) -> Seen:
        """Return what is seen in one image, float32 (1, 3, H, W) in 0..1.

        Raises:
            PlanError: the image has fewer patches than the largest window.
        """
        tokens, grid = embed_patches(self.visual, self.normalise(image))
        if min(grid) < max(SCALES):
            raise PlanError(
                f"An image of {image.shape[2]} x {image.shape[3]} pixels has {grid[0]} x {grid[1]} patches; WinCLIP "
                f"needs {max(SCALES)} each way. Make img_size larger."
            )
        whole, patches = self._through(tokens)
        first = torch.zeros((1, 1), dtype=torch.long, device=tokens.device)
        windows = []
        for scale in SCALES:
            inside = windows_of(grid, scale).to(tokens.device)
            chosen = torch.cat([first.expand(len(inside), 1), inside + 1], dim=1)
            windows.append(self._through(tokens[0, chosen])[0])
        return Seen(whole[0], tuple(windows), patches[0], grid)

    def _through(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        visual: Any = self.visual
        pooled, rest = visual._pool(visual.transformer(tokens))
        return pooled @ visual.proj, rest


def windows_of(grid: tuple[int, int], scale: int) -> torch.Tensor:
    """Return the numbers of the patches in each window, int64 (windows, scale x scale), row by row."""
    numbers = torch.arange(grid[0] * grid[1], dtype=torch.float32).view(1, 1, *grid)
    return functional.unfold(numbers, scale)[0].T.long()


def spread(scores: torch.Tensor, grid: tuple[int, int], scale: int) -> torch.Tensor:
    """Return a score for each patch, (rows, columns): the harmonic mean over the windows (windows,) that hold it."""
    shape = (grid[0] - scale + 1, grid[1] - scale + 1)
    both = torch.stack([1.0 / scores, torch.ones_like(scores)]).view(1, 2, *shape)
    # each window's number is added to all of its patches
    sums = functional.conv_transpose2d(both, torch.ones((2, 1, scale, scale), device=scores.device), groups=2)[0]
    return sums[1] / sums[0]


def zero_shot(seen: Seen, texts: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how probable the abnormal texts are, 0..1: of the image () and of each patch (rows, columns).

    Args:
        seen: in the image.
        texts: (2, D), normal and abnormal.
        temperature: of the softmax.
    """

    def probable(vectors: torch.Tensor) -> torch.Tensor:
        cosines = functional.normalize(vectors, dim=-1) @ functional.normalize(texts, dim=-1).T
        return (cosines / temperature).softmax(dim=-1)[..., 1]

    image = probable(seen.image)
    parts = [image.expand(seen.grid)]
    parts += [spread(probable(windows), seen.grid, scale) for windows, scale in zip(seen.windows, SCALES, strict=True)]
    return image, len(parts) / (1.0 / torch.stack(parts)).sum(0)


def few_shot(seen: Seen, patches: torch.Tensor, windows: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the distance 0..1 of each patch (rows, columns) to what is remembered of normal images, over all scales.

    Args:
        seen: in the image.
        patches: remembered, (n, C).
        windows: remembered, for each scale (n, D).
    """

    def distance(vectors: torch.Tensor, remembered: torch.Tensor) -> torch.Tensor:
        cosines = functional.normalize(vectors, dim=-1) @ functional.normalize(remembered, dim=-1).T
        return ((1.0 - cosines).amin(dim=1) / 2).clamp(min=1e-8)

    parts = [distance(seen.patches, patches).view(seen.grid)]
    for vectors, remembered, scale in zip(seen.windows, windows, SCALES, strict=True):
        parts.append(spread(distance(vectors, remembered), seen.grid, scale))
    return torch.stack(parts).mean(0)
