"""What a detector is, in the words of scikit-learn: ``fit``, ``score``, ``save``, and what the system asks it for."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from vad_lib.detectors.fit_forecast import (
    FitForecast,
    Part,
    Size,
    bytes_of,
    memory_problems,
    sample_of,
    seconds_an_image,
)
from vad_lib.detectors.masked_images import LearningSettings, MaskedImage
from vad_lib.detectors.storage import write_model_folder
from vad_lib.encoders.weight_file import NO_BACKBONE, BackboneWeights
from vad_lib.errors import InputError, VadError
from vad_lib.machine import PeakMemory, resolve_device
from vad_lib.progress import Progress, silent

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vad_lib.detectors.feature_cache import FeatureCache
    from vad_lib.detectors.images import ImageDataset


@dataclass(frozen=True)
class Scores:
    """Raw results of N images; larger is more anomalous.

    Attributes:
        scores: float32 (N,).
        maps: float32 (N, H, W) at the size of the input, or None where the detector makes none.
    """

    scores: npt.NDArray[np.float32]
    maps: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images.

    Attributes:
        number: from 1.
        loss: mean training loss.
        metric: the monitored metric after this epoch; larger is better, except for ``loss``.
        best: True where it was the best so far.
        seconds: of this epoch, validation included.
    """

    number: int
    loss: float
    metric: float
    best: bool
    seconds: float


@dataclass(frozen=True)
class FitReport:
    """What happened in a fit.

    Attributes:
        epochs: empty for a detector without epochs.
        monitor: the metric that decided; it may differ from the plan's where validation has one class only.
        stopped_early: True where it ended before ``max_epochs``.
        notices: what the user should know.
        numbers: counts and sizes worth showing, such as 'memory_bank_rows'.
    """

    epochs: tuple[Epoch, ...] = ()
    monitor: str = ""
    stopped_early: bool = False
    notices: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FitSettings:
    """What a fit is told beside the detector's own arguments.

    Attributes:
        weights: of the backbone that the arguments ask for; ``NO_BACKBONE`` where they ask for none.
        seed: of everything that is drawn at random.
        batch_size: images at once.
        max_epochs: most passes over the training images, for a detector that trains in epochs.
        monitor_metric: what decides which epoch is kept: 'loss', 'image_AUROC' or 'image_F1Score'.
        accelerator: 'cpu' or 'gpu'.
        work_folder: where a fit may keep what it has done, to go on after a kill; nowhere where None.
        feature_cache: of features that earlier fits extracted; None where there is none.
        weights_store: where weights lie, for a detector with a second network; the home's where None.
    """

    weights: BackboneWeights = NO_BACKBONE
    seed: int = 42
    batch_size: int = 4
    max_epochs: int = 15
    monitor_metric: str = "image_AUROC"
    accelerator: str = "cpu"
    work_folder: Path | None = None
    feature_cache: FeatureCache | None = None
    weights_store: Path | None = None


@dataclass(frozen=True)
class ExtendedDetector:
    """A detector that has learnt more images without a fit, and what was added.

    Attributes:
        detector: the new one; the old one stays as it is.
        rows_before: of its memory.
        rows_added: to its memory.
        patches_farther: patches of the images that the memory did not cover.
        radius: distance up to which the memory covers a patch.
        left_radius: no patch of the images is farther than this from the extended memory.
    """

    detector: Detector
    rows_before: int
    rows_added: int
    patches_farther: int
    radius: float
    left_radius: float


Runner = Callable[["torch.Tensor"], tuple["torch.Tensor", ...]]
"""One image, float32 (1, 3, H, W) in 0..1, to what the compiled network of a detector gives for it."""


