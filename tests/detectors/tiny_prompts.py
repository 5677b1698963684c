"""Random prompts for the random CLIP of ``vad_lib/comparison/random_clip.py``."""

from __future__ import annotations

from pathlib import Path

from vad_lib.detectors.anomalyclip.learnt_file import FOLDER, Learnt, random_prompts


def tiny_prompts() -> Learnt:
    """Return the tokens of two prompts, and those of the first two of the three blocks that can have their own."""
    return random_prompts(16, 3)


def write_tiny_prompts(store: Path) -> None:
    """Write them under the name that plans take by default."""
    tiny_prompts().save(store / FOLDER / "anomalyclip.safetensors")
