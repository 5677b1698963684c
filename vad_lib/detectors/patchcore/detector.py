"""PatchCore as a detector: anomalib's results, with a faster selection and search of our own.

Paper: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", https://arxiv.org/abs/2106.08265
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from vad_lib.backbones.build import resolve_device
from vad_lib.backbones.weights import BackboneWeights
from vad_lib.detectors.base import DetectorFacts, FitReport, Scores, join_scores, require_batch
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.patchcore.k_centre_greedy import coreset_indices
from vad_lib.detectors.patchcore.nearest import MemoryBank
from vad_lib.detectors.patchcore.network import MapMaker, PatchEmbedder, image_scores
from vad_lib.detectors.storage import write_model_folder
from vad_lib.errors import InputError, ModelFormatError
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.randomness import seeded

MEMORY_SHARE = 0.35
"""Share of the machine's memory that the patches of the training images may take; the projection takes as much again
at most. Beyond it, equally many patches of each image are drawn at random."""


class PatchCore:
    """A memory of normal patches; an image is as anomalous as its strangest patch.

    Args:
        weights: the backbone's, found by ``resolve_backbone_weights``.
        layers: names of its layers.
        coreset_sampling_ratio: share of the training patches that is kept, 0 < ratio <= 1.
        seed: of the projection, the start of the selection and the drawing of patches.
        batch_size: images read at once.
        accelerator: cpu or gpu.
        memory_budget: bytes for the training patches; a share of the machine's memory by default.

    Attributes:
        bank_: the memory after ``fit`` or loading; rows (M, D).
        report: what happened in the fit.
    """

    facts = DetectorFacts(
        name="patchcore",
        needs_training=True,
        makes_maps=True,
        fixed_input_size=None,
        normals_only=True,
        needs_epochs=False,
    )

    def __init__(
        self,
        weights: BackboneWeights,
        layers: Sequence[str] = ("layer2", "layer3"),
        coreset_sampling_ratio: float = 0.1,
        seed: int = 42,
        batch_size: int = 4,
        accelerator: str = "cpu",
        memory_budget: int | None = None,
    ) -> None:
        self.weights = weights
        self.layers = tuple(weights.layers or layers)
        self.coreset_sampling_ratio = coreset_sampling_ratio
        self.seed = seed
        self.batch_size = batch_size
        self.device = resolve_device(accelerator)
        self.memory_budget = memory_budget if memory_budget is not None else _memory_budget()
        with seeded(seed):  # random weights, where they are allowed, come from the seed too
            self.embedder = PatchEmbedder(weights, self.layers).to(self.device)
        self.map_maker = MapMaker().to(self.device)
        self.bank_: MemoryBank | None = None
        self.report = FitReport()

    def fit(self, images: ImageDataset, *, validation: ImageDataset | None = None, progress: Progress = silent) -> Self:
        """Remember the training patches; ``validation`` has no part in it. See ``base.Detector.fit``.

        Raises:
            InputError: no training image can be read.
        """
        with seeded(self.seed):
            embedding, numbers = self._embed_all(images, progress)
            chosen = coreset_indices(embedding, self.coreset_sampling_ratio, progress)
        self.bank_ = MemoryBank(embedding[chosen].contiguous())
        notices = []
        if numbers["patches_kept_share"] < 1:
            notices.append(
                f"The patches of {len(images)} images do not fit in {self.memory_budget / 2**30:.1f} GiB: "
                f"{numbers['patches_kept_share']:.1%} of them, drawn at random, were used."
            )
        self.report = FitReport(notices=tuple(notices), numbers={**numbers, "memory_bank_rows": float(len(chosen))})
        return self

    @torch.inference_mode()
    def score(self, batch: torch.Tensor, *, with_maps: bool = True) -> Scores:
        """Score images, float32 (N, 3, H, W) in 0..1; see ``base.Detector.score``.

        Raises:
            ModelFormatError: neither fitted nor loaded.
        """
        require_batch(batch)
        if self.bank_ is None:
            raise ModelFormatError("This PatchCore has no memory yet: fit or load it first.")
        size = 1 if self.device.type == "cpu" else max(1, len(batch))
        return join_scores([self._score(part.to(self.device), self.bank_, with_maps) for part in batch.split(size)])

    def _score(self, images: torch.Tensor, bank: MemoryBank, with_maps: bool) -> Scores:
        embeddings, grid = self.embedder(images)
        distances, nearest = bank.nearest(embeddings.flatten(0, 1))
        distances, nearest = distances.view(len(images), -1), nearest.view(len(images), -1)
        scores = image_scores(bank, embeddings, distances, nearest)
        maps = None
        if with_maps:
            size = (images.shape[2], images.shape[3])
            maps = self.map_maker(distances.view(len(images), *grid), size).cpu().numpy()
        return Scores(scores.cpu().numpy(), maps)

    def _embed_all(self, images: ImageDataset, progress: Progress) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the patches of all training images, (N, D), in one piece of memory that was allocated once."""
        patches = {shape: self._patches_of(shape) for shape in set(images.prepared_shapes)}
        total = sum(patches[shape][0] for shape in images.prepared_shapes)
        width = next(iter(patches.values()))[1] if patches else 0
        share = min(1.0, self.memory_budget / max(1, total * width * 4))
        room = sum(max(1, int(patches[shape][0] * share)) for shape in images.prepared_shapes)
        embedding = torch.empty((room, width), device=self.device)
        filled = 0
        meter = ProgressMeter(progress, "Extracting features", len(images))
        for batch in images.batches(self.batch_size):
            for vectors in self.embedder(batch.images.to(self.device))[0]:
                if share < 1:
                    vectors = vectors[torch.randperm(len(vectors))[: max(1, int(len(vectors) * share))].to(self.device)]
                # An image that changed its size since it was checked may bring more than was counted.
                vectors = vectors[: room - filled]
                embedding[filled : filled + len(vectors)] = vectors
                filled += len(vectors)
            meter.advance(len(batch.indices))
        if not filled:
            raise InputError(f"None of the {len(images)} training images can be read; there is nothing to learn from.")
        return embedding[:filled], {"patches": float(filled), "patches_kept_share": share}

    def _patches_of(self, shape: tuple[int, int]) -> tuple[int, int]:
        vectors, _ = self.embedder(torch.zeros((1, 3, *shape), device=self.device))
        return vectors.shape[1], vectors.shape[2]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the backbone's tensors and the memory."""
        if self.bank_ is None:
            raise ModelFormatError("This PatchCore has no memory yet: fit it first.")
        backbone = self.embedder.backbone.state_dict()
        return {
            "memory_bank": self.bank_.rows,
            **{f"feature_extractor.{key}": value for key, value in backbone.items()},
        }

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> Self:
        """Take over the tensors of a saved detector.

        Raises:
            ModelFormatError: they are not of a PatchCore with this backbone and these layers.
        """
        prefix = "feature_extractor."
        backbone = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        try:
            self.embedder.backbone.load_state_dict(backbone)
            self.bank_ = MemoryBank(tensors["memory_bank"].to(self.device))
        except (KeyError, RuntimeError) as error:
            raise ModelFormatError(f"The tensors are not those of this PatchCore: {error}") from error
        return self

    def describe(self) -> dict[str, Any]:
        """Return what ``registry.detector_from_description`` needs."""
        return {
            "name": self.facts.name,
            "backbone": self.weights.to_json(),
            "arguments": {
                "layers": list(self.layers),
                "coreset_sampling_ratio": self.coreset_sampling_ratio,
                "seed": self.seed,
            },
        }

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``detector.json``."""
        write_model_folder(folder, self.state_dict(), {"detector": self.describe()})


def _memory_budget() -> int:
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # a container may have less than the machine that it runs on; "max" is no limit
    with contextlib.suppress(OSError, ValueError):
        available = min(available, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return int(available * MEMORY_SHARE)
