"""Images with masks of what is damaged, for what is learnt on other products."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MaskedImage:
    """One image to learn from.

    Attributes:
        image: its file.
        mask: the file of its mask, brighter than half where it is damaged; None where nothing is.
    """

    image: Path
    mask: Path | None = None


@dataclass(frozen=True)
class LearningSettings:
    """How a detector learns from images of other products.

    Attributes:
        encoder: name, file or folder.
        store: the weights store.
        kind: what is learnt; each detector says which kinds it knows.
        levels: layers of the encoder, counted from 1; the detector's default where empty.
        side: pixels of a side of the prepared images.
        epochs: passes over the images.
        seed: of the start and the order.
    """

    encoder: str
    store: Path
    kind: str = "prompts"
    levels: tuple[int, ...] = ()
    side: int = 518
    epochs: int = 15
    seed: int = 42
