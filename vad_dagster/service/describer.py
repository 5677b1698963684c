"""The thread of the inference service that describes findings and answers questions. No image waits for it."""

from __future__ import annotations

import logging
import threading
import time

from vad_dagster.finding_words import line_facts
from vad_dagster.service.heatmap_drawer import Drawer
from vad_lib.errors import VadError
from vad_lib.inspection_db.schema import descriptions, turns
from vad_lib.queue import new_worker
from vad_lib.serving import InferenceService
from vad_lib.words.client import Client
from vad_lib.words.context import LineFacts
from vad_lib.words.describing import Budgets, describe_waiting
from vad_lib.words.dialogue import answer_waiting
from vad_lib.words.endpoint import Endpoint
from vad_lib.words.waiting import lines_due

IDLE_SECONDS = 2.0
FACTS_SECONDS = 60.0
"""What is known about a line is read again after so long."""
TROUBLE_SECONDS = 30.0
QUESTION_SECONDS = 5.0
"""Before a question that could not be answered is looked at again."""
STOP_SECONDS = 1.0
logger = logging.getLogger("vad.service.describer")


def endpoint_of_settings() -> Endpoint | None:
    """Return the endpoint that the environment names; None, and a line in the log, where it cannot be used.

    A wrong address of it must not keep images from being inspected.
    """
    try:
        return Endpoint.of_settings()
    except VadError as error:
        logger.warning("findings are not described: %s", error)
        return None


class Describer:
    """Answers and describes in a thread of its own, one at a time, each line in turn; questions of people come first.

    Args:
        service: whose database, lines and metrics.
        drawer: makes anomaly maps.
        endpoint: whom to ask; None: nothing is described, and no thread runs.
    """

    def __init__(self, service: InferenceService, drawer: Drawer, endpoint: Endpoint | None) -> None:
        self.client = Client(endpoint, told=service.metrics.asked_model) if endpoint else None
        """Asks the endpoint; None where there is none. Dialogues share it, with all that it remembers."""
        self._service = service
        self._drawer = drawer
        self._facts: dict[str, tuple[float, LineFacts]] = {}
        self._resting: dict[str, float] = {}
        self._unanswered: dict[str, float] = {}
        """Lines whose questions could not be answered just now, and until when they are left alone."""
        self._stopping = threading.Event()
        self._awake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, where there is an endpoint."""
        if self.client is not None:
            self._thread = threading.Thread(target=self._run, args=(self.client,), name="vad-describe", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End. What the endpoint is asked just now is given up: another worker asks again."""
        self._stopping.set()
        self._awake.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def wake(self) -> None:
        """Something new may wait."""
        self._awake.set()

    def facts(self, line: str) -> LineFacts:
        """Return what is known about a line that is watched, as of a minute ago at most.

        Raises:
            VadError: its plan cannot be read.
        """
        known = self._facts.get(line)
        if known is None or time.monotonic() - known[0] > FACTS_SECONDS:
            known = time.monotonic(), line_facts(self._service.watched[line].line, self._drawer.map_of)
            self._facts[line] = known
        return known[1]

    def _run(self, client: Client) -> None:
        worker = new_worker()
        while not self._stopping.is_set():
            described = 0
            try:
                for line in lines_due(self._service.db, turns):
                    if line in self._service.watched and time.monotonic() >= self._unanswered.get(line, 0.0):
                        self._answer(client, worker, line)
                for line in lines_due(self._service.db, descriptions):
                    if line in self._service.watched and time.monotonic() >= self._resting.get(line, 0.0):
                        described += self._describe(client, worker, line)
            except Exception:
                logger.exception("findings cannot be described now")
            if not described:
                self._awake.wait(IDLE_SECONDS)
                self._awake.clear()

    def _describe(self, client: Client, worker: str, line: str) -> int:
        """Describe one finding of a line, so that the others have their turn; return how many came to an end."""
        if self._stopping.is_set():
            return 0
        try:
            tally = describe_waiting(
                self._service.db,
                self.facts(line),
                client,
                worker,
                Budgets.of_settings(),
                most=1,
                goes_on=lambda: not self._stopping.is_set(),
            )
        except VadError as error:
            logger.warning("findings of a line cannot be described", extra={"line": line, "error": str(error)})
            self._resting[line] = time.monotonic() + TROUBLE_SECONDS
            return 0
        if tally.why_waiting:
            self._resting[line] = time.monotonic() + TROUBLE_SECONDS
        return tally.done + tally.failed

    def _answer(self, client: Client, worker: str, line: str) -> None:
        """Answer the questions of a line."""
        if self._stopping.is_set():
            return
        answered = 0
        try:
            answered = answer_waiting(
                self._service.db,
                self.facts(line),
                client,
                worker,
                Budgets.of_settings(),
                goes_on=lambda: not self._stopping.is_set(),
            )
        except VadError as error:
            logger.warning("questions about a line cannot be answered", extra={"line": line, "error": str(error)})
        if not answered:
            self._unanswered[line] = time.monotonic() + QUESTION_SECONDS
