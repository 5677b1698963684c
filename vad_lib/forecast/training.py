"""The forecast of a training: from the plan, the validated rows, and a few seconds of probing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vad_lib.detectors.fit_forecast import Part
from vad_lib.forecast.records import OBJECTIVE_SECONDS, Forecast, duration_text
from vad_lib.machine import Room, room_of_machine, size_text

if TYPE_CHECKING:
    from vad_lib.plan.arguments import TrainArguments
    from vad_lib.readiness.dataset import ValidatedDataset

COPIES_OF_MODEL = 4
"""A finished training keeps its model in the line's store, the checkpoint and MLflow, and writes one of them aside."""
HEATMAP_BYTES = 150_000


def forecast_training(
    dataset: ValidatedDataset,
    train: TrainArguments,
    *,
    weights_store: Path | None = None,
    results: Path | None = None,
    room: Room | None = None,
    timeout_hours: float | None = None,
) -> Forecast:
    """Forecast what ``fit_detector`` will take with the same dataset and arguments. Nothing is written.

    A training that cannot fit is not refused here; ``records.require_fit`` does that, and the ``problems`` say why.

    Args:
        dataset: after readiness.
        train: the plan's train arguments.
        weights_store: where backbone weights lie; the home's by default.
        results: folder that results are written to, for the disk; the working folder by default.
        room: memory and disk that may be taken; what the machine has left by default.
        timeout_hours: the plan's ``training_timeout_hours``; a longer training is a warning.

    Raises:
        WeightsMissingError, PlanError, ReadinessError, InputError: as ``fit_detector``.
    """
    from vad_lib.training import prepare_fit

    start = time.perf_counter()
    room = room or room_of_machine(results or Path())
    prepared = prepare_fit(dataset, train, weights_store=weights_store)
    loading = Part.of("loading the network", time.perf_counter() - start)
    found = prepared.detector.forecast(prepared.images, prepared.validation, room.memory_bytes)
    heatmaps = len(dataset.valid_rows) * HEATMAP_BYTES if train.save_validation_heatmap else 0
    forecast = Forecast(
        model_name=train.model_name,
        images=len(dataset.train_rows),
        validation_images=len(dataset.valid_rows),
        validation_seconds=len(dataset.valid_rows) * found.ms_per_image / 1000,
        memory_limit_bytes=room.memory_bytes,
        disk_bytes=COPIES_OF_MODEL * found.model_bytes + heatmaps,
        disk_free_bytes=room.disk_bytes,
        probe_seconds=time.perf_counter() - start,
        **{**dict(found), "parts": (loading, *found.parts)},
    )
    return _judged(forecast, timeout_hours)


def _judged(forecast: Forecast, timeout_hours: float | None) -> Forecast:
    """Return the forecast with the problems of disk and the warnings about the time."""
    changes: dict[str, Any] = {}
    if forecast.ms_per_image > 1000 * OBJECTIVE_SECONDS:
        told = (
            f"Inspecting an image takes about {forecast.ms_per_image / 1000:.1f} s here, so the objective of "
            f"{OBJECTIVE_SECONDS:g} s from arrival to result cannot be kept. Take a smaller image size or a smaller "
            "backbone, accelerator: gpu where there is one, or another model_name."
        )
        changes["warnings"] = (*forecast.warnings, told)
    if forecast.disk_bytes > forecast.disk_free_bytes:
        takes, free = size_text(forecast.disk_bytes), size_text(forecast.disk_free_bytes)
        told = f"The results take about {takes} on disk, and {free} are free."
        changes["problems"] = (*forecast.problems, told)
        changes["advice"] = (*forecast.advice, "make room on the disk, or set VAD_HOME to a larger one")
    whole = forecast.seconds + forecast.validation_seconds
    if timeout_hours is not None and whole > timeout_hours * 3600:
        told = (
            f"It is expected to take {duration_text(whole)}, and is stopped after training_timeout_hours "
            f"{timeout_hours:g}: raise it in the plan's section operation."
        )
        changes["warnings"] = (*changes.get("warnings", forecast.warnings), told)
    return forecast.model_copy(update=changes)
