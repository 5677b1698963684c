"""Which fork server fits a launcher, where its socket lies, and which process is meant by a pid."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PROTOCOL = 1

# Read while libraries are imported, so a server that imported under other values does not fit. Everything else is
# given to each run anew.
IMPORT_TIME_PREFIXES = (
    *(
        "PYTHON",
        "VIRTUAL_ENV",
        "CONDA_",
        "LD_",
        "DYLD_",
        "OMP_",
        "KMP_",
        "GOMP_",
        "MKL_",
        "OPENBLAS_",
        "GOTO_",
        "BLIS_",
    ),
    *("NUMEXPR_", "CUDA_", "NVIDIA_", "TORCH", "PYTORCH_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TIMM_", "MPL"),
    *("MLFLOW_", "ANOMALIB_", "JE_ARROW_", "ARROW_", "LANG", "LC_", "TZ", "MALLOC_", "XDG_CACHE_HOME"),
)
GIVEN_TO_EACH_RUN = {"MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_UI_URL", "MLFLOW_RUN_ID"}


@dataclass(frozen=True)
class ServerPlace:
    """The files of one fork server; ``key`` stands for everything that must agree between it and a launcher."""

    folder: Path
    key: str

    @property
    def socket(self) -> Path:
        return self.folder / f"{self.key}.sock"

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.key}.lock"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.key}.log"


def server_key(preload: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Return the fingerprint of the Python, the preload list and the environment that imports depend on.

    The source files are not part of it: the server itself knows which ones it has loaded, and retires when one changed.
    """
    environment = os.environ if environment is None else environment
    relevant = {
        name: value
        for name, value in environment.items()
        if name.startswith(IMPORT_TIME_PREFIXES) and name not in GIVEN_TO_EACH_RUN
    }
    # where this package is imported from, because two checkouts may share one environment
    package = str(Path(__file__).resolve().parents[1])
    parts = [PROTOCOL, sys.executable, sys.prefix, sys.version, package, list(preload), sorted(relevant.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can enter.

    Raises:
        PermissionError: it is there already and belongs to another user.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder of this user; remove it.")
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


def started_at(pid: int) -> int | None:
    """Return when process ``pid`` was started, in clock ticks since boot; None where it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


@lru_cache(maxsize=1)
def boot() -> str:
    """Return an id of this boot of this machine: pids mean nothing under another one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(frozen=True)
class ProcessIdentity:
    """A process for sure: pids are used again, a pid with its start time is not."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return the identity of a living process, None where there is none."""
        started = started_at(pid)
        return None if started is None else cls(pid, started, boot())

    def lives(self) -> bool:
        return self.boot == boot() and started_at(self.pid) == self.started

    def signal(self, number: int, *, group: bool = False) -> bool:
        """Send a signal to this process, or to its whole group; return False where it is gone."""
        if not self.lives():
            return False
        try:
            os.killpg(self.pid, number) if group else os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True
