"""Show a run while it goes: one living line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.status import Status

from vad_dagster.cli.console import stderr
from vad_dagster.resources.tracking import dagster_url
from vad_lib.progress import format_seconds

if TYPE_CHECKING:
    from dagster import DagsterEvent, DagsterInstance, EventLogEntry

QUIET_SECONDS = 15.0
"""Without a terminal, progress of a step is written at most this often."""


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        status: Dagster's word: SUCCESS, FAILURE or CANCELED.
        seconds: from start to end, without the time in the queue.
        metadata: for each asset (its name), the metadata of its materialization as plain values.
        failures: what went wrong, in words; empty after success.
        failed_step: the first step that failed; empty where none did.
    """

    run_id: str
    status: str
    seconds: float
    metadata: dict[str, dict[str, Any]]
    failures: list[str]
    failed_step: str = ""

    def why(self, line: str, done: str) -> str:
        """Return what failed and where to look, such as 'bottles was not trained. The step …'."""
        step = f" The step {self.failed_step} failed." if self.failed_step else ""
        reasons = "\n".join(self.failures) or f"The run ended as {self.status}."
        page = dagster_url(f"runs/{self.run_id}")
        return f"{line} was not {done}.{step} {reasons}\nAll of it is at {page}, while `vad dev` runs."

    @property
    def succeeded(self) -> bool:
        return self.status == "SUCCESS"


@dataclass
class Follower:
    """Reads the events of one run and shows them. Use it as a context manager.

    ``title`` stands before every line, such as 'train demo'.
    """

    title: str
    quiet: bool = False
    run_id: str = ""
    _cursor: str | None = None
    _step: str = ""
    _shown: str = ""
    _shown_at: float = 0.0
    _status: Status | None = None
    _begun: float = field(default_factory=time.monotonic)
    _metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    _failures: list[str] = field(default_factory=list)
    _failed_step: str = ""

    def __enter__(self) -> Follower:
        if stderr.is_terminal and not self.quiet:
            self._status = stderr.status(escape(self.title))
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def started(self, run_id: str) -> None:
        """Follow this run from its beginning."""
        self.run_id, self._cursor = run_id, None

    def say(self, text: str) -> None:
        """Show what is going on now."""
        line = f"{self.title}: {text}"
        if self.quiet or line == self._shown:
            return
        if self._status is not None:
            self._status.update(escape(line))
        elif time.monotonic() - self._shown_at >= QUIET_SECONDS or not self._shown:
            stderr.print(line, markup=False)
        else:
            return
        self._shown, self._shown_at = line, time.monotonic()

    def read(self, instance: DagsterInstance) -> None:
        """Take in the events since the last call."""
        more = True
        while more:
            connection = instance.get_records_for_run(self.run_id, cursor=self._cursor, limit=500)
            for record in connection.records:
                self._take(record.event_log_entry)
            self._cursor, more = connection.cursor, connection.has_more

    def outcome(self, instance: DagsterInstance) -> RunOutcome:
        """Return how the run ended; call it once the run is finished."""
        self.read(instance)
        run = instance.get_run_by_id(self.run_id)
        stats = instance.get_run_stats(self.run_id)
        start = getattr(stats, "start_time", None) or getattr(stats, "launch_time", None)
        end = getattr(stats, "end_time", None)
        seconds = end - start if start and end else time.monotonic() - self._begun
        status = run.status.value if run is not None else "FAILURE"
        failures = [] if status == "SUCCESS" else list(dict.fromkeys(self._failures))
        return RunOutcome(self.run_id, status, seconds, self._metadata, failures, self._failed_step)

    def _note(self, text: str, style: str = "") -> None:
        if not self.quiet:
            stderr.print(text, style=style or None, markup=False)

    def _take(self, entry: EventLogEntry) -> None:
        if entry.dagster_event is not None:
            self._take_event(entry.dagster_event)
            return
        text = entry.user_message.strip()
        # of steps that were left out since another one failed: only that one is worth a word
        if not text or text.startswith("Dependencies for step"):
            return
        level = int(entry.level)
        if level >= logging.WARNING:
            self._note(f"  {text}", "red" if level >= logging.ERROR else "yellow")
        elif level >= logging.INFO:
            self.say(f"{self._step}: {text.splitlines()[0]}" if self._step else text.splitlines()[0])

    def _take_event(self, event: DagsterEvent) -> None:
        from dagster import DagsterEventType as Type

        if event.event_type == Type.STEP_START:
            self._step = event.step_key or ""
            self.say(self._step)
        elif event.event_type == Type.STEP_SUCCESS and event.step_key in self._metadata:
            # steps that make no asset are checks, which speak up where they do not pass
            seconds = (event.step_success_data.duration_ms or 0) / 1000
            self._note(f"  done  {event.step_key}  {format_seconds(seconds)}", "green")
        elif event.event_type == Type.ASSET_MATERIALIZATION:
            made = event.step_materialization_data.materialization
            values = {name: _plain(value) for name, value in made.metadata.items()}
            self._metadata.setdefault("/".join(made.asset_key.path), {}).update(values)
        elif event.event_type == Type.ASSET_CHECK_EVALUATION:
            check: Any = event.event_specific_data
            if not check.passed:
                asset = "/".join(check.asset_key.path)
                words = check.description or _plain(check.metadata.get("message", "")) or "did not pass"
                self._note(f"  {_kind(check)}  {asset}: {check.check_name}: {words}", "yellow")
        elif event.event_type == Type.STEP_FAILURE:
            data = event.step_failure_data
            self._failed_step = self._failed_step or event.step_key or ""
            told = data.user_failure_data.description if data.user_failure_data else None
            self._failures.append(told or _root_cause(data.error))
        elif event.event_type == Type.RUN_FAILURE and not self._failures:
            failure: Any = event.event_specific_data
            error = getattr(failure, "error", None)
            self._failures.append(_root_cause(error) if error else event.message or "the run failed")


def _kind(check: Any) -> str:
    """Return the word for a check that did not pass, by what follows from it: only a blocking error stops the run."""
    if check.severity.value != "ERROR":
        return "warning"
    return "stopped" if check.blocking else "not met, and goes on"


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _root_cause(error: Any) -> str:
    """Return the message of the innermost error; the outer ones say only that a step failed.

    Errors meant for the user (``vad_lib.errors``) lose the name of their class.
    """
    if error is None:
        return "a step failed without a message"
    while error.cause is not None:
        error = error.cause
    message = str(error.message).strip()
    # Dagster writes the class before the message; its own class of a failure on purpose ends in ".Failure".
    name, _, rest = message.partition(": ")
    return rest if rest and re.fullmatch(r"vad_lib\.errors\.\w+|dagster\.[\w.]+\.Failure", name) else message
