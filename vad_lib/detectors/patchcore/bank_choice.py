"""Choosing the memory bank of a fit as its plan says, and the record of what was done."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vad_lib.detectors.images import ImageDataset
from vad_lib.detectors.k_centre_greedy import coreset_indices
from vad_lib.detectors.patchcore.bank_plan import GIB, MemoryBankPlan
from vad_lib.detectors.patchcore.checkpoints import ChunkFiles
from vad_lib.detectors.patchcore.nearest import MemoryBank
from vad_lib.detectors.patchcore.patches import PatchSource
from vad_lib.detectors.patchcore.streaming import SAMPLE, choose_streaming
from vad_lib.errors import InputError
from vad_lib.progress import Progress, ProgressMeter, silent


@dataclass(frozen=True)
class ChosenBank:
    """A memory bank and how it came about.

    Attributes:
        bank: the memory.
        record: what was done, JSON-ready; it goes into the model's description.
        numbers: the numbers of the record, for the report of the fit, and the seconds of extraction and selection.
        notices: what the user should know.
    """

    bank: MemoryBank
    record: dict[str, Any]
    numbers: dict[str, float]
    notices: tuple[str, ...]


def choose_bank(
    source: PatchSource,
    plan: MemoryBankPlan,
    ratio: float,
    seed: int,
    facts: dict[str, Any],
    work_folder: Path | None = None,
    progress: Progress = silent,
) -> ChosenBank:
    """Choose the bank; call inside ``randomness.seeded``.

    Args:
        source: of the training patches.
        plan: exact or streaming, and the sizes.
        ratio: share of the patches that is kept, up to the plan's cap.
        seed: of a streaming selection's order and starts; the exact one draws from the global generators.
        facts: what patches depend on beside the images; what was done under other facts is not taken up again.
        work_folder: for the chunks of a streaming selection; nowhere by default.
        progress: told of every batch and block.

    Returns:
        The bank, and a record: the plan, and 'patches' and 'rows' as they became; 'covering_radius', the largest
        distance of 4,096 patches of all images to their nearest row (patches that are rows have distance 0), an
        estimate from below of how far any training patch is; 'covering_radius_bound', a proven bound, where streaming
        measures the patches themselves and no projection of them.

    Raises:
        InputError: no training image can be read.
    """
    record: dict[str, Any] = plan.to_json()
    notices = []
    begun = time.monotonic()
    if plan.method == "exact":
        rows, sample, patches, extracting = _choose_exactly(source, plan, ratio, seed, progress)
    else:
        files = None
        if work_folder is not None:
            files = ChunkFiles(work_folder / "memory_bank", {**facts, **_facts_of(source.images), **plan.to_json()})
        streamed = choose_streaming(source, plan, ratio, seed, files, progress)
        rows, sample = streamed.rows.to(source.device), streamed.sample.to(source.device)
        patches, extracting = streamed.patches, streamed.extraction_seconds
        record["resumed_chunks"] = streamed.resumed_chunks
        proven = ""
        if streamed.radius_bound is not None:
            record["covering_radius_bound"] = streamed.radius_bound
            proven = f" Every training patch is within {streamed.radius_bound:.3g} of a row."
        notices.append(
            f"The memory bank was chosen in one pass over the images (streaming): the exact selection takes "
            f"{plan.exact_bytes / GIB:.1f} GiB, the budget is {plan.budget_bytes / GIB:.1f} GiB.{proven} "
            "patchcore_memory_bank: exact and a larger patchcore_memory_budget_gib give the exact one."
        )
        if files is not None:
            files.remove()
    choosing = time.monotonic() - begun - extracting
    bank = MemoryBank(rows)
    if (uncapped := int(patches * ratio)) > plan.cap_rows:
        notices.append(
            f"The memory bank has {len(rows):,} rows, the most that patchcore_bank_cap_rows allows: the coreset "
            f"ratio of {ratio:.3g} would keep {uncapped:,} of {patches:,} patches."
        )
    record |= {"patches": patches, "rows": len(rows), "covering_radius": float(bank.nearest(sample)[0].max())}
    numbers = {"patches": float(patches), "memory_bank_rows": float(len(rows))}
    numbers |= {name: float(record[name]) for name in ("covering_radius", "covering_radius_bound") if name in record}
    numbers["memory_budget_gib"] = round(plan.budget_bytes / GIB, 3)
    numbers |= {"extraction_seconds": round(extracting, 3), "selection_seconds": round(choosing, 3)}
    return ChosenBank(bank, record, numbers, tuple(notices))


def _choose_exactly(
    source: PatchSource, plan: MemoryBankPlan, ratio: float, seed: int, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor, int, float]:
    """Return the rows, a sample of the patches, their number, and the seconds of the extraction."""
    begun = time.monotonic()
    count = len(source.images)
    meter = ProgressMeter(progress, "Extracting features", count)
    embedding = source.gather(range(count), source.total, meter)
    if not len(embedding):
        raise InputError(f"None of the {count} training images can be read; there is nothing to learn from.")
    extracting = time.monotonic() - begun
    chosen = coreset_indices(embedding, ratio, progress, most=plan.cap_rows)
    drawn = torch.randperm(len(embedding), generator=torch.Generator().manual_seed(seed))[:SAMPLE]
    return embedding[chosen].contiguous(), embedding[drawn.to(embedding.device)], len(embedding), extracting


def _facts_of(images: ImageDataset) -> dict[str, Any]:
    """Return what tells these images, as they are now and are prepared, from all others."""
    states = []
    for file in images.files:
        try:
            state = os.stat(file)
            states.append([str(file), state.st_size, state.st_mtime_ns])
        except OSError:
            states.append([str(file), -1, -1])
    return {
        "files": states,
        "sha256": images.sha256,
        "preprocessing": images.preprocessing.to_json(),
        "augmentation": repr(images.augmentation),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
