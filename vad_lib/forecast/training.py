"""The forecast of a training: from the plan, the validated rows, and a few seconds of probing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vad_lib.detectors.patchcore.bank_plan import GIB, MemoryBankPlan, budget_in_bytes, plan_bank
from vad_lib.errors import PlanError
from vad_lib.forecast.laws import bank_work, selection_work
from vad_lib.forecast.machine import PeakMemory, Room, resident_bytes, room_of_machine
from vad_lib.forecast.probing import PROBE_IMAGES, probe_fastflow, probe_patchcore, sample_of
from vad_lib.forecast.records import Forecast, Part, duration_text, size_text

if TYPE_CHECKING:
    from vad_lib.detectors.fastflow.detector import FastFlow
    from vad_lib.detectors.patchcore.detector import PatchCore
    from vad_lib.plan.arguments import TrainArguments
    from vad_lib.readiness.dataset import ValidatedDataset
    from vad_lib.training import PreparedFit

COPIES_OF_MODEL = 4
"""A finished training keeps its model in the line's store, the checkpoint and MLflow, and writes one of them aside."""
HEATMAP_BYTES = 150_000
SPARE = 0.9
"""Share of what is free that advice counts on."""


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
    with PeakMemory() as peak:
        prepared = prepare_fit(dataset, train, weights_store=weights_store)
        prepare_seconds = time.perf_counter() - start
        forecast_kind = _patchcore if prepared.arguments.model_name == "patchcore" else _fastflow
        found = forecast_kind(prepared, room, prepare_seconds, peak)
    model_bytes = found.pop("model_bytes")
    heatmaps = len(dataset.valid_rows) * HEATMAP_BYTES if train.save_validation_heatmap else 0
    forecast = Forecast(
        model_name=train.model_name,
        images=len(dataset.train_rows),
        validation_images=len(dataset.valid_rows),
        validation_seconds=len(dataset.valid_rows) * found["ms_per_image"] / 1000,
        memory_limit_bytes=room.memory_bytes,
        disk_bytes=COPIES_OF_MODEL * model_bytes + heatmaps,
        disk_free_bytes=room.disk_bytes,
        probe_seconds=time.perf_counter() - start,
        **found,
    )
    return _judged(forecast, timeout_hours)


def _judged(forecast: Forecast, timeout_hours: float | None) -> Forecast:
    """Return the forecast with the problems of disk and the warning about the time."""
    changes: dict[str, Any] = {}
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
        changes["warnings"] = (*forecast.warnings, told)
    return forecast.model_copy(update=changes)


def _patchcore(prepared: PreparedFit, room: Room, prepare_seconds: float, peak: PeakMemory) -> dict[str, Any]:
    from vad_lib.detectors.patchcore.patches import PatchSource

    detector: PatchCore = prepared.detector  # type: ignore[assignment]
    parameters = prepared.arguments.model_parameters
    images = prepared.images
    source = PatchSource(images, detector.embedder, detector.device, detector.batch_size)
    sizes: dict[str, Any] = {
        "images": len(images),
        "patches_per_image": source.total / max(1, len(images)),
        "channels": source.channels,
        "ratio": parameters.patchcore_coreset_sampling_ratio,
        "method": parameters.patchcore_memory_bank,
        "budget_bytes": budget_in_bytes(parameters.patchcore_memory_budget_gib, prepared.arguments.accelerator),
        "cap_rows": parameters.patchcore_bank_cap_rows,
    }
    problems: tuple[str, ...] = ()
    try:
        plan = plan_bank(**sizes)
    except PlanError as error:
        # the probe needs a bank of some size; the numbers of the one that cannot be chosen are shown
        problems = (str(error),)
        plan = plan_bank(**{**sizes, "method": "auto", "budget_bytes": 2**62})
    probe = probe_patchcore(detector, sample_of(images, PROBE_IMAGES), sizes["ratio"], plan.rows)
    small = selection_work(probe.points, probe.centres, source.channels)
    choosing = bank_work(plan) * probe.selection_seconds / small
    on_gpu = prepared.arguments.accelerator == "gpu"
    expected = resident_bytes() + (0 if on_gpu else plan.expected_bytes)
    if not problems and expected > room.memory_bytes:
        problems = (
            f"PatchCore needs about {size_text(expected)} of memory for {plan.patches:,} patches of {plan.images:,} "
            f"images, and the machine has {size_text(room.memory_bytes)} left.",
        )
    left = int((room.memory_bytes - resident_bytes()) * SPARE)
    return {
        "parts": (
            _part("loading the network", prepare_seconds),
            _part("reading images and extracting features", len(images) * probe.feature_seconds),
            _part("choosing the memory bank", choosing),
        ),
        "ms_per_image": 1000 * (probe.feature_seconds + plan.rows * probe.search_seconds_per_row),
        "peak_memory_bytes": expected,
        "bank_method": plan.method,
        "bank_rows": plan.rows,
        "bank_bytes": plan.bank_bytes,
        "model_bytes": _bytes_of(detector.embedder) + plan.bank_bytes,
        "problems": problems,
        "advice": what_would_fit(sizes, plan, left, prepared.arguments) if problems else (),
    }


