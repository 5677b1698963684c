"""PatchCore as a detector: anomalib's results, with a faster selection and search of our own.

Paper: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", https://arxiv.org/abs/2106.08265
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from vad_lib.detectors.base import (
    Detector,
    ExtendedDetector,
    FitReport,
    FitSettings,
    Scores,
    join_scores,
    require_batch,
)
from vad_lib.detectors.feature_cache import FeatureCache, begin_cache, cache_numbers
from vad_lib.detectors.fit_forecast import FitForecast, Size
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.maps import MapMaker
from vad_lib.detectors.patchcore.bank_choice import choose_bank
from vad_lib.detectors.patchcore.bank_plan import (
    CAP_ROWS,
    BankMethod,
    bank_bytes,
    bank_sizes,
    budget_in_bytes,
    plan_bank,
)
from vad_lib.detectors.patchcore.exported_network import PatchCoreGraph, PatchEmbedding
from vad_lib.detectors.patchcore.extension import select_new_rows
from vad_lib.detectors.patchcore.fit_cost import forecast_fit
from vad_lib.detectors.patchcore.nearest import MemoryBank
from vad_lib.detectors.patchcore.network import PatchEmbedder, cosine_distances, image_score, top_percent
from vad_lib.detectors.patchcore.patches import PatchSource
from vad_lib.detectors.patchcore.plan_arguments import PatchCoreArguments, Preset
from vad_lib.encoders.build import fitting_layers
from vad_lib.encoders.weight_file import BackboneWeights, part_of
from vad_lib.errors import InputError, ModelFormatError
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.randomness import seeded


class PatchCore(Detector):
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
        preset: 'patchcore' as in its paper, or 'dinov2': patches are compared by the cosine, and the score of an image
            is the mean of its strangest hundredth, as in AnomalyDINO.

    Attributes:
        bank_: the memory after ``fit`` or loading; rows (M, D).
        bank_record: how the bank was chosen (see ``bank_choice.choose_bank``); empty before a fit.
    """

    name = "patchcore"

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
        preset: Preset = "patchcore",
    ) -> None:
        super().__init__(weights, accelerator)
        self.layers = fitting_layers(weights, layers)
        self._layers_of_plan = tuple(layers)
        self.coreset_sampling_ratio = coreset_sampling_ratio
        self.seed = seed
        self.batch_size = batch_size
        self.memory_bank: BankMethod = memory_bank
        self.memory_budget_gib = memory_budget_gib
        self.bank_cap_rows = bank_cap_rows
        self.work_folder = work_folder
        self.feature_cache = feature_cache
        self.preset: Preset = preset
        with seeded(seed):  # random weights, where they are allowed, come from the seed too
            self.embedder = PatchEmbedder(weights, self.layers, cosine=preset == "dinov2").to(self.device)
        self.map_maker = MapMaker().to(self.device)
        self.bank_: MemoryBank | None = None
        self.bank_record: dict[str, Any] = {}

    @classmethod
    def create(cls, arguments: PatchCoreArguments, settings: FitSettings) -> Self:
        """Make the unfitted detector that a plan asks for; see ``base.Detector.create``."""
        return cls(
            settings.weights,
            arguments.layers(),
            arguments.patchcore_coreset_sampling_ratio,
            settings.seed,
            settings.batch_size,
            settings.accelerator,
            memory_bank=arguments.patchcore_memory_bank,
            memory_budget_gib=arguments.patchcore_memory_budget_gib,
            bank_cap_rows=arguments.patchcore_bank_cap_rows,
            work_folder=settings.work_folder,
            feature_cache=settings.feature_cache,
            preset=arguments.patchcore_preset,
        )

    def fit(self, images: ImageDataset, *, validation: ImageDataset | None = None, progress: Progress = silent) -> Self:
        """Remember the training patches; ``validation`` has no part in it. See ``base.Detector.fit``.

        Raises:
            InputError: no training image can be read.
        """
        facts = {"detector": self.name, "weights": self.weights.to_json(), "layers": list(self.layers)}
        cache = begin_cache(self.feature_cache, images, facts, self.weights, self.device)
        source = PatchSource(images, self.embedder, self.device, self.batch_size, cache)
        plan = plan_bank(**self._bank_arguments(source))
        with seeded(self.seed):
            chosen = choose_bank(
                source,
                plan,
                self.coreset_sampling_ratio,
                self.seed,
                {**facts, "seed": self.seed, "preset": self.preset},
                self.work_folder,
                progress,
            )
        self.bank_, self.bank_record = chosen.bank, chosen.record
        notices = chosen.notices
        if self.layers != self._layers_of_plan:
            notices = (
                *notices,
                f"Instead of the layers {', '.join(self._layers_of_plan)} of the plan, {', '.join(self.layers)} of "
                f"{self.weights.name} were used, which is the fallback for {self.weights.asked_for}.",
            )
        self.report = FitReport(notices=notices, numbers={**chosen.numbers, **cache_numbers(cache)})
        return self

    def score(self, batch: torch.Tensor, *, with_maps: bool = True) -> Scores:
        """Score images, float32 (N, 3, H, W) in 0..1; see ``base.Detector.score``.

        Raises:
            ModelFormatError: neither fitted nor loaded.
        """
        require_batch(batch)
        return self._score_each(batch, self._bank(), with_maps=with_maps)

    @torch.inference_mode()
    def _score_each(self, batch: torch.Tensor, bank: MemoryBank, *, with_maps: bool) -> Scores:
        size = 1 if self.device.type == "cpu" else max(1, len(batch))
        return join_scores([self._score(part.to(self.device), bank, with_maps) for part in batch.split(size)])

    def _score(self, images: torch.Tensor, bank: MemoryBank, with_maps: bool) -> Scores:
        embeddings, grid = self._embed(images)
        if self.embedder.cosine:
            return self._score_by_cosine(images, embeddings, grid, bank, with_maps)
        nearest = None
        if with_maps:
            nearest = bank.nearest(embeddings.flatten(0, 1))[0].view(len(images), -1)
        scores = []
        for number, patches in enumerate(embeddings):
            worst = bank.farthest(patches) if nearest is None else bank.farthest_of(patches, nearest[number])
            scores.append(image_score(bank, patches, worst))
        maps = None
        if nearest is not None:
            size = (images.shape[2], images.shape[3])
            maps = self.map_maker(nearest.view(len(images), *grid), size).cpu().numpy()
        return Scores(torch.stack(scores).cpu().numpy(), maps)

    def _score_by_cosine(
        self,
        images: torch.Tensor,
        embeddings: torch.Tensor,
        grid: tuple[int, int],
        bank: MemoryBank,
        with_maps: bool,
    ) -> Scores:
        distances = cosine_distances(bank.nearest(embeddings.flatten(0, 1))[0]).view(len(images), -1)
        maps = None
        if with_maps:
            size = (images.shape[2], images.shape[3])
            maps = self.map_maker(distances.view(len(images), *grid), size).cpu().numpy()
        return Scores(top_percent(distances).cpu().numpy(), maps)

    def _embed(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        if self.runner is None:
            embeddings, grid = self.embedder(images)
            return embeddings, grid
        (found,) = self.runner(images)
        return found.flatten(1, 2), (found.shape[1], found.shape[2])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the backbone's tensors and the memory."""
        backbone = self.embedder.backbone.state_dict()
        return {
            "memory_bank": self._bank().rows,
            **{f"feature_extractor.{key}": value for key, value in backbone.items()},
        }

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> Self:
        """Take over the tensors of a saved detector.

        Raises:
            ModelFormatError: they are not of a PatchCore with this backbone and these layers.
        """
        try:
            self.embedder.backbone.load_state_dict(part_of(tensors, "feature_extractor."))
            self.bank_ = MemoryBank(tensors["memory_bank"].to(self.device))
        except (KeyError, RuntimeError) as error:
            raise ModelFormatError(f"The tensors are not those of this PatchCore: {error}") from error
        return self

    def init_arguments(self) -> dict[str, Any]:
        """Return what a loaded PatchCore is made with."""
        return {
            "layers": list(self.layers),
            "coreset_sampling_ratio": self.coreset_sampling_ratio,
            "seed": self.seed,
            "memory_bank": self.memory_bank,
            "memory_budget_gib": self.memory_budget_gib,
            "bank_cap_rows": self.bank_cap_rows,
            "preset": self.preset,
        }

    def describe(self) -> dict[str, Any]:
        """Return what ``from_description`` needs, and how the bank was chosen."""
        return {**super().describe(), "memory_bank": self.bank_record}

    @classmethod
    def from_description(
        cls, description: dict[str, Any], tensors: dict[str, torch.Tensor], *, accelerator: str = "cpu"
    ) -> Self:
        """Make a fitted PatchCore from what ``describe`` and ``state_dict`` returned."""
        detector = super().from_description(description, tensors, accelerator=accelerator)
        detector.bank_record = dict(description["memory_bank"])
        return detector

    def forecast(self, images: ImageDataset, validation: ImageDataset | None, memory_bytes: int) -> FitForecast:
        """Forecast a fit; see ``base.Detector.forecast``. The sizes are those that the fit itself plans with.

        Raises:
            InputError: none of the images that are tried can be read.
        """
        source = PatchSource(images, self.embedder, self.device, self.batch_size)

        def score(batch: torch.Tensor, bank: MemoryBank) -> Scores:
            return self._score_each(batch, bank, with_maps=False)

        return forecast_fit(source, self._bank_arguments(source), self.seed, score, memory_bytes)

    def sizes(self) -> tuple[Size, ...]:
        """Return the rows and the memory of the bank."""
        rows, channels = self._bank().rows.shape
        return bank_sizes(rows, bank_bytes(rows, channels))

    def graph(self) -> nn.Module:
        """Return backbone, patch embedding, search, weighing and map as one network; see ``base.Detector.graph``."""
        return PatchCoreGraph(self.embedder, self.map_maker, self._bank())

    def compiled_part(self) -> nn.Module:
        """Return the backbone with the patch embedding: the search stays ours, it is faster than any runtime's."""
        return PatchEmbedding(self.embedder)

    def extend(self, images: ImageDataset, progress: Progress = silent) -> ExtendedDetector:
        """Return a copy whose bank has further rows, for what the images have and the bank does not cover.

        A refit would keep the coreset ratio of the new patches; no more than that is added, and never beyond the cap
        of the bank. Distances of patches, and so anomaly maps, can only become smaller. The score of an image, which
        PatchCore weighs by how common the neighbourhood of its worst patch is, nearly always does.

        Raises:
            InputError: the bank is full.
        """
        bank = self._bank()
        if len(bank.rows) >= self.bank_cap_rows:
            raise InputError(
                f"The memory bank is full: it has {len(bank.rows):,} rows, and patchcore_bank_cap_rows of the plan it "
                f"was trained with allows {self.bank_cap_rows:,}. Raise that, put the images into the ground-truth "
                "table, and train again (vad train)."
            )
        radius = float(self.bank_record["covering_radius"])
        source = PatchSource(images, self.embedder, self.device, self.batch_size)
        meter = ProgressMeter(progress, "Extracting features", len(images))
        # covered patches are let go at once: what is kept does not grow with the number of images, but with what is new
        parts = [patches[bank.nearest(patches)[0] > radius] for patches in source.each(range(len(images)), meter)]
        share = math.ceil(source.total * self.coreset_sampling_ratio)
        room = self.bank_cap_rows - len(bank.rows)
        added = select_new_rows(bank, torch.cat(parts), radius, min(share, room))
        record = dict(self.bank_record)
        record |= {"rows": len(bank.rows) + len(added.rows), "patches": record["patches"] + source.total}
        # beside the radius of the fit, which says what later images must add; it must not grow by what was left out
        if added.left_radius > radius:
            record["uncovered_radius"] = added.left_radius
        else:
            record.pop("uncovered_radius", None)
        tensors = {**self.state_dict(), "memory_bank": torch.cat([bank.rows, added.rows])}
        description = {**self.describe(), "memory_bank": record}
        grown = self.from_description(description, tensors, accelerator=self.accelerator)
        return ExtendedDetector(grown, len(bank.rows), len(added.rows), added.farther, radius, added.left_radius)

    def _bank_arguments(self, source: PatchSource) -> dict[str, Any]:
        """Return the arguments of ``plan_bank`` for these images."""
        return {
            "images": len(source.images),
            "patches_per_image": source.total / max(1, len(source.images)),
            "channels": source.channels,
            "ratio": self.coreset_sampling_ratio,
            "method": self.memory_bank,
            "budget_bytes": budget_in_bytes(self.memory_budget_gib, self.accelerator),
            "cap_rows": self.bank_cap_rows,
        }

    def _bank(self) -> MemoryBank:
        if self.bank_ is None:
            raise ModelFormatError("This PatchCore has no memory yet: fit or load it first.")
        return self.bank_
