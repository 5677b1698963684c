"""The fit of one of anomalib's modules, as anomalib fits it: Lightning's trainer with what the module asks of it.

Optimisers, schedules, clipping of gradients and the number of passes of models without epochs are the module's own. The
images, their order, the number of epochs and who is told of the progress are ours.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from anomalib.data import ImageBatch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import nn

from vad_lib.detectors.base import Epoch
from vad_lib.detectors.images import ImageDataset
from vad_lib.errors import InputError, PlanError, VadError
from vad_lib.progress import Progress, ProgressMeter
from vad_lib.quietness import quiet

TRAINERS = ("lightning.pytorch", "lightning.fabric", "anomalib")
"""Loggers whose advice on machines and loggers a user cannot follow."""


class TrainingBatches:
    """The training images once, in a new random order each time, in the form of anomalib's batches."""

    def __init__(self, images: ImageDataset, batch_size: int, normalise: nn.Module) -> None:
        self.images = images
        self.batch_size = batch_size
        self.normalise = normalise

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[ImageBatch]:
        self.images.epoch += 1
        for batch in self.images.batches(self.batch_size, torch.randperm(len(self.images)).tolist()):
            count, _, height, width = batch.images.shape
            yield ImageBatch(
                image=self.normalise(batch.images),
                gt_label=torch.zeros(count, dtype=torch.bool),
                gt_mask=torch.zeros((count, height, width), dtype=torch.bool),
            )


class _Images(LightningDataModule):
    """Some modules ask the trainer's data module how many batches an epoch has."""

    def __init__(self, batches: TrainingBatches) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> TrainingBatches:
        return self.batches


class _Watch(Callback):
    """Tells the progress and keeps the loss of each epoch."""

    def __init__(self, images: ImageDataset, meter: ProgressMeter) -> None:
        self.images = images
        self.meter = meter
        self.epochs: list[Epoch] = []
        self._losses: list[float] = []
        self._begun = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._losses, self._begun = [], time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self._losses.append(float(loss) if loss is not None else 0.0)
        self.meter.advance(len(batch.image))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not self._losses:
            raise InputError(f"None of the {len(self.images)} training images can be read.")
        loss = float(np.mean(self._losses))
        if not np.isfinite(loss):
            raise VadError(
                f"The loss of anomalib's {pl_module.name} is not a number any more: the fit went astray. Take a larger "
                "batch_size, or another anomalib_model."
            )
        number = len(self.epochs) + 1
        self.epochs.append(Epoch(number, loss, loss, False, time.monotonic() - self._begun))


def fit_module(
    module: Any, images: TrainingBatches, max_epochs: int, accelerator: str, progress: Progress
) -> tuple[Epoch, ...]:
    """Train a module and return its epochs. Call inside ``randomness.seeded``.

    Args:
        module: anomalib's Lightning module, unfitted; it is changed.
        images: to learn from.
        max_epochs: passes over the images, for a module that does not say itself how many it takes.
        accelerator: cpu or gpu.
        progress: told of every batch; an exception raised in it stops the fit.

    Raises:
        InputError: no image can be read.
        PlanError: the module cannot be trained with these arguments.
        VadError: the loss is not a number any more.
    """
    arguments = {"max_epochs": max_epochs, **module.trainer_arguments}
    meter = ProgressMeter(progress, f"Training {module.name}", arguments["max_epochs"] * len(images.images))
    watch = _Watch(images.images, meter)
    interrupt = signal.getsignal(signal.SIGINT)
    with quiet(*TRAINERS):
        trainer = Trainer(
            **{
                "accelerator": accelerator,
                "devices": 1,
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                **arguments,
            },
            callbacks=[watch],
        )
        try:
            trainer.fit(module, datamodule=_Images(images))
        except SystemExit as error:  # how the trainer ends after a Ctrl-C, which it then ignores for good
            signal.signal(signal.SIGINT, interrupt)
            raise KeyboardInterrupt from error
        except VadError:
            raise
        except (AssertionError, RuntimeError, ValueError) as error:
            raise PlanError(
                f"anomalib's {module.name} cannot be trained with these arguments ({error}). Change img_size, "
                "batch_size, anomalib_backbone or anomalib_layers."
            ) from error
    return tuple(watch.epochs)
