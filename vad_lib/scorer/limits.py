"""How much the resident scorer takes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LaneLimits:
    """How much the scorer takes on.

    Attributes:
        micro_batch: images scored together at most.
        queue_images: images taken up and not decided yet; what lands above that is left to the bulk lane.
        warm_models: models in memory.
        workers: batches at work; only one of them scores at a time.
        follow_seconds: how often lines and champions are looked at.
        linger_seconds: how long an image waits for company while all workers are busy.
    """

    micro_batch: int = 16
    queue_images: int = 256
    warm_models: int = 8
    workers: int = 2
    follow_seconds: float = 3.0
    linger_seconds: float = 0.25
