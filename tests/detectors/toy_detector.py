"""The distance of each pixel to the mean of the normal images: a whole detector, as docs/architecture.md shows it."""

from __future__ import annotations

from typing import Any, Self

import torch

from vad_lib.argument_fields import argument
from vad_lib.detectors.base import Detector, FitSettings, Scores, require_batch
from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.registry import DetectorArguments, register
from vad_lib.encoders.weight_file import NO_BACKBONE, BackboneWeights
from vad_lib.errors import ModelFormatError
from vad_lib.progress import Progress, silent


class ToyArguments(DetectorArguments):
    """What a plan says about the toy under ``model_parameters``."""

    toy_power: float = argument(2.0, "Power that the distance of a pixel is raised to.", gt=0)


class Toy(Detector):
    """Distance to the mean normal image."""

    name = "toy"

    def __init__(self, weights: BackboneWeights = NO_BACKBONE, power: float = 2.0, accelerator: str = "cpu") -> None:
        super().__init__(weights, accelerator)
        self.power = power
        self.mean_: torch.Tensor | None = None

    @classmethod
    def create(cls, arguments: ToyArguments, settings: FitSettings) -> Self:
        return cls(settings.weights, arguments.toy_power, settings.accelerator)

    def fit(self, images: ImageDataset, *, validation: ImageDataset | None = None, progress: Progress = silent) -> Self:
        self.mean_ = torch.cat([batch.images for batch in images.batches(8)]).mean(0)
        return self

    def score(self, batch: torch.Tensor, *, with_maps: bool = True) -> Scores:
        require_batch(batch)
        maps = (batch - self.state_dict()["mean"]).abs().pow(self.power).mean(1)
        return Scores(maps.amax((1, 2)).numpy(), maps.numpy() if with_maps else None)

    def state_dict(self) -> dict[str, torch.Tensor]:
        if self.mean_ is None:
            raise ModelFormatError("This toy has not been fitted: fit or load it first.")
        return {"mean": self.mean_}

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> Self:
        self.mean_ = tensors["mean"]
        return self

    def init_arguments(self) -> dict[str, Any]:
        return {"power": self.power}


register("toy", Toy, ToyArguments)
