"""Draws episodes: a detector's own question, small.

Some pictures of one surface are known to be intact; of others some places are damaged, and all differ from one another
as the parts of a real line do.

An episode takes one sheet. Its pictures are other places of it (a texture) or nearly the same place (an object in a
fixture), under light, blur, noise, stains of shade and streaks whose strength belongs to the episode: what is normal
on a rough line is a defect on a tame one.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

STRIDE = 8
KINDS = 10
"""Kinds of damage: line, blob, smeared, roughened, displaced, foreign, faded, stained, tinted, and lines once more."""


@dataclass(frozen=True)
class Episodes:
    """A batch of E episodes of P pictures each, the intact ones of the memory bank first.

    Attributes:
        images: float32 (E * P, 3, S, S) in 0..1.
        damage: float32 (E * P, S / 8, S / 8), the most of the damage in each cell of 8 x 8 pixels, 0..1.
        bank: how many pictures of an episode are the memory bank.
        episodes: E.
    """

    images: Tensor
    damage: Tensor
    bank: int
    episodes: int


@functools.cache
def spline_basis(size: int, cells: int) -> Tensor:
    """Cubic B-spline weights (size, cells + 3) of coarse values at each pixel, scaled to keep the variance near one."""
    place = (torch.arange(size) + 0.5) / size * cells + 1
    distance = (place[:, None] - torch.arange(cells + 3)).abs()
    inner, outer = 2 / 3 - distance.square() * (1 - distance / 2), (2 - distance).clamp(min=0).pow(3) / 6
    basis = torch.where(distance < 1, inner, outer)
    return basis / basis.square().sum(1, keepdim=True).sqrt()


class EpisodeMaker:
    """Draws batches of episodes from sheets; every number comes from one generator, so a seed repeats the sequence.

    Args:
        sheets: uint8 (N, W, W, 3).
        size: pixels of the pictures, a multiple of 16 and at most W / 1.6.
        generator: of all random numbers.
        bank: intact pictures of an episode that are the memory.
        queries: further intact pictures, and as many damaged ones.
    """

    def __init__(
        self, sheets: NDArray[np.uint8], size: int, generator: torch.Generator, bank: int = 4, queries: int = 2
    ) -> None:
        self.sheets, self.size, self.generator = sheets, size, generator
        self.bank, self.queries, self.pictures = bank, queries, bank + 2 * queries
        axis = (torch.arange(size) + 0.5) / size * 2 - 1
        self.grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))[None]

    def _uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(count, generator=self.generator) * (high - low) + low

    def _log_uniform(self, count: int, low: float, high: float) -> Tensor:
        return torch.exp(self._uniform(count, math.log(low), math.log(high)))

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def _chance(self, count: int, share: float) -> Tensor:
        return (self._uniform(count) < share).float()

    def _noise(self, count: int, channels: int, cells: int) -> Tensor:
        """Smooth noise (count, channels, size, size) of about unit variance with ``cells`` cells across."""
        basis = spline_basis(self.size, cells)
        return basis @ self._normal(count, channels, basis.shape[1], basis.shape[1]) @ basis.T

    def _each(self, per_episode: Tensor) -> Tensor:
        """Repeat what belongs to an episode for each of its pictures, as (B, 1, 1, 1)."""
        return per_episode.repeat_interleave(self.pictures).view(-1, 1, 1, 1)

    def _crops(self, sheets: Tensor, turn: Tensor, scale: Tensor, centre: Tensor) -> Tensor:
        """Crops (B, 3, size, size) of float sheets (B, 3, W, W), turned, ``scale`` sheet pixels to a pixel.

        ``centre`` (B, 2) is -1..1 within what the crop can reach without leaving the sheet.
        """
        half = scale * self.size / sheets.shape[-1]
        reach = half * (turn.cos().abs() + turn.sin().abs())
        shift = centre * (1 - reach).clamp(min=0)[:, None]
        cos, sin = torch.cos(turn) * half, torch.sin(turn) * half
        rows = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
        grid = F.affine_grid(rows, [len(sheets), 3, self.size, self.size], align_corners=False)
        return F.grid_sample(sheets, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _sheets(self, chosen: Tensor) -> Tensor:
        """Float sheets (len(chosen), 3, W, W) in 0..1, flipped and turned by quarters at random."""
        found = []
        for number in chosen.tolist():
            sheet = torch.from_numpy(np.array(self.sheets[number])).permute(2, 0, 1).float() / 255
            found.append(torch.rot90(sheet, int(torch.randint(4, (), generator=self.generator)), (1, 2)))
        return torch.stack(found)

    def _damage(self, images: Tensor, again: Tensor, foreign: Tensor, often: Tensor) -> tuple[Tensor, Tensor]:
        """Damage each picture once where ``often`` (B,) is 1; returns them and what shows of it, (B, 1, S, S)."""
        count = len(images)
        kind = torch.randint(KINDS, (count,), generator=self.generator)
        warped = self.grid + 0.06 * self._noise(count, 2, 6) * self._uniform(count, 0, 1.5).view(-1, 1, 1, 1)
        centre = self._uniform(2 * count, -0.9, 0.9).view(count, 2, 1, 1)
        angle = self._uniform(count, 0, math.pi).view(-1, 1, 1)
        offset = warped - centre
        u = offset[:, 0] * torch.cos(angle) + offset[:, 1] * torch.sin(angle)
        v = offset[:, 1] * torch.cos(angle) - offset[:, 0] * torch.sin(angle)
        pixel = 2 / self.size
        # lines are 1 to 5 pixels wide; the other kinds are ellipses of 2 to 22 pixels in radius
        is_line, is_stain = (kind == 0) | (kind == 9), (kind == 7) | (kind == 8)
        radius = torch.where(is_stain, self._log_uniform(count, 4, 30), self._log_uniform(count, 2, 18)) * pixel
        long = torch.where(is_line, self._uniform(count, 0.12, 1.2), radius * self._log_uniform(count, 1, 2.2))
        wide = torch.where(is_line, self._uniform(count, 0.5, 2.5) * pixel, radius * self._log_uniform(count, 0.6, 1))
        soft = torch.where(is_stain, wide * self._uniform(count, 0.1, 0.5), self._uniform(count, 1, 2) * pixel)
        ends = (u.abs() / long[:, None, None]).pow(4)
        distance = ((v / wide[:, None, None]).square() + ends).sqrt()
        mask = ((1 - distance) * (wide / soft).view(-1, 1, 1)).add(0.5).clamp(0, 1)[:, None]
        spread = images.std((2, 3)).mean(1)
        amount = torch.maximum(self._log_uniform(count, 0.04, 0.5), spread * self._uniform(count, 0.5, 1.5))
        sign = torch.sign(self._uniform(count, -1, 1)) * torch.where(is_stain, 0.6, 1.0)
        tint = 1 + 0.5 * self._normal(count, 3) * self._chance(count, 0.2)[:, None]
        tint = torch.where((kind == 8)[:, None], self._normal(count, 3), tint)
        shade = images + (sign * amount)[:, None, None, None] * tint[..., None, None]
        # a blob may be filled by one shade instead of shifted: holes, drops, paint
        filled = images.mean((2, 3), keepdim=True) + (shade - images)
        shade = torch.where(((kind == 1) & (self._uniform(count) < 0.5)).view(-1, 1, 1, 1), filled, shade)
        smeared = F.interpolate(F.avg_pool2d(images, 6), images.shape[-2:], mode="bilinear")
        rough = self._normal(count, 1, self.size // 2, self.size // 2)
        rough = images + amount.view(-1, 1, 1, 1) * 0.6 * F.interpolate(rough, (self.size, self.size), mode="bilinear")
        local = F.interpolate(F.avg_pool2d(images, 24), images.shape[-2:], mode="bilinear")
        faded = local + (images - local) * torch.where(self._uniform(count) < 0.5, 0.2, 2.2).view(-1, 1, 1, 1)
        pick = kind.view(-1, 1, 1, 1)
        for number, other in ((2, smeared), (3, rough), (4, again), (5, foreign), (6, faded)):
            shade = torch.where(pick == number, other, shade)
        mask = mask * often.view(-1, 1, 1, 1)
        change = (mask * (shade - images)).abs().amax(1, keepdim=True)
        visible = mask * (F.max_pool2d(change, 5, 1, 2) > 0.02 + 0.3 * spread.view(-1, 1, 1, 1))
        return images * (1 - mask) + shade * mask, visible

    def _damaged(
        self, images: Tensor, sheets: Tensor, strangers: Tensor, turn: Tensor, scale: Tensor, which: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Damage pictures number ``which`` one to three times; returns them and the mask (len(which), 1, S, S)."""
        count, turn, scale, episode = len(which), turn[which], scale[which], which // self.pictures
        elsewhere = self._uniform(2 * count, -1, 1).view(-1, 2)
        sizes = scale * self._log_uniform(count, 0.6, 1.3)
        again = self._crops(sheets[episode], turn + self._uniform(count, 0.4, 2.7), sizes, elsewhere)
        foreign = self._crops(strangers[episode], turn, scale, elsewhere)
        difference = images.mean((2, 3), keepdim=True) - foreign.mean((2, 3), keepdim=True)
        foreign = foreign + difference * self._chance(count, 0.6).view(-1, 1, 1, 1)
        damage = torch.zeros(count, 1, self.size, self.size)
        for chance in (1.0, 0.5, 0.3):
            images, where = self._damage(images, again, foreign, self._chance(count, chance))
            damage = torch.maximum(damage, where)
        return images, damage

    def draw(self, episodes: int) -> Episodes:
        """A batch of ``episodes`` episodes."""
        pictures, count = self.pictures, episodes * self.pictures
        chosen = torch.randint(len(self.sheets), (2 * episodes,), generator=self.generator)
        sheets, strangers = self._sheets(chosen).chunk(2)
        base_turn, base_scale = self._uniform(episodes, -0.3, 0.3), self._log_uniform(episodes, 0.7, 1.25)
        fixed = self._chance(episodes, 0.35)
        loose = 1 - fixed.repeat_interleave(pictures)
        turn = base_turn.repeat_interleave(pictures) + self._normal(count) * (0.01 + 0.05 * loose)
        scale = base_scale.repeat_interleave(pictures) * torch.exp(self._normal(count) * (0.01 + 0.05 * loose))
        place = self._uniform(2 * episodes, -1, 1).view(-1, 2).repeat_interleave(pictures, 0)
        place = place + 0.06 * self._normal(count, 2)
        place = torch.where(loose[:, None] > 0, self._uniform(2 * count, -1, 1).view(-1, 2), place).clamp(-1, 1)
        images = self._crops(sheets.repeat_interleave(pictures, 0), turn, scale, place)
        images = self._light(images, episodes, before=True)
        spoilt = ((torch.arange(pictures) >= self.bank + self.queries).repeat(episodes)).nonzero()[:, 0]
        images[spoilt], where = self._damaged(images[spoilt], sheets, strangers, turn, scale, spoilt)
        damage = torch.zeros(count, self.size // STRIDE, self.size // STRIDE)
        damage[spoilt] = F.max_pool2d(where, STRIDE)[:, 0]
        images = self._light(images, episodes, before=False)
        return Episodes(images, damage, self.bank, episodes)

    def _light(self, images: Tensor, episodes: int, before: bool) -> Tensor:
        """What makes intact pictures differ: on the surface, ``before`` it is damaged, and in the camera after."""
        count = len(images)

        def column(low: float = 0.0, high: float = 1.0) -> Tensor:
            return self._uniform(count, low, high).view(-1, 1, 1, 1)

        rough = self._each(self._log_uniform(episodes, 0.15, 1.5))
        if before:
            spread = images.std((2, 3), keepdim=True).mean(1, keepdim=True)
            stains = self._noise(count, 1, 2) + 0.7 * self._noise(count, 1, 5)
            images = images + rough * self._each(self._uniform(episodes, 0, 0.08)) * stains * column()
            streaks = self._normal(count, 1, 1, self.size).expand(-1, -1, self.size, -1)
            streaks = streaks * (0.4 + self._noise(count, 1, 2)).clamp(min=0)
            streaks = torch.where(self._each(self._uniform(episodes)) < 0.5, streaks, streaks.transpose(2, 3))
            some = self._each(self._chance(episodes, 0.25))
            return images + some * rough * (0.02 + spread) * streaks * column(0, 0.8)
        mean = images.mean((1, 2, 3), keepdim=True)
        gain, bias = torch.exp(0.2 * rough * self._normal(count, 1, 1, 1)), 0.05 * rough * self._normal(count, 1, 1, 1)
        images = (images - mean) * gain + (mean + bias).clamp(0.08, 0.92)
        # more or less light on the whole: dark pictures have little contrast, in their damages too
        exposure = torch.exp(0.5 * rough * self._normal(count, 1, 1, 1))
        images = images * torch.minimum(torch.maximum(exposure, 0.08 / mean), 0.92 / mean)
        lamp = self._noise(count, 1, 1) * column() + 0.6 * self._noise(count, 1, 2) * column()
        images = images * torch.exp(0.25 * rough * lamp)
        # the edge of the part, with what lies behind it
        edge = self._each(self._uniform(episodes, -1.25, -0.65)) + 0.12 * rough * self._normal(count, 1, 1, 1)
        side = self._each(torch.randint(4, (episodes,), generator=self.generator).float())
        along = torch.where(side % 2 == 0, self.grid[:, :1], self.grid[:, 1:]) * torch.where(side < 2, 1.0, -1.0)
        part = ((along - edge) * self.size / 2 / self._each(self._uniform(episodes, 1, 6))).clamp(0, 1)
        part = torch.maximum(part, 1 - self._each(self._chance(episodes, 0.35)))
        images = torch.lerp(self._each(self._uniform(episodes, 0, 0.3)), images, part)
        tint = self._normal(episodes, 3).repeat_interleave(self.pictures, 0) + 0.3 * self._normal(count, 3)
        images = images * torch.exp(0.06 * tint)[..., None, None]
        images = torch.lerp(images, images.mean(1, keepdim=True), self._each(self._chance(episodes, 0.4)))
        soft = F.interpolate(F.avg_pool2d(images, 2), images.shape[-2:], mode="bilinear")
        images = torch.lerp(images, soft, column() * (column() < 0.3 * rough))
        noise = self._each(self._log_uniform(episodes, 0.002, 0.03)) * torch.exp(0.3 * self._normal(count, 1, 1, 1))
        return (images + self._normal(*images.shape) * noise).clamp(0, 1)


class Batches(torch.utils.data.Dataset[Episodes]):
    """Batch ``i`` of an endless sequence; it depends on the seed and ``i`` alone, so training can go on anywhere."""

    def __init__(self, sheets: NDArray[np.uint8], size: int, episodes: int, seed: int, start: int, stop: int) -> None:
        self.sheets, self.size, self.episodes, self.seed = sheets, size, episodes, seed
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Episodes:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.start + index)
        return EpisodeMaker(self.sheets, self.size, generator).draw(self.episodes)
