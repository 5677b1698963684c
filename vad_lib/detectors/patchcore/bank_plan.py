"""How a memory bank is chosen, and what that takes: decided before any image is read.

*Exact*: every patch is kept until the greedy selection over all of them has ended; the bank is that of anomalib.
*Streaming*: one pass over the images in chunks; each chunk is reduced by the same greedy selection, and what is left of
all chunks is reduced once more (``streaming``). Memory depends on the rows of the bank, not on the number of images.

``plan_bank`` is arithmetic alone and is used by the fit and by every forecast of it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vad_lib.detectors.fit_forecast import Size
from vad_lib.errors import PlanError
from vad_lib.machine import GIB, MIB, memory_of_machine

BankMethod = Literal["auto", "exact", "streaming"]

CAP_ROWS = 100_000
"""Most rows of a bank by default. Scoring an image costs a product of all its patches with all rows, so a bank without
a cap makes every inspection slower with every training image."""
MEMORY_SHARE = 0.5
"""Share of the machine's memory that a selection may take where the plan names no budget."""
OVERSAMPLING = 4
"""Rows that the chunks of a streaming selection keep together, as a multiple of the bank's."""
CHUNK_ROWS = 65_536
"""Patches of a chunk: 64 images of 256 x 256 pixels at stride 8."""
FLOAT_BYTES = 4


@dataclass(frozen=True)
class MemoryBankPlan:
    """How the bank of a fit is chosen.

    Attributes:
        method: 'exact' or 'streaming'.
        images: training images.
        patches: of all of them.
        channels: of a patch.
        rows: of the bank: ``patches`` x coreset ratio, at most ``cap_rows``. Fewer where patches are copies.
        expected_bytes: peak of patches, projections, selection and bank; the process without them is not in it.
        exact_bytes: what the exact selection would take.
        bank_bytes: the bank alone.
        budget_bytes: what the selection may take.
        cap_rows: most rows.
        chunk_images: images of a chunk; all of them where the method is exact.
        summary_rows: rows that the chunks keep together, before the last selection; 0 where the method is exact.
    """

    method: Literal["exact", "streaming"]
    images: int
    patches: int
    channels: int
    rows: int
    expected_bytes: int
    exact_bytes: int
    bank_bytes: int
    budget_bytes: int
    cap_rows: int
    chunk_images: int
    summary_rows: int

    @property
    def chunks(self) -> int:
        """Number of chunks; 1 where the method is exact."""
        return math.ceil(self.images / self.chunk_images)

    def to_json(self) -> dict[str, Any]:
        """Return all attributes, JSON-ready."""
        return asdict(self)


def plan_bank(
    images: int,
    patches_per_image: float,
    channels: int,
    ratio: float,
    *,
    method: BankMethod = "auto",
    budget_bytes: int | None = None,
    cap_rows: int = CAP_ROWS,
) -> MemoryBankPlan:
    """Decide how the bank is chosen: exactly where that fits the budget, else streaming.

    Args:
        images: training images, at least 1.
        patches_per_image: mean over the images.
        channels: of a patch.
        ratio: share of the patches that is kept, 0 < ratio <= 1; holds up to the cap.
        method: 'exact' and 'streaming' are taken whatever 'auto' would.
        budget_bytes: for patches, projections, selection and bank; by default ``default_budget``.
        cap_rows: most rows of the bank, at least 1.

    Raises:
        PlanError: the exact selection is asked for and does not fit, or not even the bank fits.
    """
    budget = default_budget() if budget_bytes is None else budget_bytes
    patches = max(1, round(images * patches_per_image))
    rows = min(max(1, int(patches * ratio)), cap_rows)
    exact = _exact_bytes(patches, channels, rows)
    if method == "exact" or (method == "auto" and exact <= budget):
        if exact > budget:
            raise PlanError(
                f"patchcore_memory_bank is exact, but the exact selection from {patches:,} patches of {images:,} images"
                f" takes {exact / GIB:.1f} GiB and the budget is {budget / GIB:.1f} GiB. Set patchcore_memory_bank: "
                "auto or streaming, raise patchcore_memory_budget_gib, or take fewer images or a smaller img_size."
            )
        chunk_images, summary_rows, expected, chosen = images, 0, exact, "exact"
    else:
        chunk_images, summary_rows, expected = _streaming(images, patches_per_image, channels, rows, budget)
        chosen = "streaming"
    return MemoryBankPlan(
        method="exact" if chosen == "exact" else "streaming",
        images=images,
        patches=patches,
        channels=channels,
        rows=rows,
        expected_bytes=expected,
        exact_bytes=exact,
        bank_bytes=bank_bytes(rows, channels),
        budget_bytes=budget,
        cap_rows=cap_rows,
        chunk_images=chunk_images,
        summary_rows=summary_rows,
    )


