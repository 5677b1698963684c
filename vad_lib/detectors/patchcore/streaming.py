"""A memory bank from any number of images, in one pass and a bounded memory.

Greedy selections compose (Indyk et al., "Composable Core-sets for Diversity and Coverage Maximization", PODS 2014,
https://doi.org/10.1145/2594538.2594560; Ceccarello et al., "Solving k-center Clustering (with Outliers) in MapReduce
and Streaming, almost as Accurately as Sequentially", PVLDB 2019, https://arxiv.org/abs/1802.09205): what a greedy
selection keeps of each part of the data stands for the part, and a greedy selection over all that was kept stands for
the whole.

1. The images are put in an order drawn from the seed, so that each chunk is a fair sample of the data.
2. The patches of a chunk are reduced by the exact greedy selection to the chunk's share of the summary, which has
   ``OVERSAMPLING`` times as many rows as the bank. The chunk's patches are then forgotten.
3. The summary is reduced to the bank by the same selection.

How well the bank covers: with r1 the largest covering radius of a chunk by what was kept of it, and r2 that of the
summary by the bank, every patch of every image is within r1 + r2 of a row of the bank (triangle inequality). Both are
known when the fit ends; their sum is recorded as ``covering_radius_bound``. Wide features are measured in a random
projection, and what holds there is no bound of the patches themselves: then none is recorded.

Cost: the extraction is linear in the number of images. The selection costs at most chunk rows x summary rows for all
chunks together, and summary rows x bank rows at the end: it does not grow with the number of images once the bank has
reached its cap.

A fit that is killed goes on where it was: what is kept of a chunk is written to a file of its own, whole or not at all,
under a digest of everything that it depends on. Each chunk draws from a generator of its own, so the bank is the same
to the last bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from vad_lib.detectors.k_centre_greedy import random_projection, select_with_radius
from vad_lib.detectors.patchcore.bank_plan import MemoryBankPlan, streaming_projection
from vad_lib.detectors.patchcore.checkpoints import ChunkFiles, ChunkSummary
from vad_lib.detectors.patchcore.patches import PatchSource
from vad_lib.errors import InputError
from vad_lib.progress import Progress, ProgressMeter, silent

Projection = Callable[[torch.Tensor], torch.Tensor]
SAMPLE = 4096
"""Patches, drawn evenly from all images, that the covering radius of a bank is estimated on."""


@dataclass(frozen=True)
class StreamedBank:
    """What a streaming selection gives.

    Attributes:
        rows: float32 (K, D), on the CPU, in order of selection.
        sample: float32 (S, D), patches drawn evenly from all images, to measure the bank on.
        patches: of all images that could be read.
        radius_bound: no patch is farther from its nearest row; None where the selection measured in a projection,
            which blurs distances, so that nothing is proven of the patches themselves.
        resumed_chunks: chunks that an earlier, killed fit had done.
        extraction_seconds: spent on reading images and extracting patches.
    """

    rows: torch.Tensor
    sample: torch.Tensor
    patches: int
    radius_bound: float | None
    resumed_chunks: int
    extraction_seconds: float


def choose_streaming(
    source: PatchSource,
    plan: MemoryBankPlan,
    ratio: float,
    seed: int,
    files: ChunkFiles | None = None,
    progress: Progress = silent,
) -> StreamedBank:
    """Choose a bank chunk by chunk.

    Call inside ``randomness.seeded``: the projection, where there is one, draws from the global generators.

    Args:
        source: of the patches.
        plan: says the chunks and sizes.
        ratio: share of the patches that is kept, up to the plan's cap.
        seed: of the order of the images and of the start of each selection.
        files: where chunks are written as they are done, and found again; nowhere by default.
        progress: told of every batch; an exception raised in it stops the work.

    Raises:
        InputError: no image can be read.
    """
    count = len(source.images)
    project = None
    if streaming_projection(plan.patches, source.channels):
        project = random_projection(plan.patches, source.channels, source.device)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    summary = torch.empty((min(plan.summary_rows, plan.patches) + plan.chunks, source.channels))
    samples, filled, patches, radius, resumed, seen = [], 0, 0, 0.0, 0, 0
    extracting = 0.0
    meter = ProgressMeter(progress, "Extracting features", count)
    for number in range(plan.chunks):
        indices = order[number * plan.chunk_images : (number + 1) * plan.chunk_images]
        before, seen = seen, seen + source.patches_of(indices)
        share = plan.summary_rows * seen // plan.patches - plan.summary_rows * before // plan.patches
        chunk = files.read(number) if files else None
        if chunk is None:
            begun = time.monotonic()
            vectors = source.gather(indices, source.patches_of(indices), meter)
            extracting += time.monotonic() - begun
            chunk = _reduce(source, vectors, indices, max(1, share), _generator(seed, number), project, plan)
            if files:
                files.write(number, chunk)
        else:
            resumed += 1
            source.images.unreadable.update(chunk.unreadable)
            meter.advance(len(indices), "done before")
        summary[filled : filled + len(chunk.rows)] = chunk.rows
        filled += len(chunk.rows)
        samples.append(chunk.sample)
        patches += chunk.patches
        radius = max(radius, chunk.radius)
    if not filled:
        raise InputError(f"None of the {count} training images can be read; there is nothing to learn from.")
    summary = summary[:filled]
    wanted = min(max(1, int(patches * ratio)), plan.cap_rows, filled)
    chosen, last = _select(summary.to(source.device), wanted, _generator(seed, plan.chunks), project, progress)
    bound = radius + last if project is None else None
    return StreamedBank(summary[chosen.cpu()], torch.cat(samples), patches, bound, resumed, extracting)


def _reduce(
    source: PatchSource,
    vectors: torch.Tensor,
    indices: list[int],
    share: int,
    generator: torch.Generator,
    project: Projection | None,
    plan: MemoryBankPlan,
) -> ChunkSummary:
    """Return what is kept of the patches of a chunk."""
    unreadable = {index: source.images.unreadable[index] for index in indices if index in source.images.unreadable}
    if not len(vectors):
        nothing = torch.empty((0, source.channels))
        return ChunkSummary(nothing, nothing, 0, 0.0, unreadable)
    drawn = -(-SAMPLE * len(vectors) // plan.patches)
    sample = vectors[torch.randperm(len(vectors), generator=generator)[:drawn].to(source.device)]
    chosen, radius = _select(vectors, min(share, len(vectors)), generator, project, silent)
    return ChunkSummary(vectors[chosen].cpu(), sample.cpu(), len(vectors), radius, unreadable)


def _select(
    vectors: torch.Tensor,
    count: int,
    generator: torch.Generator,
    project: Projection | None,
    progress: Progress,
) -> tuple[torch.Tensor, float]:
    points = vectors if project is None else project(vectors)
    start = int(torch.randint(len(points), (1,), generator=generator))
    return select_with_radius(points, count, start, progress)


def _generator(seed: int, number: int) -> torch.Generator:
    """Return a generator of a chunk's own: what it draws must not depend on which chunks were done before."""
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
