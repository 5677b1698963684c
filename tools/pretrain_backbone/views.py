"""Turns drawn sheets into training images: two textures in a picture, locally damaged, under changing light.

What is asked at every place of the picture: which sheet is this, and has something been done to it here, of which kind.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

DAMAGES = ("dark line", "bright line", "dark blob", "bright blob", "smeared", "roughened", "displaced", "stained")
STRIDE = 8
WINDOW = 104


@dataclass(frozen=True)
class Views:
    """A batch of training images with what is true in every cell of 8 x 8 pixels.

    Attributes:
        images: float32 (B, 3, S, S) in 0..1.
        ground: int64 (B,), the sheet of the ground.
        inlaid: int64 (B,), the sheet of the inlay.
        inlay: float32 (B, 1, S / 8, S / 8), the share of each cell that is inlay.
        damage: float32 (B, len(DAMAGES), S / 8, S / 8), the most of each kind of damage in each cell.
    """

    images: Tensor
    ground: Tensor
    inlaid: Tensor
    inlay: Tensor
    damage: Tensor


@functools.cache
def spline_basis(size: int, cells: int) -> Tensor:
    """Cubic B-spline weights (size, cells + 3) of coarse values at each pixel, scaled to keep the variance near one."""
    place = (torch.arange(size) + 0.5) / size * cells + 1
    distance = (place[:, None] - torch.arange(cells + 3)).abs()
    inner, outer = 2 / 3 - distance.square() * (1 - distance / 2), (2 - distance).clamp(min=0).pow(3) / 6
    basis = torch.where(distance < 1, inner, outer)
    return basis / basis.square().sum(1, keepdim=True).sqrt()


class ViewMaker:
    """Draws batches of views from sheets; every number comes from one generator, so a seed repeats the sequence."""

    def __init__(self, sheets: Tensor, size: int, generator: torch.Generator) -> None:
        """``sheets``: uint8 (N, S, S, 3); ``size`` of the views is a multiple of 8."""
        self.sheets, self.size, self.generator = sheets, size, generator

    def _uniform(self, count: int, low: float, high: float) -> Tensor:
        return torch.rand(count, generator=self.generator) * (high - low) + low

    def _noise(self, count: int, channels: int, cells: int) -> Tensor:
        """Smooth noise (count, channels, size, size) of about unit variance with ``cells`` cells across."""
        basis = spline_basis(self.size, cells)
        coarse = torch.randn(count, channels, basis.shape[1], basis.shape[1], generator=self.generator)
        return basis @ coarse @ basis.T

    def _crops(self, sheets: Tensor, turn: Tensor, scale: Tensor) -> Tensor:
        """Turned and scaled crops (B, 3, size, size) of float sheets (B, 3, S, S)."""
        count, half = len(sheets), scale * self.size / sheets.shape[-1]
        room = (1 - half * 1.22).clamp(min=0)
        shift = torch.stack([self._uniform(count, -1, 1), self._uniform(count, -1, 1)], 1) * room[:, None]
        cos, sin = torch.cos(turn) * half, torch.sin(turn) * half
        rows = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
        grid = F.affine_grid(rows, [count, 3, self.size, self.size], align_corners=False)
        return F.grid_sample(sheets, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _damage(self, images: Tensor, again: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        count = len(images)
        kind = torch.randint(len(DAMAGES), (count,), generator=self.generator)
        warped = grid + 0.06 * self._noise(count, 2, 6) * self._uniform(count, 0, 1.5).view(-1, 1, 1, 1)
        centre = self._uniform(2 * count, -0.9, 0.9).view(count, 2, 1, 1)
        angle = self._uniform(count, 0, math.pi).view(-1, 1, 1)
        offset = warped - centre
        u = offset[:, 0] * torch.cos(angle) + offset[:, 1] * torch.sin(angle)
        v = offset[:, 1] * torch.cos(angle) - offset[:, 0] * torch.sin(angle)
        pixel = 2 / self.size
        # lines are 1 to 4 pixels wide; the other kinds are ellipses of 2 to 14 pixels in radius, stains larger
        is_line = kind < 2
        radius = torch.exp(self._uniform(count, math.log(2.0), math.log(14.0))) * pixel
        radius = torch.where(kind == 7, radius * 1.8, radius)
        long = torch.where(is_line, self._uniform(count, 0.12, 1.2), radius * torch.exp(self._uniform(count, 0, 0.8)))
        wide = torch.where(
            is_line, self._uniform(count, 0.5, 2.0) * pixel, radius * torch.exp(-self._uniform(count, 0, 0.5))
        )
        soft = torch.where(kind == 7, wide * 0.4, torch.full((count,), pixel))
        ends = (u.abs() / long[:, None, None]).pow(4)
        distance = ((v / wide[:, None, None]).square() + ends).sqrt()
        mask = ((1 - distance) * (wide / soft).view(-1, 1, 1)).add(0.5).clamp(0, 1)[:, None]
        amount = torch.exp(self._uniform(count, math.log(0.04), math.log(0.45)))
        sign = torch.where((kind == 0) | (kind == 2), -1.0, 1.0)
        sign = torch.where(kind == 7, torch.sign(self._uniform(count, -1, 1)) * 0.5, sign)
        tint = 1 + 0.5 * torch.randn(count, 3, generator=self.generator) * (self._uniform(count, 0, 1) < 0.3)[:, None]
        other = images + (sign * amount)[:, None, None, None] * tint[..., None, None]
        smeared = F.interpolate(F.avg_pool2d(images, 6), images.shape[-2:], mode="bilinear")
        rough = torch.randn(count, 1, self.size // 2, self.size // 2, generator=self.generator)
        rough = images + amount.view(-1, 1, 1, 1) * 0.7 * F.interpolate(rough, (self.size, self.size), mode="bilinear")
        pick = kind.view(-1, 1, 1, 1)
        other = torch.where(pick == 4, smeared, torch.where(pick == 5, rough, torch.where(pick == 6, again, other)))
        mask = mask * (self._uniform(count, 0, 1) < 0.6).view(-1, 1, 1, 1)
        where = F.max_pool2d(mask, STRIDE) * F.one_hot(kind, len(DAMAGES)).view(count, -1, 1, 1)
        return images * (1 - mask) + other * mask, where

    def _windows(self, chosen: Tensor) -> Tensor:
        """A float window (B, 3, W, W) in 0..1 of each chosen sheet, large enough for every crop."""
        side, room = WINDOW * self.size // 64, self.sheets.shape[1] - WINDOW * self.size // 64
        corners = torch.randint(room + 1, (len(chosen), 2), generator=self.generator).tolist()
        cut = [self.sheets[i, y : y + side, x : x + side] for i, (y, x) in zip(chosen.tolist(), corners, strict=True)]
        return torch.stack(cut).permute(0, 3, 1, 2).float() / 255

    def draw(self, count: int, repeats: int = 2) -> Views:
        """A batch of ``count`` views, ``repeats`` of each sheet; inlays are from the same sheets."""
        drawn = torch.randperm(len(self.sheets), generator=self.generator)[: count // repeats]
        ground = drawn.repeat_interleave(repeats)
        inlaid = drawn[torch.randint(len(drawn), (count,), generator=self.generator)]
        windows = self._windows(ground)
        turn, scale = self._uniform(count, -0.25, 0.25), torch.exp(self._uniform(count, -0.35, 0.25))
        images = self._crops(windows, turn, scale)
        again = self._crops(windows, turn + math.pi / 2, scale * torch.exp(self._uniform(count, -0.3, 0.0)))
        other = self._crops(
            self._windows(inlaid), self._uniform(count, -0.25, 0.25), torch.exp(self._uniform(count, -0.35, 0.25))
        )
        axis = (torch.arange(self.size) + 0.5) / self.size * 2 - 1
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))[None]
        shape = self._noise(count, 1, 2) + self._uniform(count, -1.2, 0.3).view(-1, 1, 1, 1)
        inlay = (shape * 20).clamp(0, 1) * (self._uniform(count, 0, 1) < 0.5).view(-1, 1, 1, 1)
        images = images * (1 - inlay) + other * inlay
        damage = torch.zeros(count, len(DAMAGES), self.size // STRIDE, self.size // STRIDE)
        for _ in range(2):
            images, where = self._damage(images, again, grid)
            damage = torch.maximum(damage, where)
        return Views(self._light(images), ground, inlaid, F.avg_pool2d(inlay, STRIDE), damage)

    def _light(self, images: Tensor) -> Tensor:
        count = len(images)

        def column(low: float, high: float) -> Tensor:
            return self._uniform(count, low, high).view(-1, 1, 1, 1)

        lamp = 1 + 0.12 * self._noise(count, 1, 1) * (column(0, 1) < 0.5)
        mean = images.mean((1, 2, 3), keepdim=True)
        images = ((images - mean) * torch.exp(column(-0.35, 0.35)) + mean + column(-0.12, 0.12)) * lamp
        images = images * torch.exp(0.06 * torch.randn(count, 3, 1, 1, generator=self.generator))
        grey = images.mean(1, keepdim=True)
        images = torch.where(column(0, 1) < 0.35, grey, images)
        soft = F.interpolate(F.avg_pool2d(images, 2), images.shape[-2:], mode="bilinear")
        images = torch.lerp(images, soft, column(0, 1) * (column(0, 1) < 0.3))
        noise = torch.randn(images.shape, generator=self.generator) * torch.exp(column(math.log(0.002), math.log(0.03)))
        return (images + noise).clamp(0, 1)


class Batches(torch.utils.data.Dataset[Views]):
    """Batch ``i`` of an endless sequence; it depends on the seed and ``i`` alone, so training can go on anywhere."""

    def __init__(self, sheets: Tensor, size: int, count: int, seed: int, start: int, stop: int) -> None:
        self.sheets, self.size, self.count, self.seed, self.start, self.stop = sheets, size, count, seed, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Views:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.start + index)
        return ViewMaker(self.sheets, self.size, generator).draw(self.count)