def bank_bytes(rows: int, channels: int) -> int:
    """Return the bytes of a bank in memory: its rows with their norms."""
    return FLOAT_BYTES * rows * (channels + 1)


def bank_sizes(rows: int, size: int) -> tuple[Size, ...]:
    """Return the rows and the bytes of a bank as a forecast and a fitted detector tell them."""
    return (
        Size(name="bank_rows", label="rows of the memory bank", value=rows),
        Size(name="bank_mib", label="memory bank in MiB", value=size / MIB),
    )


def budget_in_bytes(gib: float, accelerator: str = "cpu") -> int:
    """Return the plan's ``patchcore_memory_budget_gib`` in bytes; 0 is half of what the machine, or its GPU, has."""
    return int(gib * GIB) if gib > 0 else default_budget(accelerator)


def default_budget(accelerator: str = "cpu") -> int:
    """Return the bytes that a selection may take where the plan does not say: half of the machine's or container's."""
    if accelerator == "gpu":
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory * MEMORY_SHARE)
    return int(memory_of_machine() * MEMORY_SHARE)


def projected_channels(points: int) -> int:
    """Return the dimensions that anomalib's sparse random projection with eps 0.9 gives for so many points.

    The bound of Johnson and Lindenstrauss as in Dasgupta and Gupta, https://doi.org/10.1002/rsa.10073.
    """
    eps = 0.9
    return int(4 * math.log(max(2, points)) / (eps**2 / 2 - eps**3 / 3))


def streaming_projection(patches: int, channels: int) -> int:
    """Return the dimensions in which a streaming selection measures; 0 where it measures the patches themselves.

    A projection blurs distances and is worth that only where it is less than half as wide: for wide_resnet50_2 (1,536
    channels), not for resnet18 (384).
    """
    projected = projected_channels(patches)
    return projected if 2 * projected <= channels else 0


def _exact_bytes(patches: int, channels: int, rows: int) -> int:
    projected = projected_channels(patches)
    # Beside the patches and their projection: bound, age and order of each; the chosen ones centred, or the bank.
    return FLOAT_BYTES * (patches * (channels + projected + 4) + rows * max(projected, channels + 1))


def _streaming(images: int, patches_per_image: float, channels: int, rows: int, budget: int) -> tuple[int, int, int]:
    """Return the images of a chunk, the rows of the summary, and the bytes."""
    patches = max(1, round(images * patches_per_image))
    projected = streaming_projection(patches, channels)
    width = channels + projected + 4
    bank = rows * (channels + 1 + (projected or channels))
    room = budget // FLOAT_BYTES
    most = (room - bank) // width
    chunk_images = max(1, min(images, int(CHUNK_ROWS // patches_per_image)))
    # A chunk stands beside the summary as it grows; the last selection needs the summary's projection and the bank.
    while chunk_images > 1 and chunk_images * patches_per_image * width > room / 4:
        chunk_images //= 2
    chunk_rows = math.ceil(chunk_images * patches_per_image)
    most = min(most, int((room - chunk_rows * width) / (channels + 4 + (projected or channels))))
    summary = min(patches, OVERSAMPLING * rows, most)
    if summary < rows:
        least = FLOAT_BYTES * (bank + rows * width + chunk_rows * width)
        raise PlanError(
            f"A memory bank of {rows:,} rows cannot be chosen within {budget / GIB:.2f} GiB: it takes about "
            f"{least / GIB:.2f} GiB. Raise patchcore_memory_budget_gib, or lower patchcore_bank_cap_rows or "
            "patchcore_coreset_sampling_ratio."
        )
    last = summary * width + bank
    first = (
        summary * channels + chunk_rows * width + math.ceil(summary * chunk_rows / patches) * (projected or channels)
    )
    return chunk_images, summary, FLOAT_BYTES * max(last, first)
