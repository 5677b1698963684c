"""Counts and times of the inference service, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vad_lib.queue import Decision
from vad_lib.words.client import Reply

BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds from arrival to result."""
VLM_BUCKETS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds of one reply of a vision language model."""


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

        self._vlm_requests = Counter(
            "vad_vlm_requests",
            "Requests to the vision language model: replied, refused by the model, or failed.",
            ["outcome"],
            registry=self.registry,
        )
        self._vlm_tokens = Counter(
            "vad_vlm_tokens", "Tokens of prompts and of replies.", ["kind"], registry=self.registry
        )
        self._vlm_seconds = Histogram(
            "vad_vlm_seconds", "Until a reply was there.", buckets=VLM_BUCKETS, registry=self.registry
        )

    def asked_model(self, outcome: str, reply: Reply | None) -> None:
        """Count a request to the vision language model, as ``vad_lib.words.client.Client`` tells of it."""
        self._vlm_requests.labels(outcome).inc()
        if reply is not None:
            self._vlm_tokens.labels("prompt").inc(reply.prompt_tokens)
            self._vlm_tokens.labels("completion").inc(reply.completion_tokens)
            self._vlm_seconds.observe(reply.seconds)

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
