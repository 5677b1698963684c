"""What the fork server imports before the first run, and how it knows that this is out of date.

Nothing here may start a thread: only the thread that forks lives on in the child, and a lock that another one held
stays locked there for ever. OpenBLAS and Arrow's allocator start threads when they are loaded unless they are told not
to (``QUIET``), torch and OpenMP start theirs with the first operation, which is never done here.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import logging
import os
import pkgutil
import sys
import sysconfig
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

# "package.*" stands for a package with all its modules.
DEFAULT_PRELOAD = (
    "dagster",
    # what a run imports only when it needs it
    "dagster._cli.api",
    "dagster._core.execution.api",
    "dagster._core.executor.in_process",
    "dagster._core.executor.multiprocess",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.definitions.external_asset",
    "dagster._core.definitions.repository_definition.repository_data_builder",
    "dagster._core.instance.factory",
    "dagster._core.storage.migration.utils",
    "dagster._core.storage.root",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.system_config.composite_descent",
    "dagster._core.types.transform_typing",
    "dagster._core.workspace.autodiscovery",
    "dagster._utils.test.definitions",
    "fsspec.implementations.local",
    "upath.implementations.local",
    "dagster._core.storage.runs",
    "dagster._core.storage.event_log",
    "dagster._core.storage.schedules",
    "dagster._core.run_coordinator.queued_run_coordinator",
    "sqlalchemy.dialects.sqlite",
    "vad_dagster.definitions",
    "vad_lib.*",
    "mlflow",
    "mlflow.pyfunc",
    "mlflow.data.pandas_dataset",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "torch",
    "torchvision",
    "timm",
    "anomalib.models.image.patchcore",
    "anomalib.models.image.fastflow",
    "safetensors.torch",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "sklearn.metrics",
)

# The server's environment while it imports; a run gets its launcher's instead.
QUIET = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    # asks the driver's library instead of CUDA whether there is a GPU: after CUDA has been asked, no child can use it
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}

log = logging.getLogger("vad.warm_runs")


class NotForkable(Exception):
    """The process has threads, or has touched the GPU, so a child of it could hang."""


@dataclass
class Preloaded:
    """What was loaded, and from which state of the files."""

    seconds: float
    # variables that modules set while they were imported: a run would have set them too
    variables: dict[str, str]
    files: dict[Path, tuple[int, int] | None]
    missing: list[str] = field(default_factory=list)

    def changed_file(self) -> Path | None:
        """Return a file that is no longer what was loaded; None where all are."""
        return next((file for file, before in self.files.items() if _state(file) != before), None)

    def settled(self, seconds: float) -> bool:
        """True where no file was changed within the last seconds: nobody is in the middle of an edit."""
        newest = max((state[0] for file in self.files if (state := _state(file)) is not None), default=0)
        return time.time() - newest / 1e9 > seconds


def preload(names: Sequence[str]) -> Preloaded:
    """Import modules, take stock of their files, and make this process ready to fork.

    A module that cannot be imported is left out with a warning: a run that needs it says so itself.

    Raises:
        NotForkable: an import started a thread, or CUDA.
    """
    begun = time.time()
    before = dict(os.environ)
    missing = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _expanded(names):
            try:
                importlib.import_module(name)
            except Exception as error:
                missing.append(name)
                log.warning("%s is not preloaded: %s: %s", name, type(error).__name__, error)
        _build_jobs()
    refuse_threads()
    gc.collect()
    # the collector would else write into every object's page, in every run
    gc.freeze()
    files = {file: _state(file) for file in _loaded_files(missing)}
    # saved while they were being imported: nobody knows which text was loaded
    files |= {file: None for file, state in files.items() if state and begun * 1e9 <= state[0] <= time.time() * 1e9}
    variables = {name: value for name, value in os.environ.items() if before.get(name) != value}
    return Preloaded(time.time() - begun, variables, files, missing)


def _build_jobs() -> None:
    """Have preloaded definitions put their jobs together, which every run would else do again."""
    from dagster import Definitions

    for module in list(sys.modules.values()):
        for value in list(getattr(module, "__dict__", {}).values()):
            if isinstance(value, Definitions):
                try:
                    value.get_repository_def().get_all_jobs()
                except Exception as error:
                    log.warning("the jobs of %s are not prepared: %s", module.__name__, error)


def refuse_threads() -> None:
    """Raise NotForkable where this process has more than one thread, of Python or not, or has initialised CUDA."""
    threads = []
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != os.getpid():
            threads.append((task / "comm").read_text(encoding="utf-8", errors="replace").strip())
    if threads:
        raise NotForkable(f"importing started threads: {', '.join(sorted(threads))}")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise NotForkable("importing initialised CUDA")


def _expanded(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        if not name.endswith(".*"):
            found.append(name)
            continue
        package = name.removesuffix(".*")
        found.append(package)
        try:
            folders = importlib.import_module(package).__path__
        except Exception:
            continue  # said when it is imported
        found += [
            module.name
            for module in pkgutil.walk_packages(folders, f"{package}.", onerror=lambda _name: None)
            # scripts: the second is alembic's, which can be imported by nobody else
            if not module.name.endswith((".__main__", ".migrations.env"))
        ]
    return list(dict.fromkeys(found))


def _loaded_files(missing: Sequence[str]) -> list[Path]:
    """Return the source files of this project, and the folders whose change means that a package was installed.

    Those of modules that could not be imported are among them: they may be mended.
    """
    paths = {name: Path(path).resolve() for name, path in sysconfig.get_paths().items()}
    installed = {paths["purelib"], paths["platlib"]}
    elsewhere = {*installed, paths["stdlib"], paths["platstdlib"]}
    files = set(installed)
    names: list[object] = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    for module in missing:
        with suppress(Exception):
            names.append(getattr(importlib.util.find_spec(module), "origin", None))
    for name in names:
        if not isinstance(name, str):
            continue
        file = Path(name).resolve()
        if not any(file.is_relative_to(folder) for folder in elsewhere):
            files.add(file)
    return sorted(files)


def _state(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size if file.is_file() else 0)