class Detector(ABC):
    """A fitted or unfitted detector.

    A detector must say how it is made, fitted, how it scores, and which tensors it is made of. Everything else has a
    default: a forecast is made by a fit on a small sample, and what a detector cannot do (export, compiled scoring,
    learning more images without a fit) is refused with a sentence that says so.

    ``score`` gives an image the same bits whatever else is in the batch (on the CPU), so the way that an image takes
    and the batch size do not change its result.

    Args:
        weights: the backbone's, or ``NO_BACKBONE``.
        accelerator: cpu or gpu.

    Attributes:
        name: as in the plan's ``model_name``.
        report: what happened in the last fit.
        runner: a compiled network that takes the place of ``compiled_part`` in scoring; None where torch scores.

    Raises:
        PlanError: a GPU was asked for and there is none.
    """

    name: ClassVar[str]

    def __init__(self, weights: BackboneWeights = NO_BACKBONE, accelerator: str = "cpu") -> None:
        self.weights = weights
        self.accelerator = accelerator
        self.device = resolve_device(accelerator)
        self.report = FitReport()
        self.runner: Runner | None = None

    @classmethod
    @abstractmethod
    def create(cls, arguments: Any, settings: FitSettings) -> Self:
        """Make the unfitted detector that a plan asks for.

        Args:
            arguments: the detector's own, an instance of the model that it was registered with.
            settings: what every detector is told.

        Raises:
            PlanError: arguments that cannot be used with this backbone or on this machine.
            ModelFormatError: the weight file is damaged or lacks what is needed.
        """

    def refuse_images(self, sha256: set[str]) -> None:  # noqa: B027  # most detectors learn nothing elsewhere
        """Refuse to be measured on images that were learnt from before the fit, elsewhere. By default there are none.

        Args:
            sha256: of image files.

        Raises:
            InputError: some of them were learnt from.
        """

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
        """Learn from images of other products what a file of ``add_file`` holds, for lines without images of their own.

        Args:
            images: normal and damaged ones, the damaged ones with masks.
            name: that plans will use.
            settings: how.
            line_sha256: of the image files of the lines that will be inspected with it; learning from them is refused.
            progress: told of every step.

        Returns:
            The file in the weights store, and the arguments of a plan that uses it.

        Raises:
            InputError: the detector learns nothing so, or not from these images.
        """
        raise InputError(f"{cls.name} learns nothing from images of other products.")

    @classmethod
    def add_file(cls, file: Path, name: str, store: Path) -> Path:
        """Bring a file of this detector's own, beside its backbone's weights, into the weights store.

        Args:
            file: somebody else's, such as a published checkpoint.
            name: that plans will use; the detector's choice where empty.
            store: the weights store.

        Returns:
            The file in the store.

        Raises:
            InputError: the detector takes no such files, or there is none.
            ModelFormatError: it is not such a file.
        """
        raise InputError(f"The detector {cls.name} takes no files of its own: its backbone's weights are all it needs.")

    @abstractmethod
    def fit(self, images: ImageDataset, *, validation: ImageDataset | None = None, progress: Progress = silent) -> Self:
        """Learn what normal is.

        Args:
            images: normal training images, augmented where the plan asks for it.
            validation: images with labels, to choose the best epoch; never learnt from.
            progress: told of every step; an exception raised in it stops the fit.

        Raises:
            InputError: no training image can be read.
        """

    @abstractmethod
    def score(self, batch: torch.Tensor, *, with_maps: bool = True) -> Scores:
        """Score images, float32 (N, 3, H, W) in 0..1.

        Raises:
            ModelFormatError: neither fitted nor loaded.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return every tensor that scoring needs, backbone included.

        Raises:
            ModelFormatError: neither fitted nor loaded.
        """

    @abstractmethod
    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> Self:
        """Take over the tensors of a saved detector.

        Raises:
            ModelFormatError: they are not of such a detector.
        """

    def init_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``__init__`` that a loaded detector needs, beside the weights; plain JSON."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return what ``from_description`` needs beside the tensors; plain JSON."""
        return {"name": self.name, "backbone": self.weights.to_json(), "arguments": self.init_arguments()}

    @classmethod
    def from_description(
        cls, description: dict[str, Any], tensors: dict[str, torch.Tensor], *, accelerator: str = "cpu"
    ) -> Self:
        """Make a fitted detector from what ``describe`` and ``state_dict`` returned."""
        weights = BackboneWeights.from_json(description["backbone"])
        return cls(weights, accelerator=accelerator, **description["arguments"]).load_state_dict(tensors)

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``detector.json``; ``registry.load_detector`` reads them."""
        write_model_folder(folder, self.state_dict(), {"detector": self.describe()})

    def forecast(self, images: ImageDataset, validation: ImageDataset | None, memory_bytes: int) -> FitForecast:
        """Forecast what a fit will take; the detector is not used afterwards.

        Here by a fit on a few of the images, whose time is taken to grow with their number.

        Args:
            images: the training images.
            validation: as for ``fit``.
            memory_bytes: resident memory that this process may grow to.

        Raises:
            InputError: none of the images that are tried can be read.
        """
        sample = sample_of(images)
        with PeakMemory() as peak:
            start = time.perf_counter()
            self.fit(sample, validation=None if validation is None else sample_of(validation))
            fit_seconds = (time.perf_counter() - start) / max(1, len(sample))
            score_seconds = seconds_an_image(sample, self.device, lambda batch: self.score(batch, with_maps=False))
        return FitForecast(
            parts=(Part.of("reading images and learning", max(1, len(images)) * fit_seconds),),
            ms_per_image=1000 * score_seconds,
            peak_memory_bytes=peak.peak_bytes,
            model_bytes=bytes_of(self.state_dict().values()),
            problems=memory_problems(f"{self.name} needs {{}} of memory", peak.peak_bytes, memory_bytes),
        )

    def sizes(self) -> tuple[Size, ...]:
        """Return the sizes of the fitted detector that its forecast names too."""
        return ()

    def graph(self) -> nn.Module:
        """Return the fitted detector as one network for torch's exporter.

        It takes float32 (N, 3, H, W) in 0..1 and gives scores (N,) and maps (N, H, W). The detector's own tensors are
        used, not copies.

        Raises:
            VadError: it is not fitted, or cannot be written as one network.
        """
        raise VadError(f"The detector {self.name!r} cannot be written as one network, so it cannot be exported.")

    def compiled_part(self) -> nn.Module:
        """Return the part that a compiled backend may run in torch's place; see ``runner``.

        Raises:
            VadError: there is no such part.
        """
        return self.graph()

    def extend(self, images: ImageDataset, progress: Progress = silent) -> ExtendedDetector:
        """Return a copy that has learnt more normal images, without a fit.

        Raises:
            InputError: it cannot learn so, or has no room left.
        """
        raise InputError(
            f"A {self.name} model cannot learn further images by itself: add them to the ground-truth table and train "
            "again (vad train), or train with another model_name whose memory can grow."
        )


def require_batch(batch: torch.Tensor) -> None:
    """Check the form of a batch.

    Raises:
        ValueError: not float32 (N, 3, H, W).
    """
    if batch.ndim != 4 or batch.shape[1] != 3 or not batch.is_floating_point():
        raise ValueError(f"A batch is float32 (N, 3, height, width) in 0..1, not {batch.dtype} {tuple(batch.shape)}.")


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Put scores of images of one shape together, in order."""
    scores = np.concatenate([part.scores for part in parts]) if parts else np.empty(0, np.float32)
    maps = [part.maps for part in parts if part.maps is not None]
    return Scores(scores, np.concatenate(maps) if maps else None)
