"""Whether a scorer is there: a lock on a file of the home, which the kernel releases when its holder dies.

Only a hint: while a scorer lives, the bulk lane leaves an image alone until it has stood still, so that the scorer is
first. Nothing is lost where the answer is wrong, as on another machine.
"""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path
from typing import IO

from vad_lib.lines import Home

_held: list[IO[str]] = []
"""A file that is closed loses its lock."""


def presence_file(home: Home) -> Path:
    """Return the file whose lock says it."""
    return home.root / ".scorer.lock"


def show_presence(home: Home) -> None:
    """Hold the lock from now, or from when the scorer that has it ends, until this process ends."""
    file = presence_file(home)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = file.open("a")
    _held.append(handle)
    # In a thread, because there may be another scorer for as long as it likes.
    threading.Thread(target=fcntl.flock, args=(handle, fcntl.LOCK_EX), name="vad-presence", daemon=True).start()


def is_scorer_here(home: Home) -> bool:
    """Whether a scorer holds the lock.

    >>> is_scorer_here(Home(Path("/tmp/vad-doctest-nowhere")))
    False
    """
    try:
        with presence_file(home).open("r") as handle:
            # Shared, so that two who ask do not take each other for a scorer.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
