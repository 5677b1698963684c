"""Counts and times of the inference service, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vad_lib.queue import Decision

BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds from arrival to result."""


class Metrics:
    """What happened since the service began. May be used by several threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._images = Counter(
            "vad_images", "Incoming files that were decided.", ["line", "result"], registry=self.registry
        )
        self._seconds = Histogram(
            "vad_arrival_to_result_seconds",
            "From the last change of the file to its durable result.",
            ["line"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.failures = Counter(
            "vad_failed_chunks",
            "Chunks of files that could not be inspected at once.",
            ["line"],
            registry=self.registry,
        )

    def decided(self, line: str, decision: Decision) -> None:
        """Count a decision: OK, NG, known (the content had a result), refused, duplicate or unchanged."""
        result = decision.predicted or {"done": "known"}.get(decision.state, decision.state)
        self._images.labels(line, "duplicate" if decision.rule == "duplicate" else result).inc()
        self._seconds.labels(line).observe(decision.seconds)

    def collect_from(self, collector: Collector) -> None:
        """Ask ``collector`` for further values whenever somebody reads."""
        self.registry.register(collector)

    def text(self) -> bytes:
        """Return everything in the text format of Prometheus."""
        return generate_latest(self.registry)


def gauge(name: str, meaning: str, values: Iterable[tuple[tuple[str, ...], float]], *labels: str) -> GaugeMetricFamily:
    """Return a gauge with its values, each with as many label values as there are ``labels``."""
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family
