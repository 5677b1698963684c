"""What a fit of PatchCore will take: timed on some of the images, scaled by ``selection_cost`` and ``bank_plan``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from vad_lib.detectors.fit_forecast import (
    FitForecast,
    Part,
    bytes_of,
    finish,
    memory_problems,
    sample_of,
    seconds_an_image,
    seconds_of,
)
from vad_lib.detectors.k_centre_greedy import coreset_indices
from vad_lib.detectors.patchcore.bank_plan import MemoryBankPlan, bank_sizes, plan_bank
from vad_lib.detectors.patchcore.nearest import MemoryBank
from vad_lib.detectors.patchcore.patches import PatchSource
from vad_lib.detectors.patchcore.selection_cost import bank_work, selection_work
from vad_lib.errors import PlanError
from vad_lib.machine import GIB, resident_bytes, size_text
from vad_lib.preprocessing import ImageSize
from vad_lib.randomness import seeded

Score = Callable[[torch.Tensor, MemoryBank], object]
"""Scores a batch on the device with a bank, without maps."""

SELECTION_POINTS = 16_384
"""Patches that a small selection is timed on."""
LEAST_CENTRES = 200
SEARCH_ROWS = 8_192
"""Most rows of the bank that scoring is timed with; the search takes time in proportion to the rows."""
SPARE = 0.9
"""Share of what is free that advice counts on."""


@dataclass(frozen=True)
class Probe:
    """Seconds: to read an image and take it through the network; to choose ``centres`` of ``points``; to search."""

    feature_seconds: float
    selection_seconds: float
    points: int
    centres: int
    search_seconds_per_row: float


def forecast_fit(source: PatchSource, sizes: dict[str, Any], seed: int, score: Score, memory_bytes: int) -> FitForecast:
    """Forecast a fit.

    Args:
        source: of the training patches.
        sizes: arguments of ``plan_bank``.
        seed: of the fit.
        score: scores a batch.
        memory_bytes: that the process may grow to.

    Raises:
        InputError: none of the images that are tried can be read.
    """
    images = source.images
    problems: tuple[str, ...] = ()
    try:
        plan = plan_bank(**sizes)
    except PlanError as error:
        # the probe needs a bank of some size; the numbers of the one that cannot be chosen are shown
        problems = (str(error),)
        plan = plan_bank(**{**sizes, "method": "auto", "budget_bytes": 2**62})
    probe = probe_fit(source, sizes["ratio"], plan.rows, seed, score)
    small = selection_work(probe.points, probe.centres, source.channels)
    choosing = bank_work(plan) * probe.selection_seconds / small
    expected = resident_bytes() + (plan.expected_bytes if source.device.type == "cpu" else 0)
    needs = f"PatchCore needs about {{}} of memory for {plan.patches:,} patches of {plan.images:,} images"
    problems = problems or memory_problems(needs, expected, memory_bytes)
    left = int((memory_bytes - resident_bytes()) * SPARE)
    chosen = f"{plan.rows:,} rows, {size_text(plan.bank_bytes)}, chosen by the {plan.method} selection"
    return FitForecast(
        parts=(
            Part.of("reading images and extracting features", len(images) * probe.feature_seconds),
            Part.of("choosing the memory bank", choosing),
        ),
        ms_per_image=1000 * (probe.feature_seconds + plan.rows * probe.search_seconds_per_row),
        peak_memory_bytes=expected,
        model_bytes=bytes_of(source.embedder.state_dict().values()) + plan.bank_bytes,
        method=plan.method,
        sizes=bank_sizes(plan.rows, plan.bank_bytes),
        notes=(("memory bank", chosen),),
        problems=problems,
        advice=what_would_fit(sizes, plan, left, images.preprocessing.image_size) if problems else (),
    )


def probe_fit(source: PatchSource, ratio: float, rows: int, seed: int, score: Score) -> Probe:
    """Time the parts of a fit and of scoring on a sample of the images.

    Args:
        source: of the training patches.
        ratio: share of the patches that the fit keeps.
        rows: of the bank that the fit will choose.
        seed: of the fit.
        score: scores a batch.
    """
    images, embedder, device = sample_of(source.images), source.embedder, source.device
    kept: list[torch.Tensor] = []

    def embed(batch: torch.Tensor) -> None:
        patches = embedder(batch)[0].flatten(0, 1)
        # no more than will be used: the patches of a dozen large images are gigabytes
        if (room := SELECTION_POINTS - sum(map(len, kept))) > 0:
            kept.append(patches[:room].clone())

    feature_seconds = seconds_an_image(images, device, embed, source.batch_size, forget=kept.clear)
    points = torch.cat(kept)
    centres = int(min(max(len(points) * ratio, LEAST_CENTRES), max(1, len(points) // 2)))
    with seeded(seed):
        coreset_indices(points[:LEAST_CENTRES], 0.1)  # imports what it needs
        finish(device)
        start = time.perf_counter()
        coreset_indices(points, centres / len(points))
        finish(device)
        selection_seconds = time.perf_counter() - start
    some = min(rows, SEARCH_ROWS)
    bank = MemoryBank(points[torch.arange(some, device=points.device) % len(points)].contiguous())
    batch = next(iter(images.batches(source.batch_size))).images.to(device)
    scoring = seconds_of(device, lambda: score(batch, bank)) / len(batch)
    embedding = seconds_of(device, lambda: embedder(batch)) / len(batch)
    return Probe(feature_seconds, selection_seconds, len(points), centres, max(0.0, scoring - embedding) / some)


def what_would_fit(sizes: dict[str, Any], plan: MemoryBankPlan, left: int, image_size: ImageSize) -> tuple[str, ...]:
    """Return changes of the plan with which the bank could be chosen, each by itself.

    Args:
        sizes: arguments of ``plan_bank``.
        plan: what was wanted.
        left: bytes that the selection may take.
        image_size: of the images as they are prepared.
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
    sides = (image_size,) if isinstance(image_size, int) else image_size
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
