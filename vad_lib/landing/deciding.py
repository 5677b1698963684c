"""What is to be done about a landing folder: a pure function from what was seen to decisions.

It keeps these promises, whatever dies when:

- a failed read is not an empty folder;
- a file that is still being written is left alone, and remembered where its age alone cannot tell;
- a batch that was formed is asked for until it is decided: the request of a tick that died is made again under the
  same key, a failed run is followed by another, and a batch whose runs keep dying is halved, so that one poisonous
  file cannot hold up the others;
- runs that fail before they touch an image (no champion, no disk) say nothing about the images: such a batch is asked
  for again, ever more rarely, and never halved;
- the work of one tick is bounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vad_lib.landing.scanning import FileKey, FileSeen, Scan

REMEMBERED_FILES = 2000

RunStatus = Literal["active", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class RunState:
    """What became of the newest run of one attempt.

    ``active`` is anything that is not over: queued, starting, running, stopping. ``will_retry``: it failed, and
    whatever launched it will launch it again by itself.
    """

    status: RunStatus
    will_retry: bool = False


@dataclass(frozen=True)
class Limits:
    """How much a tick may do.

    Attributes:
        settle_seconds: a file is complete when it was left alone for so long.
        max_batch: images in one new batch.
        max_active: no new batch is formed while so many batches of the line are at work, or wait because their runs
            fail before they touch an image.
        attempts: runs of one batch before it is halved.
        retry_seconds: wait before the third attempt; doubles with each further one, up to ``max_retry_seconds``.
        repeat_seconds: a request of which no run is known yet may be on its way so long; then it is made again.
    """

    settle_seconds: float = 2.0
    max_batch: int = 256
    max_active: int = 2
    attempts: int = 3
    retry_seconds: float = 15.0
    max_retry_seconds: float = 300.0
    repeat_seconds: float = 0.0

    def delay_before(self, attempt: int) -> float:
        """Seconds between the request of the attempt before and that of ``attempt``: none before the second."""
        if attempt <= 2:
            return 0.0
        return min(self.max_retry_seconds, self.retry_seconds * 2.0 ** min(attempt - 3, 30))


@dataclass(frozen=True)
class OpenBatch:
    """A batch that is not closed yet.

    Attributes:
        keys: its landings in order of path, decided ones included.
        pending: how many have no result and no reason yet.
        begun: how many of those were in hand when an inspection died.
        requested_at: seconds since the epoch.
        run: of the present attempt; None where no run is known.
    """

    batch_id: str
    attempt: int
    generation: int
    keys: tuple[FileKey, ...]
    pending: int
    begun: int
    requested_at: float
    run: RunState | None


@dataclass(frozen=True)
class BatchRequest:
    """Ask for a run of ``batch_id``. The same ``run_key`` is asked for again until its run is seen."""

    batch_id: str
    attempt: int
    count: int

    @property
    def run_key(self) -> str:
        return run_key(self.batch_id, self.attempt)

    @property
    def tags(self) -> dict[str, str]:
        """Tags for the run; ``vad/batch_key`` is what ``run_state`` is asked about."""
        return {
            "vad/batch": self.batch_id,
            "vad/batch_attempt": str(self.attempt),
            "vad/batch_key": self.run_key,
        }


def run_key(batch_id: str, attempt: int) -> str:
    """Name one attempt of one batch."""
    return f"{batch_id}.{attempt}"


@dataclass(frozen=True)
class NewBatch:
    """``generation`` and ``parent_id`` say which batch it is a half of."""

    batch_id: str
    keys: tuple[FileKey, ...]
    generation: int = 0
    parent_id: str | None = None


@dataclass(frozen=True)
class Decision:
    """Everything that one tick is to do. Applying it twice does nothing the second time."""

    refuse: tuple[FileSeen, ...] = ()
    new: tuple[NewBatch, ...] = ()
    again: tuple[BatchRequest, ...] = ()
    """Attempts after the present one."""
    repeat: tuple[BatchRequest, ...] = ()
    """The present attempt, of which no run is known."""
    halve: tuple[tuple[str, NewBatch, NewBatch], ...] = ()
    close: tuple[tuple[str, str], ...] = ()
    """Batch and note."""
    waiting: dict[str, list[float]] = field(default_factory=dict)
    """Path -> size, mtime_ns, since when it has stood still (seconds since the epoch)."""
    message: str = ""
    writing: int = 0
    """Files that are not complete yet."""


def decide_batch(
    line: str,
    scan: Scan,
    *,
    known: Container[tuple[str, int, int]],
    open_batches: Sequence[OpenBatch],
    previous_look: Mapping[str, Sequence[float]],
    now: float,
    limits: Limits,
    is_whole: Callable[[FileSeen], bool] = lambda _: False,
) -> Decision:
    """Decide what to do about what a scan saw.

    Args:
        line: name of the line.
        scan: what was seen.
        known: every version of a file that has been taken up and is not to be taken up again.
        open_batches: with what became of their runs.
        previous_look: ``Decision.waiting`` of the tick before.
        now: seconds since the epoch.
        limits: how much may be done.
        is_whole: whether an image is complete already, though it has not stood still for long.
    """
    again: list[BatchRequest] = []
    repeat: list[BatchRequest] = []
    halve: list[tuple[str, NewBatch, NewBatch]] = []
    close: list[tuple[str, str]] = []
    notes: list[str] = []
    active = 0
    for batch in open_batches:
        step, note = _next_step(line, batch, now, limits)
        if note:
            notes.append(note)
        if step is None:
            active += _holds_a_place(batch)
        elif isinstance(step, BatchRequest):
            (repeat if step.attempt == batch.attempt else again).append(step)
            active += 1
        elif isinstance(step, tuple):
            halve.append((batch.batch_id, *step))
            active += 2
        else:
            close.append((batch.batch_id, note if step == "close with note" else ""))

    if scan.error:
        notes.insert(0, f"cannot read {scan.folder}: {scan.error}; nothing is concluded from that")
        waiting = {path: list(look) for path, look in previous_look.items()}
        return Decision(
            again=tuple(again),
            repeat=tuple(repeat),
            halve=tuple(halve),
            close=tuple(close),
            waiting=waiting,
            message=_sentence(notes),
        )

    fresh, refused, writing, waiting = _sort_out(scan, known, previous_look, now, limits, is_whole)
    new: tuple[NewBatch, ...] = ()
    left = len(fresh)
    if fresh and active < limits.max_active:
        taken = fresh[: limits.max_batch]
        left -= len(taken)
        new = (_batch_of(line, [seen.key for seen in taken], salt=repr(now)),)
        notes.insert(0, f"{len(taken)} new images")
    if left:
        why = f" ({active} batches are not finished)" if not new else ""
        notes.append(f"{left} more complete images wait for a later batch{why}")
    refuse = tuple(refused[: limits.max_batch])
    if refuse:
        shown = "; ".join(f"{seen.path}: {seen.reason}" for seen in refuse[:3])
        notes.append(f"{len(refuse)} files refused by name or kind ({shown}{'; …' if len(refuse) > 3 else ''})")
    if len(refused) > len(refuse):
        notes.append(f"{len(refused) - len(refuse)} more such files are refused later")
    if writing:
        notes.append(f"{writing} still being written")
    if scan.temporary:
        notes.append(f"{scan.temporary} with temporary names left alone")
    if scan.unreadable_folders:
        notes.append(
            f"{len(scan.unreadable_folders)} places could not be read ({'; '.join(scan.unreadable_folders[:3])})"
        )
    if not notes or not (new or again or repeat or halve or refuse or close):
        notes.insert(0, f"nothing new among {len(scan.files)} files in {scan.folder}")
    return Decision(
        refuse=refuse,
        new=new,
        again=tuple(again),
        repeat=tuple(repeat),
        halve=tuple(halve),
        close=tuple(close),
        waiting=waiting,
        message=_sentence(notes),
        writing=writing,
    )


def _holds_a_place(batch: OpenBatch) -> bool:
    """Whether a batch that is waited for counts against ``max_active``.

    One whose runs fail before they touch an image does: else an outage would make a batch of every single image.
    """
    run = batch.run
    if run is None or run.status == "active" or run.will_retry:
        return True
    return run.status != "succeeded" and bool(batch.pending) and not batch.begun


_Step = BatchRequest | tuple[NewBatch, NewBatch] | Literal["close", "close with note"] | None


def _next_step(line: str, batch: OpenBatch, now: float, limits: Limits) -> tuple[_Step, str]:
    name = f"batch {batch.batch_id} ({len(batch.keys)} images)"
    count = len(batch.keys)
    run = batch.run
    if run is None:
        if limits.repeat_seconds and now - batch.requested_at < limits.repeat_seconds:
            return None, f"{name}: its run is on its way"
        return BatchRequest(batch.batch_id, batch.attempt, count), f"{name}: no run is known, asked for again"
    if run.status == "active":
        return None, f"{name}: its run is at work"
    if run.status == "succeeded" and not batch.pending:
        return "close", ""
    if run.will_retry:
        return None, f"{name}: its run failed and will be retried"

    ended = f"attempt {batch.attempt} {run.status}"
    touched = batch.begun > 0 or not batch.pending
    exhausted = batch.attempt >= (limits.attempts if batch.generation == 0 or count == 1 else 1)
    if exhausted and touched and count > 1:
        middle = count // 2
        halves = tuple(
            _batch_of(line, keys, generation=batch.generation + 1, parent=batch.batch_id)
            for keys in (batch.keys[:middle], batch.keys[middle:])
        )
        return (halves[0], halves[1]), f"{name}: {ended}, so it is halved"
    if exhausted and not batch.pending:
        note = f"{ended}; the result is in the inspection database, but no run could report it"
        return "close with note", f"{name}: {note}"
    wait = batch.requested_at + limits.delay_before(batch.attempt + 1) - now
    why = "" if touched or run.status == "succeeded" else " before it touched an image"
    if wait > 0:
        return None, f"{name}: {ended}{why}; the next follows in {wait:.0f} s"
    return BatchRequest(batch.batch_id, batch.attempt + 1, count), f"{name}: {ended}{why}, asked for again"


def _sort_out(
    scan: Scan,
    known: Container[tuple[str, int, int]],
    previous_look: Mapping[str, Sequence[float]],
    now: float,
    limits: Limits,
    is_whole: Callable[[FileSeen], bool],
) -> tuple[list[FileSeen], list[FileSeen], int, dict[str, list[float]]]:
    """Return the new complete images (oldest first), the new refused files, how many are being written, the memory."""
    fresh: list[FileSeen] = []
    refused: list[FileSeen] = []
    remembered: list[tuple[float, FileSeen]] = []
    writing = 0
    for seen in scan.files:
        if seen.key in known:
            continue
        age = now - seen.mtime_ns / 1e9
        if age < limits.settle_seconds:
            still_since = now
            look = previous_look.get(seen.path)
            if look is not None and (look[0], look[1]) == (seen.size, seen.mtime_ns):
                # A clock that was set back must not make a file wait for ever.
                still_since = min(float(look[2]), now)
            if now - still_since < limits.settle_seconds and (seen.rule or not is_whole(seen)):
                writing += 1
                # The age of any other file will tell by itself.
                if age < 0:
                    remembered.append((still_since, seen))
                continue
        (refused if seen.rule else fresh).append(seen)
    fresh.sort(key=lambda seen: (seen.mtime_ns, seen.path))
    refused.sort(key=lambda seen: (seen.mtime_ns, seen.path))
    remembered.sort(key=lambda pair: (pair[0], pair[1].path))
    waiting = {
        seen.path: [seen.size, seen.mtime_ns, still_since] for still_since, seen in remembered[:REMEMBERED_FILES]
    }
    return fresh, refused, writing, waiting


def _batch_of(
    line: str, keys: Sequence[FileKey], *, generation: int = 0, parent: str | None = None, salt: str = ""
) -> NewBatch:
    ordered = tuple(sorted(keys))
    digest = hashlib.sha256(f"{line}\n{parent}\n{generation}\n{salt}\n".encode())
    for key in ordered:
        digest.update(f"{key.size} {key.mtime_ns} {key.path}\0".encode())
    return NewBatch(digest.hexdigest()[:16], ordered, generation, parent)


def _sentence(notes: Sequence[str]) -> str:
    shown = [*notes[:8], f"and {len(notes) - 8} more notes"] if len(notes) > 8 else list(notes)
    text = "; ".join(shown)
    return text[:1].upper() + text[1:] + "." if text else ""
