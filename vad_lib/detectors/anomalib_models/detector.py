"""anomalib's image models as a detector: anomalib's network, loss and optimiser; everything around them is ours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn

from vad_lib.detectors.anomalib_models.building import build_module
from vad_lib.detectors.anomalib_models.plan_arguments import AnomalibArguments
from vad_lib.detectors.anomalib_models.table import BUILT
from vad_lib.detectors.base import Detector, FitReport, FitSettings, Scores, join_scores, require_batch
from vad_lib.detectors.fit_forecast import FitForecast, Part, bytes_of, memory_problems, sample_of, seconds_an_image
from vad_lib.detectors.images import ImageDataset
from vad_lib.encoders.build import Normalise, fitting_layers, layer_index
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import ModelFormatError, PlanError
from vad_lib.machine import PeakMemory
from vad_lib.progress import Progress, silent
from vad_lib.randomness import seeded


class AnomalibDetector(Detector):
    """One of anomalib's image models.

    The fit is anomalib's, with the epochs, batches and seed of the plan, and the last epoch is kept, for which the
    models plan their learning rates. Validation images have no part in it: threshold and calibration are learnt from
    them as everywhere. Scores and maps are the model's raw ones.

    Args:
        weights: the backbone's, found by ``resolve_backbone_weights``.
        model: a name of ``table.BUILT``.
        layers: of the backbone; the model's own where empty.
        input_size: (height, width) of the images that it was fitted on; unknown before the fit.
        max_epochs: passes over the training images, for a model that has no number of its own.
        batch_size: images in a step.
        seed: of what is drawn at random: the start of the network, the order of the images, what the model draws.
        accelerator: cpu or gpu.

    Attributes:
        module_: anomalib's Lightning module after ``fit`` or loading; its ``model`` is the network.

    Raises:
        PlanError: the model cannot use the backbone that takes the place of a missing one, or has no such layer.
    """

    name = "anomalib"

    def __init__(
        self,
        weights: BackboneWeights,
        model: str = "padim",
        layers: Sequence[str] = (),
        input_size: Sequence[int] | None = None,
        max_epochs: int = 15,
        batch_size: int = 4,
        seed: int = 42,
        accelerator: str = "cpu",
    ) -> None:
        super().__init__(weights, accelerator)
        self.model = BUILT[model]
        if layers and not self.model.layers:
            raise PlanError(
                f"anomalib's {model} reads layers of its own choice: leave anomalib_layers out of the plan."
            )
        if weights.is_fallback and not self.model.layers:
            raise PlanError(
                f"anomalib's {model} needs the weights of {weights.asked_for}, which are not on this machine, and "
                f"cannot do with {weights.name} instead. `vad weights add FILE` brings a file of them into the store."
            )
        self.layers = fitting_layers(weights, layers or self.model.layers) if self.model.layers else ()
        for layer in self.layers:
            layer_index(weights, layer)
        self.input_size = None if input_size is None else (input_size[0], input_size[1])
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.seed = seed
        self.normalise = Normalise(weights)
        self.module_: Any = None

    @classmethod
    def create(cls, arguments: AnomalibArguments, settings: FitSettings) -> Self:
        """Make the unfitted detector that a plan asks for; see ``base.Detector.create``."""
        return cls(
            settings.weights,
            arguments.anomalib_model,
            arguments.anomalib_layers,
            max_epochs=settings.max_epochs,
            batch_size=settings.batch_size,
            seed=settings.seed,
            accelerator=settings.accelerator,
        )

    def fit(self, images: ImageDataset, *, validation: ImageDataset | None = None, progress: Progress = silent) -> Self:
        """Train as anomalib does; ``validation`` has no part in it. See ``base.Detector.fit``.

        Raises:
            InputError: no training image can be read.
            PlanError: the images have several shapes, or the model cannot be trained with these arguments.
            VadError: the loss is not a number any more.
        """
        from vad_lib.detectors.anomalib_models.lightning_fit import TrainingBatches, fit_module

        shapes = set(images.prepared_shapes)
        if len(shapes) != 1:
            raise PlanError(
                f"anomalib's {self.model.name} takes images of one shape: give img_size as [height, width]."
            )
        (size,) = shapes
        with seeded(self.seed):
            module = self._build(size)
            batches = TrainingBatches(images, self.batch_size, self.normalise)
            epochs = fit_module(module, batches, self.max_epochs, self.accelerator, progress)
        self._use(module, size)
        self.report = FitReport(epochs, "loss", numbers={"epochs": float(len(epochs))})
        return self

    def _build(self, size: tuple[int, int]) -> Any:
        try:
            return build_module(self.model, self.weights, self.layers, size, self.max_epochs)
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:
            raise PlanError(
                f"anomalib's {self.model.name} cannot be made for {self.weights.name} and images of {size[0]} x "
                f"{size[1]} pixels ({error}). Change anomalib_backbone, anomalib_layers or img_size."
            ) from error

    def _use(self, module: Any, size: tuple[int, int]) -> None:
        module.to(self.device).eval()
        for tensor in (*module.model.parameters(), *module.model.buffers()):
            tensor.data = tensor.data.contiguous()  # as in a loaded model: another layout gives other last bits
        self.module_, self.input_size = module, size
        self.normalise.to(self.device)

    @torch.inference_mode()
    def score(self, batch: torch.Tensor, *, with_maps: bool = True) -> Scores:
        """Score images, float32 (N, 3, H, W) in 0..1, one after the other; see ``base.Detector.score``.

        Raises:
            ModelFormatError: neither fitted nor loaded.
            ValueError: not of the size that it was fitted on.
        """
        require_batch(batch)
        self._module()
        if tuple(batch.shape[2:]) != self.input_size:
            raise ValueError(
                f"This model takes images of {self.input_size} (height, width), not {tuple(batch.shape[2:])}."
            )
        network = self.graph() if self.runner is None else self.runner
        parts = []
        for image in batch.split(1):
            scores, maps = network(image.to(self.device))
            parts.append(Scores(scores.cpu().numpy(), maps.cpu().numpy() if with_maps else None))
        return join_scores(parts)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors of anomalib's network, under its names."""
        return dict(self._module().model.state_dict())

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> Self:
        """Take over the tensors of a saved detector.

        Raises:
            ModelFormatError: they are not of such a model.
        """
        if self.input_size is None:
            raise ModelFormatError("The model does not say which size of images it was fitted on.")
        module = self._build(self.input_size)
        try:
            module.model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ModelFormatError(f"The tensors are not those of anomalib's {self.model.name}: {error}") from error
        self._use(module, self.input_size)
        return self

    def init_arguments(self) -> dict[str, Any]:
        """Return what a loaded detector is made with."""
        return {
            "model": self.model.name,
            "layers": list(self.layers),
            "input_size": None if self.input_size is None else list(self.input_size),
            "max_epochs": self.max_epochs,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def forecast(self, images: ImageDataset, validation: ImageDataset | None, memory_bytes: int) -> FitForecast:
        """Forecast a fit by two epochs on a few of the images; see ``base.Detector.forecast``.

        Raises:
            InputError: none of the images that are tried can be read.
        """
        wanted, self.max_epochs = self.max_epochs, min(2, self.max_epochs)
        sample = sample_of(images, max(8, 2 * self.batch_size))
        begun = time.monotonic()
        with PeakMemory() as peak:
            self.fit(sample)
            seconds = time.monotonic() - begun
            score_seconds = seconds_an_image(sample, self.device, lambda batch: self.score(batch, with_maps=False))
        epochs = self.report.epochs
        own = self._module().trainer_arguments.get("max_epochs", wanted)
        starting = max(0.0, seconds - sum(epoch.seconds for epoch in epochs))
        training = own * len(images) * epochs[-1].seconds / max(1, len(sample) - len(sample.unreadable))
        return FitForecast(
            parts=(Part.of("making the network", starting), Part.of(f"training, {own} epochs", training)),
            ms_per_image=1000 * score_seconds,
            peak_memory_bytes=peak.peak_bytes,
            model_bytes=bytes_of(self.state_dict().values()),
            problems=memory_problems(
                f"anomalib's {self.model.name} needs {{}} of memory", peak.peak_bytes, memory_bytes
            ),
        )

    def graph(self) -> nn.Module:
        """Return anomalib's network with the normalisation before it; see ``base.Detector.graph``."""
        return AnomalibGraph(self.normalise, self._module().model)

    def _module(self) -> Any:
        if self.module_ is None:
            raise ModelFormatError(f"This {self.model.name} has not been fitted: fit or load it first.")
        return self.module_


class AnomalibGraph(nn.Module):
    """A fitted model: float32 (N, 3, H, W) in 0..1 to scores (N,) and maps (N, H, W)."""

    def __init__(self, normalise: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.model(self.normalise(images))
        maps = found.anomaly_map
        return found.pred_score.flatten(), maps if maps.ndim == 3 else maps[:, 0]
