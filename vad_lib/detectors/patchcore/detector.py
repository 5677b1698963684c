"""PatchCore as a detector: anomalib's results, with a faster selection and search of our own.

Paper: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", https://arxiv.org/abs/2106.08265
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from vad_lib.backbones.build import fitting_layers, resolve_device
from vad_lib.backbones.weights import BackboneWeights
from vad_lib.detectors.base import DetectorFacts, FitReport, Scores, join_scores, require_batch
from vad_lib.detectors.feature_cache import FeatureCache, begin_cache, cache_numbers
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.patchcore.bank_choice import choose_bank
from vad_lib.detectors.patchcore.bank_plan import CAP_ROWS, BankMethod, budget_in_bytes, plan_bank
from vad_lib.detectors.patchcore.nearest import MemoryBank
from vad_lib.detectors.patchcore.network import MapMaker, PatchEmbedder, image_score
from vad_lib.detectors.patchcore.patches import PatchSource
from vad_lib.detectors.storage import write_model_folder
from vad_lib.errors import ModelFormatError
from vad_lib.progress import Progress, silent
from vad_lib.randomness import seeded


class PatchCore:
    """A memory of normal patches; an image is as anomalous as its strangest patch.

    Args:
        weights: the backbone's, found by ``resolve_backbone_weights``.
        layers: names of its layers.
        coreset_sampling_ratio: share of the training patches that is kept, 0 < ratio <= 1; holds up to the cap.
        seed: of the projection, the start of the selection and the drawing of patches.
        batch_size: images read at once.
        accelerator: cpu or gpu.
        memory_bank: 'exact', 'streaming', or 'auto', which is exact where that fits the budget; see ``bank_plan``.
        memory_budget_gib: memory for choosing the bank, in GiB; 0 is half of the machine's.
        bank_cap_rows: most rows of the bank.
        work_folder: where a streaming fit keeps what it has done, to go on after a kill; nowhere by default.
        feature_cache: of features that earlier fits extracted. It has no effect on any result, and none at all with
            augmentation or with random weights.

    Attributes:
        bank_: the memory after ``fit`` or loading; rows (M, D).
        bank_record: how the bank was chosen (see ``bank_choice.choose_bank``); empty before a fit, and in models of
            versions that did not record it.
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
        memory_bank: BankMethod = "auto",
        memory_budget_gib: float = 0.0,
        bank_cap_rows: int = CAP_ROWS,
        work_folder: Path | None = None,
        feature_cache: FeatureCache | None = None,
    ) -> None:
        self.weights = weights
        self.layers = fitting_layers(weights, layers)
        self._layers_of_plan = tuple(layers)
        self.coreset_sampling_ratio = coreset_sampling_ratio
        self.seed = seed
        self.batch_size = batch_size
        self.device = resolve_device(accelerator)
        self.accelerator = accelerator
        self.memory_bank: BankMethod = memory_bank
        self.memory_budget_gib = memory_budget_gib
        self.bank_cap_rows = bank_cap_rows
        self.work_folder = work_folder
        self.feature_cache = feature_cache
        with seeded(seed):  # random weights, where they are allowed, come from the seed too
            self.embedder = PatchEmbedder(weights, self.layers).to(self.device)
        self.map_maker = MapMaker().to(self.device)
        self.bank_: MemoryBank | None = None
        # a compiled network that takes the embedder's place in scoring, see vad_lib.compiled
        self.runner: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] | None = None
        self.bank_record: dict[str, Any] = {}
        self.report = FitReport()

    def fit(self, images: ImageDataset, *, validation: ImageDataset | None = None, progress: Progress = silent) -> Self:
        """Remember the training patches; ``validation`` has no part in it. See ``base.Detector.fit``.

        Raises:
            InputError: no training image can be read.
        """
        facts = {"detector": "patchcore", "weights": self.weights.to_json(), "layers": list(self.layers)}
        cache = begin_cache(self.feature_cache, images, facts, self.weights, self.device)
        source = PatchSource(images, self.embedder, self.device, self.batch_size, cache)
        plan = plan_bank(
            len(images),
            source.total / max(1, len(images)),
            source.channels,
            self.coreset_sampling_ratio,
            method=self.memory_bank,
            budget_bytes=budget_in_bytes(self.memory_budget_gib, self.accelerator),
            cap_rows=self.bank_cap_rows,
        )
        with seeded(self.seed):
            chosen = choose_bank(
                source,
                plan,
                self.coreset_sampling_ratio,
                self.seed,
                {**facts, "seed": self.seed},
                self.work_folder,
                progress,
            )
        self.bank_, self.bank_record = chosen.bank, chosen.record
        notices = chosen.notices
        if self.layers != self._layers_of_plan:
            notices = (
                *notices,
                f"Instead of the layers {', '.join(self._layers_of_plan)} of the plan, {', '.join(self.layers)} of "
                f"{self.weights.name} were used, which stands in for {self.weights.asked_for}.",
            )
        self.report = FitReport(notices=notices, numbers={**chosen.numbers, **cache_numbers(cache)})
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
        embeddings, grid = self._embed(images)
        nearest = None
        if with_maps:
            found = bank.nearest(embeddings.flatten(0, 1))
            nearest = [each.view(len(images), -1) for each in found]
        scores = []
        for number, patches in enumerate(embeddings):
            if nearest is None or bank.screened:
                # Also beside maps, for which the same row may be found by other arithmetic: a score has the same bits
                # whether maps are wanted or not.
                worst = bank.farthest(patches)
            else:
                worst = bank.farthest_of(nearest[0][number], nearest[1][number])
            scores.append(image_score(bank, patches, worst))
        maps = None
        if nearest is not None:
            size = (images.shape[2], images.shape[3])
            maps = self.map_maker(nearest[0].view(len(images), *grid), size).cpu().numpy()
        return Scores(torch.stack(scores).cpu().numpy(), maps)

    def _embed(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        if self.runner is None:
            embeddings, grid = self.embedder(images)
            return embeddings, grid
        (found,) = self.runner(images)
        return found.flatten(1, 2), (found.shape[1], found.shape[2])

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
                "memory_bank": self.memory_bank,
                "memory_budget_gib": self.memory_budget_gib,
                "bank_cap_rows": self.bank_cap_rows,
            },
            "memory_bank": self.bank_record,
        }

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``detector.json``."""
        write_model_folder(folder, self.state_dict(), {"detector": self.describe()})
