"""What the inference service says about itself, as gauges for Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from vad_lib.inspection_db.labels import agreement
from vad_lib.inspection_db.monitoring import drift_levels, standing_alarms
from vad_lib.inspection_db.notices import told_counts
from vad_lib.inspection_db.shadow import shadow_counts
from vad_lib.inspection_db.version_comparison import count_live
from vad_lib.queue import pauses, queue_facts
from vad_lib.queue.outbox import notification_counts
from vad_lib.serving import InferenceService
from vad_lib.serving.metrics import gauge
from vad_lib.words.describing import description_counts
from vad_lib.words.dialogue import question_counts

AGREEMENT_SECONDS = 30.0
"""Agreement is counted over all predictions of a line, so not at each scrape."""


class ServiceGauges(Collector):
    """Reads the state of a service whenever Prometheus asks."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service
        self._agreement: list[tuple[tuple[str, ...], float]] = []
        self._agreement_at: float | None = None
        self._counting = threading.Lock()

    def describe(self) -> list[Metric]:
        """Nothing: what there is, is known only when it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all gauges."""
        service = self._service
        watches, facts = dict(service.watches), queue_facts(service.db)
        yield gauge("vad_lines", "Lines that are watched.", [((), len(watches))])
        ready = float(not service.not_ready())
        yield gauge("vad_ready", "1 where every line with a champion can be served.", [((), ready)])
        paused = pauses(service.db)
        stands = [((name,), float(name in paused)) for name in service.watched]
        yield gauge("vad_line_paused", "1 for each line that somebody has paused.", stands, "line")
        lines = [((name,), each) for name, each in facts.items()]
        yield gauge("vad_queue_images", "Images that are not decided.", [(n, f.pending) for n, f in lines], "line")
        yield gauge("vad_queue_leased_images", "Images in hand.", [(n, f.leased) for n, f in lines], "line")
        oldest = [(name, each.oldest_seconds) for name, each in lines]
        yield gauge("vad_queue_oldest_seconds", "Since the oldest of them arrived.", oldest, "line")
        scans = [((name,), watch.scan_seconds) for name, watch in watches.items()]
        yield gauge("vad_scan_seconds", "Processor time of the last scan of a watch folder.", scans, "line")
        warm = [((name, version), 1.0) for name, version in service.models.versions().items()]
        yield gauge("vad_model_info", "The model in memory.", warm, "line", "version")
        described = [((line, state), float(count)) for line, state, count in description_counts(service.db)]
        yield gauge("vad_descriptions", "Descriptions; disagrees: of those done.", described, "line", "state")
        asked = [((line, state), float(count)) for line, state, count in question_counts(service.db)]
        yield gauge("vad_questions", "Questions of people in dialogues.", asked, "line", "state")
        levels = [((row.line, row.chart), row.level) for row in drift_levels(service.db)]
        meaning = "Where each chart of drift stands, as a share of what is an alarm."
        yield gauge("vad_drift_level", meaning, levels, "line", "chart")
        alarms = [((line, chart), 1.0) for line, told in standing_alarms(service.db).items() for chart in told]
        yield gauge("vad_drift_alarm", "1 for each alarm of drift that stands.", alarms, "line", "chart")
        beside = [(name, line, line.shadow) for name, line in service.watched.items() if line.shadow is not None]
        scored = shadow_counts(service.db, [(name, shadow.version) for name, _, shadow in beside])
        shadowed = [(key, float(count)) for key, count in scored.items()]
        meaning = "Images that a version which does not serve has scored beside the champion."
        yield gauge("vad_shadow_images", meaning, shadowed, "line", "version")
        agreed = [
            ((name, shadow.version), share)
            for name, line, shadow in beside
            if (share := count_live(service.db, name, line.model_version, shadow.version).agreement) is not None
        ]
        meaning = "Share of live images at random on which that version and the champion say the same."
        yield gauge("vad_version_agreement", meaning, agreed, "line", "version")
        gates = [((name, shadow.gate), 1.0) for name, _, shadow in beside]
        meaning = "1 for where the gate of a line stands: waiting, refused or promoted."
        yield gauge("vad_gate", meaning, gates, "line", "state")
        sent = [((state,), count) for state, count in notification_counts(service.db).items()]
        yield gauge("vad_notifications", "Results that wait to be sent, or were given up.", sent, "state")
        meaning = "Share of judged predictions on which people say the same."
        yield gauge("vad_label_agreement", meaning, self._agreed_with_people(), "line")
        people = [((line, name), given_up, failures) for line, name, given_up, failures, _ in told_counts(service.db)]
        lost = [(pair, float(count)) for pair, count, _ in people]
        meaning = "Notices that a receiver was not told of: its messages failed for too long."
        yield gauge("vad_messages_given_up", meaning, lost, "line", "receiver")
        failed = [(pair, float(count)) for pair, _, count in people]
        meaning = "Messages to a receiver that failed in a row; 0 after one that was sent."
        yield gauge("vad_message_failures", meaning, failed, "line", "receiver")

    def _agreed_with_people(self) -> list[tuple[tuple[str, ...], float]]:
        with self._counting:
            if self._agreement_at is None or time.monotonic() - self._agreement_at >= AGREEMENT_SECONDS:
                rates = [((name,), agreement(self._service.db, name).rate) for name in self._service.watched]
                self._agreement = [(name, rate) for name, rate in rates if rate is not None]
                self._agreement_at = time.monotonic()
            return self._agreement
