"""What was taken up and waits for a worker: bounded, and no line waits for another."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from vad_lib.scorer.taking_up import TakenBatch


@dataclass(frozen=True)
class Job:
    """A batch to inspect, not before a moment on the monotonic clock."""

    taken: TakenBatch
    attempts: int = 0
    not_before: float = 0.0


class JobQueue:
    """Batches of all lines. ``images`` counts what is taken up and not decided, at work included."""

    def __init__(self, most_images: int) -> None:
        self._most = most_images
        self._lines: dict[str, deque[Job]] = {}
        self._order: deque[str] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.images = 0
        self._getting = 0

    @property
    def idle(self) -> bool:
        """Whether a worker is there that has nothing to do."""
        with self._changed:
            return self._getting > sum(len(jobs) for jobs in self._lines.values())

    @property
    def room(self) -> int:
        """How many more images may be taken up."""
        return max(0, self._most - self.images)

    def put(self, job: Job, *, again: bool = False) -> None:
        """Add a batch; ``again``: it was got before."""
        with self._changed:
            if not again:
                self.images += len(job.taken.paths)
            line = job.taken.line
            if line not in self._lines:
                self._lines[line] = deque()
                self._order.append(line)
            self._lines[line].append(job)
            self._changed.notify()

    def get(self) -> Job | None:
        """Wait for a batch, and take it out; None once the queue is closed."""
        with self._changed:
            self._getting += 1
            try:
                while not self._closed:
                    job, wait = self._next(time.monotonic())
                    if job is not None:
                        return job
                    self._changed.wait(wait)
                return None
            finally:
                self._getting -= 1

    def _next(self, now: float) -> tuple[Job | None, float | None]:
        wait: float | None = None
        for _ in range(len(self._order)):
            line = self._order[0]
            self._order.rotate(-1)
            jobs = self._lines[line]
            for job in jobs:
                if job.not_before <= now:
                    jobs.remove(job)
                    if not jobs:
                        del self._lines[line]
                        self._order.remove(line)
                    return job, None
                wait = min(wait or job.not_before - now, job.not_before - now)
        return None, wait

    def done(self, job: Job) -> None:
        """It is decided, or somebody else's."""
        with self._changed:
            self.images -= len(job.taken.paths)

    def waiting(self, line: str) -> int:
        """Return how many images of a line were taken up and wait for a worker."""
        with self._changed:
            return sum(len(job.taken.paths) for job in self._lines.get(line, ()))

    def close(self) -> list[Job]:
        """Let workers end; return what nobody has begun."""
        with self._changed:
            self._closed = True
            left = [job for jobs in self._lines.values() for job in jobs]
            self._lines.clear()
            self._order.clear()
            self._changed.notify_all()
            return left