def what_would_fit(
    sizes: dict[str, Any], plan: MemoryBankPlan, left: int, arguments: TrainArguments
) -> tuple[str, ...]:
    """Return changes of the plan with which the bank could be chosen, each by itself.

    Args:
        sizes: arguments of ``plan_bank``.
        plan: what was wanted.
        left: bytes that the selection may take.
        arguments: of the training.
    """

    def fits(**changes: Any) -> bool:
        try:
            return plan_bank(**{**sizes, **changes}).expected_bytes <= left
        except PlanError:
            return False

    found = []
    if sizes["method"] == "exact" and fits(method="streaming"):
        found.append("patchcore_memory_bank: streaming")
    if (budget := _least(lambda gib: fits(budget_bytes=int(gib * GIB)), left / GIB)) is not None:
        found.append(f"patchcore_memory_budget_gib: {budget:.3g}")
    for share in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001):
        if fits(ratio=sizes["ratio"] * share):
            found.append(f"patchcore_coreset_sampling_ratio: {sizes['ratio'] * share:.3g}")
            break
    for rows in (50_000, 20_000, 10_000, 5_000, 2_000, 1_000):
        if rows < plan.rows and fits(cap_rows=rows):
            found.append(f"patchcore_bank_cap_rows: {rows}")
            break
    sides = (arguments.img_size,) if isinstance(arguments.img_size, int) else arguments.img_size
    for share in (0.75, 0.5, 0.375, 0.25, 0.125):
        smaller = [max(32, int(side * share)) for side in sides]
        if fits(patches_per_image=sizes["patches_per_image"] * share * share):
            found.append(f"img_size: {smaller[0] if len(smaller) == 1 else smaller}")
            break
    return tuple(found)


def _least(fits: Callable[[float], bool], most: float) -> float | None:
    """Return a budget of at most ``most`` GiB, not larger than needed by much; None where none fits."""
    if most <= 0 or not fits(most):
        return None
    return next((most * share for share in (0.25, 0.5, 0.75) if fits(most * share)), most)


def _fastflow(prepared: PreparedFit, room: Room, prepare_seconds: float, peak: PeakMemory) -> dict[str, Any]:
    from vad_lib.detectors.fastflow.epochs import PATIENCE
    from vad_lib.detectors.fastflow.features import FeatureSource

    detector: FastFlow = prepared.detector  # type: ignore[assignment]
    images, validation = prepared.images, prepared.validation
    batch_size, budget = detector.batch_size, detector.feature_budget
    train = FeatureSource(images, detector.network, detector.device, batch_size, budget)
    watched = validation if detector.monitor_metric != "loss" else None
    valid_needs, valid_keeps = 0, False
    if watched is not None:
        left = budget - (train.needs if train.keeps else 0)
        valid = FeatureSource(watched, detector.network, detector.device, batch_size, left)
        valid_needs, valid_keeps = valid.needs, valid.keeps
    sample = sample_of(images, max(8, 2 * batch_size))
    probe = probe_fastflow(detector, sample, train.keeps, train.needs // max(1, len(images)))
    epochs, n_valid = prepared.arguments.max_epochs, len(watched) if watched is not None else 0
    kept_images = (len(images) if train.keeps else 0) + (n_valid if valid_keeps else 0)
    flow_only = max(0.0, probe.score_seconds - probe.feature_seconds)
    epoch = len(images) * probe.epoch_seconds + n_valid * (flow_only if valid_keeps else probe.score_seconds)
    kept_bytes = (train.needs if train.keeps else 0) + (valid_needs if valid_keeps else 0)
    on_gpu = prepared.arguments.accelerator == "gpu"
    expected = max(peak.peak_bytes, resident_bytes()) + (0 if on_gpu else kept_bytes)
    problems: tuple[str, ...] = ()
    if expected > room.memory_bytes:
        problems = (
            f"FastFlow needs about {size_text(expected)} of memory with batches of {batch_size}, and the machine has "
            f"{size_text(room.memory_bytes)} left.",
        )
    least = min(epochs, PATIENCE + 1)
    return {
        "parts": (
            _part("loading the network", prepare_seconds),
            _part("reading images and extracting features", kept_images * probe.feature_seconds),
            Part(name=f"training, {epochs} epochs at most", seconds=epochs * epoch, least_seconds=least * epoch),
        ),
        "ms_per_image": 1000 * probe.score_seconds,
        "peak_memory_bytes": expected,
        "model_bytes": _bytes_of(detector.network),
        "problems": problems,
        "advice": ("a smaller batch_size", "model_name: patchcore") if problems else (),
    }


def _part(name: str, seconds: float) -> Part:
    return Part(name=name, seconds=seconds, least_seconds=seconds)


def _bytes_of(network: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
