"""AnomalyCLIP as a detector: nothing is learnt from the line's own images.

Paper: Zhou et al., "AnomalyCLIP: Object-agnostic Prompt Learning for Zero-shot Anomaly Detection", ICLR 2024,
https://arxiv.org/abs/2310.18961
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from vad_lib.detectors.anomalyclip.head import ClassVectors, PromptHead, VectorHead
from vad_lib.detectors.anomalyclip.learnt_file import KINDS, Learnt, file_in_store, read_checkpoint, read_learnt
from vad_lib.detectors.anomalyclip.plan_arguments import AnomalyCLIPArguments
from vad_lib.detectors.anomalyclip.tower import create_tower
from vad_lib.detectors.base import Detector, FitReport, FitSettings, Scores, join_scores, require_batch
from vad_lib.detectors.fit_forecast import FitForecast, Part, bytes_of, memory_problems, sample_of, seconds_an_image
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.maps import Blur
from vad_lib.detectors.masked_images import LearningSettings, MaskedImage
from vad_lib.encoders.weight_file import BackboneWeights, part_of
from vad_lib.encoders.weights import resolve_backbone_weights
from vad_lib.errors import InputError, ModelFormatError
from vad_lib.machine import PeakMemory
from vad_lib.progress import Progress, silent


class AnomalyCLIP(Detector):
    """Compares an image, and each of its patches, with a vector for normal and one for abnormal.

    Args:
        weights: of the encoder.
        kind: 'prompts' for vectors that come from texts, 'vectors' for learnt ones.
        levels: blocks whose patches make the map, counted from 1.
        provenance: of what was learnt; plain JSON.
        learnt: what a fit begins with; None for a model that is loaded.
        accelerator: cpu or gpu.

    Raises:
        PlanError: the encoder cannot be used so; see ``tower.create_tower``.
    """

    name = "anomalyclip"

    def __init__(
        self,
        weights: BackboneWeights,
        kind: str,
        levels: Sequence[int],
        provenance: dict[str, Any] | None = None,
        learnt: Learnt | None = None,
        accelerator: str = "cpu",
    ) -> None:
        if kind not in KINDS:
            raise ModelFormatError(f"AnomalyCLIP has learnt {kind!r}; it can be {' or '.join(KINDS)}.")
        super().__init__(weights, accelerator)
        self.kind = kind
        self.levels = tuple(sorted(int(level) for level in levels))
        self.provenance = dict(provenance or {})
        self.learnt = learnt
        self.network = ZeroShotNetwork(create_tower(weights, self.levels, kind)).to(self.device).eval()

    @classmethod
    def create(cls, arguments: AnomalyCLIPArguments, settings: FitSettings) -> Self:
        """Make the unfitted detector that a plan asks for; see ``base.Detector.create``.

        Raises:
            InputError: what was learnt is not there; says how to get it.
        """
        learnt = read_learnt(arguments.anomalyclip_prompts)
        return cls(
            settings.weights,
            learnt.kind,
            arguments.anomalyclip_levels,
            learnt.provenance,
            learnt,
            settings.accelerator,
        )

    @classmethod
    def learn_file(
        cls,
        images: Sequence[MaskedImage],
        name: str,
        settings: LearningSettings,
        *,
        line_sha256: Collection[str] = (),
        progress: Progress = silent,
    ) -> tuple[Path, dict[str, Any]]:
        """Learn prompts, or vectors for any encoder; see ``base.Detector.learn_file`` and ``tuning.tune``."""
        from vad_lib.detectors.anomalyclip.tuning import tune

        file = file_in_store(name, settings.store)
        if settings.kind not in KINDS:
            raise InputError(f"The kind is {settings.kind}; it is one of {', '.join(KINDS)}.")
        levels = settings.levels or (24,)
        tune(
            images,
            resolve_backbone_weights(settings.encoder, settings.store),
            line_sha256=line_sha256,
            levels=levels,
            side=settings.side,
            kind=settings.kind,
            epochs=settings.epochs,
            seed=settings.seed,
            progress=progress,
        ).save(file)
        asked = {"encoder": settings.encoder, "prompts": name, "levels": list(levels), "image_side": settings.side}
        return file, {f"{cls.name}_{argument}": value for argument, value in asked.items()}

    @classmethod
    def add_file(cls, file: Path, name: str, store: Path) -> Path:
        """Bring the authors' checkpoint into the store; see ``base.Detector.add_file``.

        Raises:
            InputError: no such file, or no name for one.
            ModelFormatError: it is not such a checkpoint.
        """
        target = file_in_store(name or cls.name, store)
        read_checkpoint(file).save(target)
        return target

    def refuse_images(self, sha256: set[str]) -> None:
        """Refuse images that the prompts were learnt from; see ``base.Detector.refuse_images``."""
        if self.learnt is not None:
            self.learnt.refuse_images(sha256)

    def fit(self, images: ImageDataset, *, validation: ImageDataset | None = None, progress: Progress = silent) -> Self:
        """Turn what was learnt elsewhere into the two vectors; the images are not looked at.

        Raises:
            InputError: images of this line were among those that were learnt from.
            ModelFormatError: what was learnt does not fit the encoder.
        """
        if self.learnt is None:
            raise ModelFormatError("This AnomalyCLIP was loaded, not created: make it from a plan to fit it.")
        own = [data.sha256 or [] for data in (images, validation) if data is not None]
        self.refuse_images({sha256 for some in own for sha256 in some})
        self._require_its_encoder()
        tensors = self.learnt.tensors
        if self.kind == "prompts":
            head: nn.Module = PromptHead(self.weights, tensors["ctx"], tensors["deep"], len(self.levels))
        else:
            head = VectorHead(ClassVectors.of(tensors))
        with torch.no_grad():
            self.network.set_vectors(head())
        self.network.to(self.device)
        told = (
            "AnomalyCLIP learns nothing from the images of this line: it compares them with what it learnt elsewhere."
        )
        self.report = FitReport(notices=(told,), numbers={"levels": float(len(self.levels))})
        return self

    def _require_its_encoder(self) -> None:
        wanted, levels = self.provenance.get("encoder_sha256"), self.provenance.get("levels")
        if wanted is not None and wanted != self.weights.sha256:
            raise ModelFormatError(
                f"What AnomalyCLIP has learnt belongs to another encoder than {self.weights.name}: to the one with the "
                f"sha256 {wanted[:16]}…. Take that one, or learn anew with this one."
            )
        if self.kind == "vectors" and levels != list(self.levels):
            raise ModelFormatError(
                f"The vectors were learnt for the levels {levels}: write them to anomalyclip_levels."
            )

    @torch.inference_mode()
    def score(self, batch: torch.Tensor, *, with_maps: bool = True) -> Scores:
        """Score images by the probability that they are abnormal, 0..1; see ``base.Detector.score``.

        A map is the sum over levels of the probability of each pixel, blurred.

        Raises:
            ModelFormatError: neither fitted nor loaded.
        """
        require_batch(batch)
        self.network.vectors()
        parts = []
        for part in batch.split(1 if self.device.type == "cpu" else max(1, len(batch))):
            scores, maps = (self.runner or self.network)(part.to(self.device))
            parts.append(Scores(scores.cpu().numpy(), maps.cpu().numpy() if with_maps else None))
        return join_scores(parts)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the image tower and the vectors; no text tower is needed any more."""
        self.network.vectors()
        return self.network.state_dict()

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> Self:
        """Take over the tensors of a saved detector.

        Raises:
            ModelFormatError: they are not of such a detector.
        """
        try:
            self.network.set_vectors(ClassVectors.of(part_of(tensors, "class_vectors.")))
            self.network.load_state_dict(tensors)
        except (KeyError, RuntimeError) as error:
            raise ModelFormatError(f"The tensors are not those of this AnomalyCLIP: {error}") from error
        self.network.to(self.device)
        return self

    def init_arguments(self) -> dict[str, Any]:
        """Return what a loaded AnomalyCLIP is made with."""
        return {"kind": self.kind, "levels": list(self.levels), "provenance": self.provenance}

    def forecast(self, images: ImageDataset, validation: ImageDataset | None, memory_bytes: int) -> FitForecast:
        """Forecast a fit by doing it, and time some images; see ``base.Detector.forecast``.

        Raises:
            InputError: none of the images that are tried can be read.
        """
        with PeakMemory() as peak:
            start = time.perf_counter()
            self.fit(images, validation=validation)
            fit_seconds = time.perf_counter() - start
            sample = sample_of(images, 4)
            seconds = seconds_an_image(sample, self.device, lambda batch: self.score(batch, with_maps=False), 1)
        return FitForecast(
            parts=(Part.of("vectors of the prompts", fit_seconds),),
            ms_per_image=1000 * seconds,
            peak_memory_bytes=peak.peak_bytes,
            model_bytes=bytes_of(self.state_dict().values()),
            problems=memory_problems("AnomalyCLIP needs about {} of memory", peak.peak_bytes, memory_bytes),
        )

    def graph(self) -> nn.Module:
        """Return tower and vectors as one network; see ``base.Detector.graph``."""
        self.network.vectors()
        return self.network


class ZeroShotNetwork(nn.Module):
    """Images (N, 3, H, W) in 0..1 to the probability of abnormal (N,) and maps (N, H, W)."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.blur = Blur()
        self.class_vectors = nn.ParameterDict()

    def set_vectors(self, vectors: ClassVectors) -> None:
        """Take these vectors from now on."""
        copied = {name: nn.Parameter(value.clone(), False) for name, value in vectors.tensors().items()}
        self.class_vectors = nn.ParameterDict(copied)

    def vectors(self) -> ClassVectors:
        """Return the vectors.

        Raises:
            ModelFormatError: neither fitted nor loaded.
        """
        if not len(self.class_vectors):
            raise ModelFormatError("This AnomalyCLIP has not been fitted: fit or load it first.")
        return ClassVectors.of(dict(self.class_vectors))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        vectors, found = self.vectors(), self.tower(images)
        maps = torch.stack(vectors.patch_probabilities(found, (images.shape[2], images.shape[3]))).sum(0)
        return vectors.image_logits(found).softmax(dim=1)[:, 1], self.blur(maps)
