"""Random prompts for the random CLIP of ``vad_lib/comparison/random_clip.py``."""

from __future__ import annotations

from pathlib import Path

import torch

from vad_lib.detectors.anomalyclip.learnt_file import FOLDER, Learnt


def tiny_prompts() -> Learnt:
    """Return the tokens of two prompts, and those of the first two of the three blocks that can have their own."""
    draw = torch.Generator().manual_seed(1)
    return Learnt(
        "prompts", {"ctx": torch.randn(2, 12, 16, generator=draw), "deep": torch.randn(2, 4, 16, generator=draw)}
    )


def write_tiny_prompts(store: Path) -> None:
    """Write them under the name that plans take by default."""
    tiny_prompts().save(store / FOLDER / "anomalyclip.safetensors")
