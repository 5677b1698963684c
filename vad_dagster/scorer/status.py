"""What the scorer says about itself, as gauges for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Mapping

from vad_lib.scorer import FastLane
from vad_lib.scorer.signals import signal_counts

Gauge = tuple[str, list[tuple[Mapping[str, str], float]]]


def gauges(lane: FastLane) -> dict[str, Gauge]:
    """Return name -> what it says, and values with labels."""
    now = time.time()
    watches = dict(lane.watches)
    waiting = {name: list(watch.waiting.values()) for name, watch in watches.items()}
    reasons = lane.not_ready()
    found: dict[str, Gauge] = {
        "vad_lines": ("Lines that are watched.", [({}, len(watches))]),
        "vad_ready": ("1 where every line with a champion can be served.", [({}, float(not reasons))]),
        "vad_queue_images": ("Images taken up and not decided.", [({}, lane.queue.images)]),
        "vad_queue_room": ("Images that may still be taken up; 0: behind.", [({}, lane.queue.room)]),
        "vad_waiting_images": (
            "Complete images that nobody has taken up.",
            [({"line": name}, len(landed)) for name, landed in waiting.items()],
        ),
        "vad_oldest_waiting_seconds": (
            "Since the oldest of those landed.",
            [({"line": name}, max(0.0, now - min(landed))) for name, landed in waiting.items() if landed],
        ),
        "vad_scan_seconds": (
            "Processor time of the last scan of a landing folder.",
            [({"line": name}, watch.scan_seconds) for name, watch in watches.items()],
        ),
        "vad_model_info": (
            "The model in memory.",
            [({"line": name, "version": version}, 1) for name, version in lane.models.versions().items()],
        ),
    }
    counts = signal_counts(lane.db)
    found["vad_signals"] = (
        "Results that wait to be sent on, or were given up.",
        [({"state": state}, count) for state, count in counts.items()],
    )
    return found
