"""What is compared with an image: two vectors for the whole and two for the patches of each level.

They come from prompts through the text tower, or are learnt themselves, which needs no text tower. (The latter as in
UniADet, https://arxiv.org/abs/2601.05552.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vad_lib.detectors.maps import TEMPERATURE, abnormal_maps
from vad_lib.encoders.clip import CLIP_WORDS, build_text_tower, tensors_of, tokenizer_of
from vad_lib.encoders.protocol import Embedding
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import ModelFormatError, PlanError

WORDS = ("object.", "damaged object.")
"""What stands behind the learnt tokens of the two prompts, normal and abnormal."""


@dataclass(frozen=True)
class ClassVectors:
    """What images are compared with; the first of two is normal, the second abnormal.

    Attributes:
        image: float32 (2, D), of whole images.
        levels: float32 (2, C) for each level, of patches.
    """

    image: torch.Tensor
    levels: tuple[torch.Tensor, ...]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name."""
        return {"image": self.image} | {f"level_{number}": vectors for number, vectors in enumerate(self.levels)}

    @classmethod
    def of(cls, tensors: dict[str, torch.Tensor]) -> ClassVectors:
        """Inverse of ``tensors``.

        Raises:
            KeyError: one is missing.
        """
        return cls(tensors["image"], tuple(tensors[f"level_{number}"] for number in range(len(tensors) - 1)))

    def image_logits(self, found: Embedding) -> torch.Tensor:
        """Return (N, 2): cosine over temperature."""
        logits: torch.Tensor = functional.normalize(found.vectors, dim=1) @ functional.normalize(self.image, dim=1).T
        return logits / TEMPERATURE

    def patch_probabilities(self, found: Embedding, size: tuple[int, int]) -> list[torch.Tensor]:
        """Return, for each level, the probability that each pixel is abnormal, (N, H, W)."""
        return abnormal_maps(found.patches, self.levels, size)


class PromptHead(nn.Module):
    """Two prompts with learnt tokens, and the frozen text tower that turns them into vectors.

    Args:
        weights: of a CLIP folder with its files.
        context: float32 (2, 12, W), the learnt tokens of the normal and the abnormal prompt.
        deep: float32 (8, 4, W), tokens that replace those behind the first one before the blocks 2 to 9 of the tower.
        n_levels: levels that the vectors are wanted for; each gets the same.

    Raises:
        PlanError: the folder's text tower is not CLIP's.
        ModelFormatError: there is no folder, or its text tower has another width than the prompts.
    """

    def __init__(self, weights: BackboneWeights, context: torch.Tensor, deep: torch.Tensor, n_levels: int) -> None:
        super().__init__()
        if weights.file is None:
            raise ModelFormatError(f"The text tower of {weights.name} is not here: its folder is needed for prompts.")
        tower: Any = build_text_tower(weights, tensors_of(weights))
        if tower.pool_type != "argmax" or tower.vocab_size != CLIP_WORDS or tower.attn_mask is None:
            raise PlanError(f"AnomalyCLIP's prompts need CLIP's own text tower; that of {weights.name} is another one.")
        if context.shape[2] != tower.width or len(deep) >= len(tower.transformer.resblocks):
            raise ModelFormatError(
                f"The prompts are for a text tower of width {context.shape[2]} and more than {len(deep)} blocks; "
                f"{weights.name} has width {tower.width} and {len(tower.transformer.resblocks)} blocks. Take the CLIP "
                "that they were learnt with."
            )
        self.tower = tower
        self.n_levels = n_levels
        self.context, self.deep = nn.Parameter(context.clone()), nn.Parameter(deep.clone())
        tokens = tokenizer_of(weights)([f"{' '.join(['X'] * context.shape[1])} {words}" for words in WORDS])
        self.register_buffer("tokens", tokens, persistent=False)

    def forward(self) -> ClassVectors:
        """Return the vectors of the two prompts, each of length 1."""
        tower, tokens, (_, length, _) = self.tower, torch.as_tensor(self.tokens), self.context.shape
        words = tower.token_embedding(tokens)
        found = torch.cat([words[:, :1], self.context, words[:, 1 + length :]], dim=1) + tower.positional_embedding
        for number, block in enumerate(tower.transformer.resblocks):
            if 1 <= number <= len(self.deep):
                # the authors round these tokens to half precision, and their published prompts were learnt so
                deep = self.deep[number - 1].half().to(found.dtype).expand(len(found), -1, -1)
                found = torch.cat([found[:, :1], deep, found[:, 1 + deep.shape[1] :]], dim=1)
            found = block(found, attn_mask=tower.attn_mask)
        found = tower.ln_final(found)[torch.arange(len(found)), tokens.argmax(dim=1)]
        projection = tower.text_projection
        found = projection(found) if isinstance(projection, nn.Module) else found @ projection
        vectors = functional.normalize(found, dim=1)
        return ClassVectors(vectors, (vectors,) * self.n_levels)


class VectorHead(nn.Module):
    """The vectors themselves, learnt."""

    def __init__(self, start: ClassVectors) -> None:
        super().__init__()
        self.image = nn.Parameter(start.image.clone())
        self.levels = nn.ParameterList([nn.Parameter(vectors.clone()) for vectors in start.levels])

    def forward(self) -> ClassVectors:
        """Return them as they are."""
        return ClassVectors(self.image, tuple(self.levels))
