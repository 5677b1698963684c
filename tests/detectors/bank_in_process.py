"""A streaming fit that dies as by a power cut: python -m tests.detectors.bank_in_process ROWS WORK CHUNK THREADS."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pandas as pd
import torch

from tests.detectors.tile_images import as_dataset
from vad_lib.atomic_files import write_whole
from vad_lib.detectors.patchcore import bank_plan, checkpoints
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.encoders.weight_file import BackboneWeights

CHUNK_ROWS = 3 * 64
"""Chunks of three tiles."""


def stream(rows: pd.DataFrame, work: Path) -> PatchCore:
    """Fit a streaming bank on tiles; chunks are kept in ``work``."""
    weights = BackboneWeights("resnet18", None, "random", "")
    detector = PatchCore(weights, coreset_sampling_ratio=0.1, memory_bank="streaming", work_folder=work)
    return detector.fit(as_dataset(rows))


def die_at_chunk(number: int) -> None:
    """Let this process kill itself in the middle of writing a chunk, counted from 1."""
    written = []

    def write_and_die(file: Path, data: bytes) -> None:
        written.append(file)
        if len(written) == number:
            file.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write_whole(file, data)

    checkpoints.write_whole = write_and_die


if __name__ == "__main__":
    rows_file, work, chunk, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    bank_plan.CHUNK_ROWS = CHUNK_ROWS
    die_at_chunk(int(chunk))
    stream(pd.read_parquet(rows_file), Path(work))
