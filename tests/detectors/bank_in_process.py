"""A streaming fit in a process of its own, which kills itself where it is told to: python bank_in_process.py …"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from tests.detectors.tile_images import as_dataset
from vad_lib.atomic_files import write_whole
from vad_lib.backbones.weights import BackboneWeights
from vad_lib.detectors.patchcore import bank_plan, checkpoints
from vad_lib.detectors.patchcore.detector import PatchCore
from vad_lib.tables import ValidatedRows


def main(rows_file: str, work: str, target: str, die_at: str) -> None:
    """Fit on the rows of a file; with ``die_at`` above 0, die in the middle of writing that chunk."""
    import pandas as pd

    torch.set_num_threads(1)
    bank_plan.CHUNK_ROWS = 3 * 64
    written = []

    def write_and_die(file: Path, data: bytes) -> None:
        written.append(file)
        if len(written) == int(die_at):
            file.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write_whole(file, data)

    checkpoints.write_whole = write_and_die  # type: ignore[assignment]
    rows = ValidatedRows.validate(pd.read_parquet(rows_file))
    detector = PatchCore(
        BackboneWeights("resnet18", None, "random", ""),
        coreset_sampling_ratio=0.1,
        memory_bank="streaming",
        batch_size=1,
        work_folder=Path(work),
    )
    detector.fit(as_dataset(rows))
    detector.save(Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
