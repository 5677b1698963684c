"""The image side of AnomalyCLIP: CLIP's own vector of an image, and patches that stay where they are.

CLIP's attention mixes each patch with all others, so its patches say little about their place. From a certain block
on AnomalyCLIP keeps a second stream beside the ordinary one, which attends by values only: a patch takes from those
patches that resemble it. (The paper's DPAM with V-V attention: Zhou et al., ICLR 2024, https://arxiv.org/abs/2310.18961.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vad_lib.encoders.build import Normalise
from vad_lib.encoders.clip import build_image_tower, embed_patches, tensors_of
from vad_lib.encoders.encoder import create_encoder, encoder_layers
from vad_lib.encoders.precision import in_own_precision
from vad_lib.encoders.protocol import Embedding
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import PlanError


class LocalTower(nn.Module):
    """CLIP's transformer with the second stream; vectors and patches lie in the space of texts.

    Args:
        weights: of the library open_clip.
        levels: blocks whose patches are wanted, counted from 1.

    Raises:
        PlanError: the tower is not a plain transformer, or has no local patches at a level; says what it has.
    """

    def __init__(self, weights: BackboneWeights, levels: Sequence[int]) -> None:
        super().__init__()
        from open_clip.transformer import ResidualAttentionBlock

        visual: Any = build_image_tower(weights, tensors_of(weights))
        blocks = getattr(getattr(visual, "transformer", None), "resblocks", [])
        if not len(blocks) or not all(isinstance(block, ResidualAttentionBlock) for block in blocks):
            raise PlanError(
                f"AnomalyCLIP's prompts need a CLIP whose image tower is a plain transformer, which {weights.name} is "
                "not. Take such a CLIP, or learnt weights in place of prompts."
            )
        self.first = max(1, len(blocks) // 4)
        if wrong := [level for level in levels if not self.first <= level <= len(blocks)]:
            raise PlanError(
                f"anomalyclip_levels names the block {wrong[0]}, but {weights.name} has local patches behind the "
                f"blocks {self.first} to {len(blocks)}."
            )
        self.levels = tuple(sorted(levels))
        self.weights = weights
        self.normalise = Normalise(weights)
        self.visual = visual

    @in_own_precision
    def forward(self, images: torch.Tensor) -> Embedding:
        """Return vectors (N, D) and, a level each, patches (N, D, rows, columns) of images (N, 3, H, W) in 0..1."""
        visual: Any = self.visual
        tokens, (rows, columns) = embed_patches(visual, self.normalise(images))
        local = tokens
        found = []
        for number, block in enumerate(visual.transformer.resblocks, 1):
            if number >= self.first:
                local = (tokens if number == self.first else local) + attend_by_values(block, tokens)
            tokens = block(tokens)
            if number in self.levels:
                patches = visual.ln_post(local[:, 1:]) @ visual.proj
                found.append(patches.transpose(1, 2).unflatten(2, (rows, columns)))
        return Embedding(tokens[:, 0] @ visual.proj, tuple(found))


def attend_by_values(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return what a block's attention adds (N, tokens, C), with its values in the place of queries and keys."""
    attention = block.attn
    weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
    values = functional.linear(block.ln_1(tokens), weight, bias)
    heads = values.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
    mixed = functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
    added: torch.Tensor = block.ls_1(attention.out_proj(mixed))
    return added


def create_tower(weights: BackboneWeights, levels: Sequence[int], kind: str) -> nn.Module:
    """Return the tower that goes with what was learnt.

    Args:
        weights: of the encoder.
        levels: blocks whose patches are wanted, counted from 1.
        kind: 'prompts' needs ``LocalTower``; 'vectors' takes any encoder as it is, without its text tower.

    Raises:
        PlanError: the encoder has no text tower where prompts are to be compared with, or no such block.
    """
    if kind == "prompts":
        if weights.library != "open_clip":
            raise PlanError(
                f"AnomalyCLIP's prompts need a CLIP folder with a text tower, and {weights.asked_for or weights.name} "
                "is none. Bring one (`vad weights add FOLDER`, or `vad weights fetch OWNER/NAME`) and name it in "
                "anomalyclip_encoder, or name learnt weights in anomalyclip_prompts."
            )
        return LocalTower(weights, levels)
    names = encoder_layers(weights)
    if wrong := [level for level in levels if level > len(names)]:
        raise PlanError(f"anomalyclip_levels names the block {wrong[0]}, but {weights.name} has {len(names)} layers.")
    return create_encoder(weights, tuple(names[level - 1] for level in levels), text=False)
