"""What a streaming selection has done, in files: one a chunk, each written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vad_lib.atomic_files import write_whole


@dataclass(frozen=True)
class ChunkSummary:
    """What is kept of a chunk of images.

    Attributes:
        rows: float32 (S, D), chosen patches in order of selection, on the CPU.
        sample: float32 (T, D), patches drawn at random, on the CPU.
        patches: that the chunk had.
        radius: largest distance of any of them to the nearest chosen one, where the selection measures.
        unreadable: reasons by index, of images that could not be read.
    """

    rows: torch.Tensor
    sample: torch.Tensor
    patches: int
    radius: float
    unreadable: dict[int, str]


class ChunkFiles:
    """The folder of one fit's chunks.

    Args:
        folder: a folder of its own; what other fits left in it is removed.
        facts: everything that a chunk depends on, JSON-ready. A folder of other facts is never read.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        text = json.dumps(facts, sort_keys=True, default=str)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self.parent = folder
        self.folder = folder / self.digest[:16]

    def read(self, number: int) -> ChunkSummary | None:
        """Return a chunk that was done before; None where it was not, or its file is damaged."""
        from safetensors import SafetensorError, safe_open

        file = self._file(number)
        try:
            with safe_open(file, "pt") as content:
                notes = json.loads(content.metadata()["chunk"])
                if notes["digest"] != self.digest:
                    return None
                return ChunkSummary(
                    content.get_tensor("rows"),
                    content.get_tensor("sample"),
                    notes["patches"],
                    notes["radius"],
                    {int(index): reason for index, reason in notes["unreadable"].items()},
                )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def write(self, number: int, chunk: ChunkSummary) -> None:
        """Write a chunk so that it is there after a kill and after a power cut."""
        from safetensors.torch import save

        if not self.folder.is_dir():
            self.remove()  # of a fit with other facts, which nobody will take up again
            self.folder.mkdir(parents=True)
        notes = {
            "digest": self.digest,
            "patches": chunk.patches,
            "radius": chunk.radius,
            "unreadable": {str(index): reason for index, reason in chunk.unreadable.items()},
        }
        tensors = {"rows": chunk.rows.contiguous(), "sample": chunk.sample.contiguous()}
        write_whole(self._file(number), save(tensors, {"chunk": json.dumps(notes)}))

    def remove(self) -> None:
        """Remove everything: the fit has ended."""
        shutil.rmtree(self.parent, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"chunk_{number:06d}.safetensors"
