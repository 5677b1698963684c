"""Which process is meant, for sure: a process id alone is given to another process sooner or later.

A worker writes ``str(me())`` beside the work that it has leased, and whoever finds that work later asks ``is_dead``.
The answer is only ever "certainly dead" or "not known to be dead": a process on another machine, in another container
or before the last start of the machine cannot be asked, and there a lease has to run out.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

START_TOLERANCE_SECONDS = 1.5
"""How far two readings of the start of one process may lie apart: the system's clock may be set between two reads."""


@dataclass(frozen=True)
class ProcessId:
    """One process, distinguished from every other process on any machine.

    Attributes:
        machine: 16 hexadecimal digits for the place where process ids mean the same: one machine since its last start,
            one container.
        pid: the process id within that place.
        started: when the process was started, in seconds; since the start of the machine where the system counts so
            (Linux), so that a clock that is set does not change it.
    """

    machine: str
    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the identity of a process of this machine, None where there is none or where it is a zombie."""
        started = _start_of(pid)
        return None if started is None else cls(_machine(), pid, started)

    @classmethod
    def parse(cls, text: str) -> ProcessId:
        """Read what ``str`` has written; anything after a further colon, such as the name of a thread, is left out.

        Raises:
            ValueError: the text is none of ours.
        """
        machine, pid, started = text.split(":")[:3]
        return cls(machine, int(pid), float(started))

    def __str__(self) -> str:
        """Return a text of at most 60 characters for a column of a database.

        >>> str(ProcessId("0123456789abcdef", 4711, 12.5))
        '0123456789abcdef:4711:12.50'
        """
        return f"{self.machine}:{self.pid}:{self.started:.2f}"

    def is_dead(self) -> bool:
        """Return whether this process certainly does not run any more; False where that cannot be known."""
        if self.machine != _machine():
            return False
        try:
            started = _start_of(self.pid)
        except psutil.AccessDenied:
            return False
        return started is None or abs(started - self.started) > START_TOLERANCE_SECONDS


def me() -> ProcessId:
    """Return the identity of the process that calls, also after a fork."""
    return _own(os.getpid())


def is_dead(text: str) -> bool:
    """Return whether the process that wrote ``str(me())`` is certainly dead; a text that cannot be read is not known.

    >>> is_dead(str(me()))
    False
    >>> is_dead("written by hand")
    False
    """
    try:
        return ProcessId.parse(text).is_dead()
    except ValueError:
        return False


@lru_cache(maxsize=1)
def _own(pid: int) -> ProcessId:
    found = ProcessId.of(pid)
    if found is None:
        raise RuntimeError(f"The system does not know process {pid}, which is this one.")
    return found


@lru_cache(maxsize=1)
def _machine() -> str:
    parts = [platform.node()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(file) if file.endswith("pid") else Path(file).read_text(encoding="ascii"))
        except OSError:  # no such file on this system
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _start_of(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        # Both readings move with the system's clock on Linux, so that their difference does not.
        return round(process.create_time() - (psutil.boot_time() if psutil.LINUX else 0.0), 2)
    except psutil.NoSuchProcess:
        return None
