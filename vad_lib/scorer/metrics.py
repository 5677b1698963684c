"""Counts and times of the scorer, in the text format of Prometheus."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds from landing to result."""
RECENT = 1000


class Metrics:
    """What happened since the scorer began. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._images: dict[tuple[str, str], int] = defaultdict(int)
        self._buckets: dict[str, list[int]] = defaultdict(lambda: [0] * len(BUCKETS))
        self._sums: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
        self._counts: dict[str, int] = defaultdict(int)
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    def decided(self, line: str, state: str, seconds: float | None) -> None:
        """Count a landing and how long it waited."""
        with self._lock:
            self._images[line, state] += 1
            if seconds is None:
                return
            count, total = self._sums[line]
            self._sums[line] = (count + 1, total + seconds)
            for number, bound in enumerate(BUCKETS):
                self._buckets[line][number] += seconds <= bound
            self._recent[line].append(seconds)

    def count(self, name: str, by: int = 1) -> None:
        """Count anything else."""
        with self._lock:
            self._counts[name] += by

    def recent(self, line: str) -> list[float]:
        """Return how long the last images of a line waited, in seconds."""
        with self._lock:
            return list(self._recent.get(line, ()))

    def text(self, gauges: Mapping[str, tuple[str, Iterable[tuple[Mapping[str, str], float]]]]) -> str:
        """Return everything as text.

        Args:
            gauges: name -> what it says, and its values with their labels.
        """
        lines: list[str] = []
        with self._lock:
            _head(lines, "vad_images_total", "counter", "Landed images decided by the fast lane.")
            for (line, state), number in sorted(self._images.items()):
                lines.append(_sample("vad_images_total", {"line": line, "state": state}, number))
            name = "vad_landing_to_result_seconds"
            _head(lines, name, "histogram", "From the last change of the file to its durable result.")
            for line, buckets in sorted(self._buckets.items()):
                count, total = self._sums[line]
                for bound, number in zip(BUCKETS, buckets, strict=True):
                    lines.append(_sample(f"{name}_bucket", {"line": line, "le": str(bound)}, number))
                lines.append(_sample(f"{name}_bucket", {"line": line, "le": "+Inf"}, count))
                lines.append(_sample(f"{name}_sum", {"line": line}, total))
                lines.append(_sample(f"{name}_count", {"line": line}, count))
            for counter, number in sorted(self._counts.items()):
                _head(lines, f"vad_{counter}_total", "counter", f"{counter.replace('_', ' ').capitalize()}.")
                lines.append(_sample(f"vad_{counter}_total", {}, number))
        for gauge, (meaning, values) in gauges.items():
            _head(lines, gauge, "gauge", meaning)
            lines += [_sample(gauge, labels, value) for labels, value in values]
        return "\n".join(lines) + "\n"


def _head(lines: list[str], name: str, kind: str, meaning: str) -> None:
    lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value!r}" if inside else f"{name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
