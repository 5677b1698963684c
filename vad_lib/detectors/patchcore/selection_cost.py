"""How a timed piece of work grows to the whole.

The constants of ``selection_work`` were measured on the patches of 4 to 209 photographs of bottles (resnet18, 256
pixels, 384 channels, one thread; 4,096 to 214,016 points, 4 to 21,401 centres). Only their ratios matter: a forecast
multiplies the law by what a small selection takes on the machine at hand, with the images at hand.
"""

from __future__ import annotations

from vad_lib.detectors.patchcore.bank_plan import MemoryBankPlan

PER_COMPARISON = 4.0e-9
"""Of one point with one centre, where points are many; lazy bounds save less where they are few."""
FEW_POINTS = 20_000
PER_POINT = 1.25e-6
"""Of keeping the points ordered by their bounds; grows a little faster than their number, less with few centres."""
POINT_EXPONENT = 1.15
FEW_CENTRES = 200
PER_PROJECTED_CHANNEL = 6.8e-9
"""Of the random projection, for each channel of each point."""


def selection_work(points: int, centres: int, channels: int) -> float:
    """Return the work of choosing ``centres`` of ``points`` by ``coreset_indices``, in seconds of one fast thread."""
    comparisons = PER_COMPARISON * points * centres * (1 + FEW_POINTS / points)
    ordering = PER_POINT * points**POINT_EXPONENT * min(1.0, (centres / FEW_CENTRES) ** 0.5)
    return comparisons + ordering + PER_PROJECTED_CHANNEL * points * channels


def bank_work(plan: MemoryBankPlan) -> float:
    """Return the work of choosing a bank as planned: at once, or of each chunk and then of what they kept."""
    if plan.method == "exact":
        return selection_work(plan.patches, plan.rows, plan.channels)
    chunk = max(1, round(plan.patches / plan.chunks))
    kept = max(1, round(plan.summary_rows / plan.chunks))
    chunks = plan.chunks * selection_work(chunk, kept, plan.channels)
    return chunks + selection_work(plan.summary_rows, plan.rows, plan.channels)
