"""The most memory that this process has had."""

from __future__ import annotations

import re
import resource
from pathlib import Path


def peak_bytes() -> int:
    """Return the highest resident size of this program since it began.

    What getrusage says is inherited: a process that was started by a large one begins with the size of that one. The
    kernel's high-water mark of the address space begins anew with every program, but only Linux tells it.
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
