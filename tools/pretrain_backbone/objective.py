"""The loss: a detector's own decision on episodes, made soft enough to learn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tools.pretrain_backbone.episodes import Episodes


def patch_embeddings(features: Sequence[Tensor]) -> Tensor:
    """Features of some layers as PatchCore joins them: 3 x 3 means, on the first one's grid; (N, C, h, w)."""
    maps = [F.avg_pool2d(layer.float(), 3, 1, 1) for layer in features]
    return torch.cat([maps[0], *[F.interpolate(layer, maps[0].shape[-2:], mode="bilinear") for layer in maps[1:]]], 1)


def damage_on_grid(damage: Tensor, side: int) -> Tensor:
    """The most of the damage (N, h, w) in the coarser cells of a map ``side`` cells high: (N, side, side)."""
    factor = damage.shape[-1] // side
    return damage if factor == 1 else F.max_pool2d(damage[:, None], factor)[:, 0]


def log_distances(queries: Tensor, bank: Tensor) -> Tensor:
    """Log of the distance of each query (..., Q, C) to the nearest of ``bank`` (..., B, C): (..., Q)."""
    squares = torch.baddbmm(bank.square().sum(-1)[:, None], queries, bank.transpose(1, 2), alpha=-2)
    nearest = (squares.amin(-1) + queries.square().sum(-1)).clamp(min=0)
    scale = bank.detach().square().sum(-1).mean(-1, keepdim=True)
    return 0.5 * torch.log(nearest + 1e-3 * scale + 1e-8)


def episodic_losses(features: Sequence[Tensor], drawn: Episodes, temperature: float) -> dict[str, Tensor]:
    """Losses of one embedding, and what a detector would score.

    ``patch``: each damaged patch must lie further from its bank than the intact patches of its episode, on average
    over pairs. ``image``: the furthest damaged patch of a picture further than the furthest patch of each intact
    picture, which is what an image's score is. ``sheet``: an intact patch must lie nearer to its own bank than to
    those of the other episodes. ``auroc``: share of pairs of pictures in the right order, not a loss.
    """
    embedded = patch_embeddings(features)
    side = embedded.shape[-1]
    damage = damage_on_grid(drawn.damage, side)
    episodes, bank = drawn.episodes, drawn.bank
    patches = embedded.flatten(2).transpose(1, 2).unflatten(0, (episodes, -1))
    damage = damage.unflatten(0, (episodes, -1))
    memory, asked = patches[:, :bank].flatten(1, 2), patches[:, bank:]
    pictures, places = asked.shape[1], asked.shape[2]
    scores = log_distances(asked.flatten(1, 2), memory).view(episodes, pictures, places) / temperature
    # two cells of layer2 beside a damage are neither: the means and the fields of view reach into it
    reach = 2 if side * 8 == drawn.images.shape[-1] else 1
    near = F.max_pool2d(damage[:, bank:].flatten(0, 1)[:, None], 2 * reach + 1, 1, reach)
    near = near.view(episodes, pictures, places)
    hit = damage[:, bank:].flatten(2) > 0.5
    intact = (near < 0.05) & ~hit
    is_intact = torch.arange(pictures) < pictures // 2
    patch, image, right = [], [], []
    for found, bad, good in zip(scores, hit, intact, strict=True):
        # with every place of the episode, a few thousand pairs each
        worse, better = found[bad], found[good]
        if len(worse):
            patch.append(F.softplus(better[None, ::3] - worse[:, None]).mean())
        top_bad = torch.where(bad, found, -1e4)[~is_intact]
        top_good = torch.where(good, found, -1e4)[is_intact]
        some = bad[~is_intact].any(1)
        if some.any():
            soft_bad, soft_good = 0.5 * torch.logsumexp(2 * top_bad[some], 1), 0.5 * torch.logsumexp(2 * top_good, 1)
            image.append(F.softplus(soft_good[None] - soft_bad[:, None]).mean())
            right.append((top_bad[some].amax(1)[:, None] > top_good.amax(1)[None]).float().mean())
    few = asked[:, : pictures // 2].flatten(1, 2)[:, ::5].flatten(0, 1)
    to_each = torch.stack([log_distances(few[None], own[None, ::2])[0] for own in memory], 1) / temperature
    own = torch.arange(episodes).repeat_interleave(len(few) // episodes)
    return {
        "patch": torch.stack(patch).mean(),
        "image": torch.stack(image).mean(),
        "sheet": F.cross_entropy(-to_each, own),
        "auroc": torch.stack(right).mean(),
    }
