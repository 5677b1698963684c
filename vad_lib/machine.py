"""What the machine has, what it has left, and what a piece of work took: memory, disk and accelerator (Linux).

Memory is counted inside containers too.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from vad_lib.errors import PlanError

if TYPE_CHECKING:
    import torch

MIB, GIB = 2**20, 2**30
SAMPLE_SECONDS = 0.02
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Files of which Linux has one where torch may find a GPU: of NVIDIA, of AMD, and within Windows."""
_CGROUP = Path("/sys/fs/cgroup")


class _Group(NamedTuple):
    """Files of a control group, as a container sees its own, and the line of its statistics that tells idle cache."""

    limit: str
    used: str
    statistics: str
    idle_cache: str


_GROUPS = (
    _Group("memory.max", "memory.current", "memory.stat", "inactive_file"),
    _Group("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Of version 2 and version 1. Files that were read count as used until the memory is wanted: the kernel then takes the
idle ones first, so they are room. The container's tools count alike (the "working set")."""


@dataclass(frozen=True)
class Room:
    """What a training may take.

    Attributes:
        memory_bytes: resident memory that this process may grow to: what it has now, and what is free.
        disk_bytes: free where results are written.
    """

    memory_bytes: int
    disk_bytes: int


def room_of_machine(folder: Path) -> Room:
    """Return what is left for this process. ``folder`` is where results go; it need not exist yet."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    return Room(resident_bytes() + _free_memory(), shutil.disk_usage(there).free)


def memory_of_machine() -> int:
    """Return the bytes of memory that there are at all: the machine's, or the container's where that may have less."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for group in _GROUPS:
        with contextlib.suppress(OSError, ValueError):
            there = min(there, _number(group.limit))
    return there


def resolve_device(accelerator: str) -> torch.device:
    """Return the torch device of the plan's ``accelerator``.

    Raises:
        PlanError: gpu was asked for and torch sees none. There is no silent fallback: a fit that was planned for
            minutes would take hours.
    """
    import torch

    if accelerator == "cpu":
        return torch.device("cpu")
    if accelerator == "gpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator == "gpu":
        raise PlanError(
            "accelerator is gpu, but torch finds no CUDA device on this machine "
            f"(torch {torch.__version__}). Set accelerator: cpu, or run where there is a GPU."
        )
    raise PlanError(f"accelerator is {accelerator!r}; it can be cpu or gpu.")


def require_accelerator(accelerator: str) -> None:
    """As ``resolve_device``, but told at once where the machine has no GPU at all: torch takes seconds to import.

    Raises:
        PlanError: gpu was asked for and there is none.
    """
    if accelerator == "cpu":
        return
    if sys.platform == "linux" and not any(Path(device).exists() for device in GPU_DEVICES):
        raise PlanError(
            "accelerator is gpu, but this machine has no GPU. Set accelerator: cpu, or run where there is a GPU."
        )
    resolve_device(accelerator)


def size_text(size: float) -> str:
    """Write a number of bytes as people say it.

    >>> size_text(3 * 2**30), size_text(5 * 2**20)
    ('3.0 GiB', '5.0 MiB')
    """
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


def resident_bytes() -> int:
    """Return the memory that this process has in use; where the system does not tell, the most it ever had."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class PeakMemory:
    """The most memory that this process had in use during a block, looked at fifty times a second.

    The kernel's own count cannot be used: it is of the whole life of a process, and runs may share theirs with a warm
    parent.

    Attributes:
        start_bytes: at the beginning of the block.
        peak_bytes: the most until now.
    """

    def __init__(self) -> None:
        self.start_bytes = 0
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vad-peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self.start_bytes = self.peak_bytes = resident_bytes()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, resident_bytes())


def _free_memory() -> int:
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    for group in _GROUPS:
        # absent outside containers; "max" is no limit
        with contextlib.suppress(OSError, ValueError):
            left = _number(group.limit) - max(0, _number(group.used) - _idle_cache(group))
            free = min(free, max(0, left))
    return free


def _idle_cache(group: _Group) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in (_CGROUP / group.statistics).read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == group.idle_cache:
                return int(value)
    return 0


def _number(name: str) -> int:
    return int((_CGROUP / name).read_text(encoding="ascii"))
