"""FastFlow as a detector: anomalib's network and loss in a small loop of our own.

Paper: Yu et al., "FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows",
https://arxiv.org/abs/2111.07677
"""

from __future__ import annotations

import time
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vad_lib.detectors.base import Detector, Epoch, FitReport, FitSettings, Scores, join_scores, require_batch
from vad_lib.detectors.epochs import PATIENCE, BestEpoch, monitored_value
from vad_lib.detectors.fastflow.features import FEATURE_BUDGET, FeatureSource
from vad_lib.detectors.fastflow.network import FlowGraph, FlowNetwork
from vad_lib.detectors.fastflow.plan_arguments import FastFlowArguments
from vad_lib.detectors.feature_cache import FeatureCache, begin_cache, cache_numbers
from vad_lib.detectors.fit_forecast import FitForecast, Part, bytes_of, memory_problems, sample_of, seconds_an_image
from vad_lib.detectors.images import ImageDataset
from vad_lib.encoders.weight_file import BackboneWeights
from vad_lib.errors import InputError, ModelFormatError, VadError
from vad_lib.machine import PeakMemory
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.randomness import seeded

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-5
MONITORS = ("loss", "image_AUROC", "image_F1Score")


class FastFlow(Detector):
    """Flows that make the features of normal images look like noise; what does not fit is anomalous.

    Args:
        weights: the backbone's, found by ``resolve_backbone_weights``.
        flow_steps: coupling blocks on each feature, at least 1.
        input_size: (height, width) of the images it takes.
        max_epochs: most passes over the training images.
        batch_size: images in a step.
        monitor_metric: what decides which epoch is kept: 'loss', 'image_AUROC' or 'image_F1Score'.
        seed: of the flows' start, the order of the images.
        accelerator: cpu or gpu.
        feature_budget: bytes for features that are kept in memory between epochs.
        feature_cache: of features that earlier fits extracted. It has no effect on any result, and none at all with
            augmentation or with random weights.
    """

    name = "fastflow"

    def __init__(
        self,
        weights: BackboneWeights,
        flow_steps: int = 8,
        input_size: tuple[int, int] = (256, 256),
        max_epochs: int = 15,
        batch_size: int = 4,
        monitor_metric: str = "image_AUROC",
        seed: int = 42,
        accelerator: str = "cpu",
        feature_budget: int = FEATURE_BUDGET,
        feature_cache: FeatureCache | None = None,
    ) -> None:
        if monitor_metric not in MONITORS:
            raise ValueError(f"monitor_metric is {monitor_metric!r}; it can be {', '.join(MONITORS)}.")
        super().__init__(weights, accelerator)
        self.flow_steps = flow_steps
        self.input_size = (input_size[0], input_size[1])  # a list, where it comes from JSON
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.monitor_metric = monitor_metric
        self.seed = seed
        self.feature_budget = feature_budget
        self.feature_cache = feature_cache
        self.network = self._new_network()
        self.fitted_ = False

    @classmethod
    def create(cls, arguments: FastFlowArguments, settings: FitSettings) -> Self:
        """Make the unfitted detector that a plan asks for; see ``base.Detector.create``."""
        return cls(
            settings.weights,
            flow_steps=arguments.fastflow_flow_steps,
            input_size=(arguments.side(), arguments.side()),
            max_epochs=settings.max_epochs,
            batch_size=settings.batch_size,
            monitor_metric=settings.monitor_metric,
            seed=settings.seed,
            accelerator=settings.accelerator,
            feature_cache=settings.feature_cache,
        )

    def _new_network(self) -> FlowNetwork:
        with seeded(self.seed):
            return FlowNetwork(self.weights, self.input_size, self.flow_steps).to(self.device)

    def fit(self, images: ImageDataset, *, validation: ImageDataset | None = None, progress: Progress = silent) -> Self:
        """Fit the flows and keep those of the best epoch. See ``base.Detector.fit``.

        A stopped fit leaves the detector as unfitted as it was.

        Raises:
            InputError: no training image can be read.
        """
        network = self._new_network()
        with seeded(self.seed):
            self.report = self._fit(network, images, validation, progress)
        self.network, self.fitted_ = network.eval(), True
        return self

    def _fit(
        self, network: FlowNetwork, images: ImageDataset, validation: ImageDataset | None, progress: Progress
    ) -> FitReport:
        monitor, notices = self._monitor(validation)
        evaluates = monitor != "loss" and validation is not None
        facts = {"detector": self.name, "weights": self.weights.to_json()}
        cache = begin_cache(self.feature_cache, images, facts, self.weights, self.device)
        train = FeatureSource(images, network, self.device, self.batch_size, self.feature_budget, cache)
        valid = None
        if evaluates and validation is not None:
            left = self.feature_budget - (train.needs if train.keeps else 0)
            valid = FeatureSource(validation, network, self.device, self.batch_size, left, cache)
        kept = [source for source in (train, valid) if source is not None and source.keeps]
        meter = ProgressMeter(progress, "Extracting features", sum(len(source.images) for source in kept))
        for source in kept:
            source.prepare(meter)
        optimiser = torch.optim.Adam(network.trainable(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        best = BestEpoch(monitor)
        best_state: dict[str, torch.Tensor] = {}
        epochs: list[Epoch] = []
        meter = ProgressMeter(progress, "Training FastFlow", self.max_epochs * len(images))
        for number in range(1, self.max_epochs + 1):
            start = time.monotonic()
            images.epoch = number
            loss = self._train_once(network, train, optimiser, meter, _note(epochs, monitor))
            scores, labels = self._validate(network, valid)
            value = monitored_value(monitor, loss, scores, labels)
            better = best.is_better(value, loss)
            epoch = Epoch(number, loss, value, better, time.monotonic() - start)
            epochs.append(epoch)
            if better:
                best.best = epoch
                best_state = {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}
            if best.should_stop:
                break
        network.load_state_dict(best_state)
        numbers = {"epochs": float(len(epochs)), "best_epoch": float(best.best.number if best.best else 0)}
        numbers |= cache_numbers(cache)
        return FitReport(tuple(epochs), monitor, len(epochs) < self.max_epochs, tuple(notices), numbers)

    def _monitor(self, validation: ImageDataset | None) -> tuple[str, list[str]]:
        if self.monitor_metric == "loss":
            return "loss", []
        labels = None if validation is None else validation.is_anomalous
        if labels is not None and len(labels) and 0 < labels.sum() < len(labels):
            return self.monitor_metric, []
        return "loss", [
            f"{self.monitor_metric} is not defined where validation lacks normal or anomalous images: "
            "the training loss decided which epoch is kept."
        ]

    def _train_once(
        self,
        network: FlowNetwork,
        source: FeatureSource,
        optimiser: torch.optim.Optimizer,
        meter: ProgressMeter,
        note: str,
    ) -> float:
        """Go once over the training images in a random order and return their mean loss."""
        from anomalib.models.image.fastflow.loss import FastflowLoss

        network.train()
        measure = FastflowLoss()
        total, count = 0.0, 0
        for indices, features in source.batches(torch.randperm(len(source.images)).tolist()):
            optimiser.zero_grad(set_to_none=True)
            loss = measure(*network.flow(features))
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(indices)
            count += len(indices)
            meter.advance(len(indices), note)
        if not count:
            raise InputError(f"None of the {len(source.images)} training images can be read.")
        if not np.isfinite(total):
            raise VadError(
                "The loss of FastFlow is not a number any more: the fit went astray. Take fewer fastflow_flow_steps, "
                "a larger batch_size, or another model_name."
            )
        return total / count

    @torch.inference_mode()
    def _validate(
        self, network: FlowNetwork, source: FeatureSource | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        if source is None or source.images.is_anomalous is None:
            return np.empty(0, np.float32), np.empty(0, bool)
        network.eval()
        found: dict[int, float] = {}
        for indices, features in source.batches(range(len(source.images))):
            maps = network.map_maker(network.flow(features)[0])
            found.update(zip(indices, maps.amax((1, 2, 3)).tolist(), strict=True))
        order = sorted(found)
        return np.array([found[index] for index in order], np.float32), source.images.is_anomalous[order]

    @torch.inference_mode()
    def score(self, batch: torch.Tensor, *, with_maps: bool = True) -> Scores:
        """Score images, float32 (N, 3, H, W) in 0..1; see ``base.Detector.score``.

        Raises:
            ModelFormatError: neither fitted nor loaded.
            ValueError: not of the size that it takes.
        """
        require_batch(batch)
        if not self.fitted_:
            raise ModelFormatError("This FastFlow has not been fitted: fit or load it first.")
        if tuple(batch.shape[2:]) != self.input_size:
            raise ValueError(
                f"FastFlow takes images of {self.input_size} (height, width), not {tuple(batch.shape[2:])}."
            )
        self.network.eval()
        size = 1 if self.device.type == "cpu" else max(1, len(batch))
        parts = []
        for part in batch.split(size):
            if self.runner is None:
                hidden, _ = self.network.flow(self.network.features(part.to(self.device)))
                maps = self.network.map_maker(hidden)[:, 0]
            else:
                _, maps = self.runner(part)
            parts.append(Scores(maps.amax((1, 2)).cpu().numpy(), maps.cpu().numpy() if with_maps else None))
        return join_scores(parts)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors of backbone, norms and flows, under anomalib's names."""
        if not self.fitted_:
            raise ModelFormatError("This FastFlow has not been fitted: fit it first.")
        return self.network.state_dict()

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> Self:
        """Take over the tensors of a saved detector.

        Raises:
            ModelFormatError: they are not of a FastFlow with this backbone and these steps.
        """
        try:
            self.network.load_state_dict(tensors)
        except RuntimeError as error:
            raise ModelFormatError(f"The tensors are not those of this FastFlow: {error}") from error
        self.network.use_permutations()
        self.network.eval()
        self.fitted_ = True
        return self

    def init_arguments(self) -> dict[str, Any]:
        """Return what a loaded FastFlow is made with."""
        return {
            "flow_steps": self.flow_steps,
            "input_size": list(self.input_size),
            "max_epochs": self.max_epochs,
            "batch_size": self.batch_size,
            "monitor_metric": self.monitor_metric,
            "seed": self.seed,
        }

    def forecast(self, images: ImageDataset, validation: ImageDataset | None, memory_bytes: int) -> FitForecast:
        """Forecast a fit by two epochs on a few of the images; see ``base.Detector.forecast``.

        Raises:
            InputError: none of the images that are tried can be read.
        """
        with PeakMemory() as peak:
            train = FeatureSource(images, self.network, self.device, self.batch_size, self.feature_budget)
            kept_images, kept_bytes = (len(images), train.needs) if train.keeps else (0, 0)
            n_valid, valid_keeps = 0, False
            if validation is not None and self.monitor_metric != "loss":
                left = self.feature_budget - kept_bytes
                valid = FeatureSource(validation, self.network, self.device, self.batch_size, left)
                n_valid, valid_keeps = len(validation), valid.keeps
                if valid.keeps:
                    kept_images, kept_bytes = kept_images + n_valid, kept_bytes + valid.needs
            epochs = self.max_epochs
            feature_seconds, epoch_seconds, score_seconds = self._probe(images, train.keeps)
        flow_only = max(0.0, score_seconds - feature_seconds)
        epoch = len(images) * epoch_seconds + n_valid * (flow_only if valid_keeps else score_seconds)
        expected = peak.peak_bytes + (kept_bytes if self.device.type == "cpu" else 0)
        needs = f"FastFlow needs about {{}} of memory with batches of {self.batch_size}"
        problems = memory_problems(needs, expected, memory_bytes)
        least = min(epochs, PATIENCE + 1)
        return FitForecast(
            parts=(
                Part.of("reading images and extracting features", kept_images * feature_seconds),
                Part(name=f"training, {epochs} epochs at most", seconds=epochs * epoch, least_seconds=least * epoch),
            ),
            ms_per_image=1000 * score_seconds,
            peak_memory_bytes=expected,
            model_bytes=bytes_of(self.network.state_dict().values()),
            problems=problems,
            advice=("a smaller batch_size", "another model_name") if problems else (),
        )

    def _probe(self, images: ImageDataset, keeps_features: bool) -> tuple[float, float, float]:
        """Return seconds an image: through reading and network; in an epoch; to score. The detector is used up."""
        sample = sample_of(images, max(8, 2 * self.batch_size))
        feature_seconds = seconds_an_image(sample, self.device, self.network.features, self.batch_size)
        self.max_epochs = 2  # the first one is slower: memory is taken, kernels are chosen
        self.monitor_metric = "loss"
        self.feature_budget = self.feature_budget if keeps_features else 0
        epoch_seconds = self.fit(sample).report.epochs[-1].seconds / len(sample)
        score_seconds = seconds_an_image(
            sample, self.device, lambda batch: self.score(batch, with_maps=False), self.batch_size
        )
        return feature_seconds, epoch_seconds, score_seconds

    def graph(self) -> nn.Module:
        """Return backbone, flows and map as one network; see ``base.Detector.graph``."""
        if not self.fitted_:
            raise ModelFormatError("This FastFlow has not been fitted: fit or load it first.")
        return FlowGraph(self.network)


def _note(epochs: list[Epoch], monitor: str) -> str:
    number = f"epoch {len(epochs) + 1}"
    return number if not epochs else f"{number}, {monitor} was {epochs[-1].metric:.4g}"
