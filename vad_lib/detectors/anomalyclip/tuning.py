"""Learning prompts, or the vectors themselves, from other images with masks.

The tower is frozen and nothing is augmented, so each image goes through it once; its vector and its patches are kept
in half precision (with a ViT-L at 518 pixels 2.1 MB an image and level). An epoch is then the text tower, for two
prompts, and products. Loss, optimiser and their numbers are those of the paper.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from vad_lib.detectors.anomalyclip.head import ClassVectors, PromptHead, VectorHead
from vad_lib.detectors.anomalyclip.learnt_file import Learnt
from vad_lib.detectors.anomalyclip.tower import create_tower
from vad_lib.detectors.losses import local_loss
from vad_lib.detectors.masked_images import MaskedImage
from vad_lib.encoders.protocol import Embedding
from vad_lib.encoders.store import sha256_of
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import InputError
from vad_lib.images.decoding import decode_image
from vad_lib.preprocessing import Preprocessing
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.randomness import seeded

LEARNING_RATE, BETAS = 1e-3, (0.5, 0.999)
LOCAL_WEIGHT = 4.0
"""Of the losses of maps, beside the loss of whole images."""
CONTEXT, DEEP, DEEP_LENGTH, SPREAD = 12, 8, 4, 0.02
"""Tokens of a prompt, most layers with own tokens, how many each has, and the deviation of their random start."""


@dataclass(frozen=True)
class TuningData:
    """What is kept of N images.

    Attributes:
        vectors: float32 (N, D).
        patches: (N, C, rows, columns) for each level; any precision.
        masks: bool (N, H, W).
        labels: int64 (N,), 1 where the image is damaged.
    """

    vectors: torch.Tensor
    patches: tuple[torch.Tensor, ...]
    masks: torch.Tensor
    labels: torch.Tensor

    def batches(self, size: int) -> Iterator[tuple[Embedding, torch.Tensor, torch.Tensor]]:
        """Yield embeddings, masks and labels in a random order."""
        for places in torch.randperm(len(self.labels)).split(size):
            patches = tuple(level[places].float() for level in self.patches)
            yield Embedding(self.vectors[places], patches), self.masks[places], self.labels[places]


def tune(
    images: Sequence[MaskedImage],
    weights: BackboneWeights,
    *,
    line_sha256: Collection[str],
    levels: Sequence[int] = (24,),
    side: int = 518,
    kind: str = "prompts",
    epochs: int = 15,
    batch_size: int = 8,
    seed: int = 42,
    progress: Progress = silent,
) -> Learnt:
    """Learn what normal and abnormal look like, on images of other lines.

    Args:
        images: normal and damaged ones, the damaged ones with masks.
        weights: of the encoder.
        line_sha256: of the image files of the line that will be inspected with the result.
        levels: blocks whose patches make the map, counted from 1.
        side: pixels of a side of the prepared images.
        kind: 'prompts' for a CLIP with its text tower, 'vectors' for any encoder.
        epochs: passes over the images.
        batch_size: images in a step.
        seed: of the start and the order.
        progress: told of every step.

    Returns:
        The learnt tokens or vectors; ``Learnt.save`` writes them.

    Raises:
        InputError: an image is of the line that will be inspected, there is no damaged image, or no normal one.
        PlanError: the encoder cannot be used so.
        UnreadableImageError: an image or a mask cannot be read.
    """
    digests = [sha256_of(one.image) for one in images]
    if same := [str(one.image) for one, digest in zip(images, digests, strict=True) if digest in set(line_sha256)]:
        raise InputError(
            f"{len(same)} of the images to learn from belong to the line that will be inspected, such as {same[0]}: "
            "its figures would be better than on new images. Leave them out."
        )
    if len({one.mask is None for one in images}) < 2:
        raise InputError("Prompts are learnt from normal and damaged images: there must be some of each.")
    levels = tuple(sorted(levels))
    data = extract(images, create_tower(weights, levels, kind), side, progress)
    with seeded(seed):
        head = _new_head(kind, weights, data, len(levels))
        learn(head, data, epochs=epochs, batch_size=batch_size, progress=progress)
    if isinstance(head, PromptHead):
        tensors = {"ctx": head.context.detach(), "deep": head.deep.detach()}
    else:
        with torch.no_grad():
            tensors = head().tensors()
    provenance = {"encoder_sha256": weights.sha256, "levels": list(levels), "images": len(images), "epochs": epochs}
    return Learnt(kind, tensors, {**provenance, "source": "learnt here"}, tuple(digests))


@torch.no_grad()
def extract(images: Sequence[MaskedImage], tower: nn.Module, side: int, progress: Progress = silent) -> TuningData:
    """Take each image through the tower once.

    Raises:
        UnreadableImageError: an image or a mask cannot be read.
    """
    preprocessing = Preprocessing((side, side))
    meter = ProgressMeter(progress, "Extracting features", len(images))
    vectors, patches, masks = [], [], []
    for one in images:
        found = tower(preprocessing.prepare(decode_image(one.image).values)[None])
        vectors.append(found.vectors)
        patches.append([level.half() for level in found.patches])
        mask = torch.zeros(side, side, dtype=torch.bool)
        if one.mask is not None:
            mask = preprocessing.prepare(decode_image(one.mask).values).mean(0) > 0.5
        masks.append(mask)
        meter.advance(1)
    return TuningData(
        torch.cat(vectors),
        tuple(torch.cat(level) for level in zip(*patches, strict=True)),
        torch.stack(masks),
        torch.tensor([one.mask is not None for one in images]).long(),
    )


def learn(
    head: nn.Module, data: TuningData, *, epochs: int, batch_size: int, progress: Progress = silent
) -> list[tuple[float, float]]:
    """Change a head so that it tells normal from abnormal; the text tower stays as it is.

    Returns:
        The losses of each step: of the maps, and of whole images.
    """
    optimiser = torch.optim.Adam([one for one in head.parameters() if one.requires_grad], LEARNING_RATE, BETAS)
    meter = ProgressMeter(progress, "Learning prompts", epochs * len(data.labels))
    losses = []
    for _ in range(epochs):
        for found, masks, labels in data.batches(batch_size):
            vectors = head()
            local = LOCAL_WEIGHT * local_loss(
                vectors.patch_probabilities(found, (masks.shape[1], masks.shape[2])), masks
            )
            whole = functional.cross_entropy(vectors.image_logits(found), labels)
            optimiser.zero_grad(set_to_none=True)
            (local + whole).backward()
            optimiser.step()
            losses.append((float(local.detach()), float(whole.detach())))
            meter.advance(len(labels))
    return losses


def _new_head(kind: str, weights: BackboneWeights, data: TuningData, n_levels: int) -> nn.Module:
    if kind == "prompts":
        text = weights.model_config["text_cfg"]
        context = torch.randn(2, CONTEXT, text["width"])
        deep = torch.randn(min(DEEP, text["layers"] - 1), DEEP_LENGTH, text["width"])
        return PromptHead(weights, SPREAD * context, SPREAD * deep, n_levels)
    lengths = [data.vectors.shape[1], *(level.shape[1] for level in data.patches)]
    image, *levels = (functional.normalize(torch.randn(2, length), dim=1) for length in lengths)
    return VectorHead(ClassVectors(image, tuple(levels)))
