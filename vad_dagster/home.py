"""What has to be there before Dagster or MLflow starts: folders, ``dagster.yaml``, and the environment of processes.

Used by the command line, by ``make dev`` and by tests. Imports neither dagster nor mlflow at the top, because the
command line answers ``--help`` through it.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from filelock import FileLock

from vad_dagster.web_gate import THIS_MACHINE
from vad_lib.atomic_files import write_whole
from vad_lib.lines import Home
from vad_lib.settings import settings

PACKAGE = Path(__file__).resolve().parent
INSTALLED_MARK = "# Installed by vad"
MODULE = "vad_dagster.definitions"
CODE_LOCATION = "vad"
WORKSPACE = PACKAGE / "workspace.yaml"

NO_TELEMETRY = {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


MLFLOW_DEFENCES = {
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
    # nothing here needs them, and each runs programs for whoever may ask: the assistant, scorers, jobs
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
    "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def tracking_uri(home: Home | None = None) -> str:
    """Return ``$MLFLOW_TRACKING_URI`` if set, else the SQLite database under the home."""
    folder = (home or Home.from_environment()).mlflow_folder
    return settings().mlflow_tracking_uri or f"sqlite:///{folder / 'mlflow.db'}"


def tracking_file(home: Home | None = None) -> Path | None:
    """Return the SQLite file that MLflow's runs and versions lie in; None where they lie on a server.

    To ask MLflow takes seconds and would make the file: who only looks asks first whether it is there.
    """
    uri = tracking_uri(home)
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def prepare_home(home: Home | None = None) -> dict[str, str]:
    """Make the folders, install ``dagster.yaml`` and return the whole environment for child processes.

    ``dagster.yaml`` in ``$VAD_HOME/dagster`` is replaced by the package's as long as its first line says that it was
    installed; someone who removes that line keeps his own.
    """
    home = home or Home.from_environment()
    dagster_folder = settings().dagster_home or home.dagster_folder
    for folder in (home.lines_folder, dagster_folder, home.mlflow_folder / "artifacts"):
        folder.mkdir(parents=True, exist_ok=True)
    _install_settings(dagster_folder / "dagster.yaml")
    return {
        **os.environ,
        **NO_TELEMETRY,
        **MLFLOW_DEFENCES,
        "VAD_HOME": str(home.root),
        "DAGSTER_HOME": str(dagster_folder),
        "MLFLOW_TRACKING_URI": tracking_uri(home),
        # absolute: child processes are started in other folders
        "VAD_WEIGHTS": str(home.weights_folder),
    }


def _install_settings(target: Path) -> None:
    text = (PACKAGE / "dagster.yaml").read_text(encoding="utf-8")
    if target.is_file():
        present = target.read_text(encoding="utf-8")
        if present == text or not present.startswith(INSTALLED_MARK):
            return
    write_whole(target, text.encode())


def prepare_tracking(home: Home | None = None) -> str:
    """Create MLflow's database if it is the embedded one and not there yet, and return the tracking URI.

    MLflow creates its tables on first use and fails when two processes do that at once, so it is done here under a
    lock. Takes some seconds the first time, nothing later.
    """
    home = home or Home.from_environment()
    uri = tracking_uri(home)
    database = home.mlflow_folder / "mlflow.db"
    ready = home.mlflow_folder / ".ready"
    if uri != f"sqlite:///{database}" or (ready.exists() and database.exists()):
        return uri
    home.mlflow_folder.mkdir(parents=True, exist_ok=True)
    (home.mlflow_folder / "artifacts").mkdir(exist_ok=True)
    with FileLock(home.mlflow_folder / ".lock"):
        if not (ready.exists() and database.exists()):
            from mlflow import MlflowClient

            MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
            ready.touch()
    return uri


def executable(name: str) -> str:
    """Return the path of a program that was installed beside this Python, or the one that PATH finds."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or name


def webserver_command(port: int = 3000, host: str = "127.0.0.1") -> list[str]:
    """Return the command that starts Dagster's web server behind ``vad_dagster.web_gate``."""
    # by the workspace file, which names the location: a run is launched only by a daemon that knows its location's name
    options = ["--workspace", str(WORKSPACE), "--host", host, "--port", str(port)]
    return [sys.executable, "-m", "vad_dagster.web_gate", *options]


def daemon_command() -> list[str]:
    """Return the command that starts the daemon alone."""
    return [executable("dagster-daemon"), "run", "--workspace", str(WORKSPACE)]


def mlflow_command(port: int = 5000, host: str = "127.0.0.1", home: Home | None = None) -> list[str]:
    """Return the command that starts MLflow's UI on the embedded database.

    It answers under the names of this machine and of ``VAD_ALLOWED_HOSTS``, and takes nothing from pages of others.
    """
    home = home or Home.from_environment()
    here = [f"{name}:{port}" for name in THIS_MACHINE]
    further = [name.strip().lower() for name in settings().allowed_hosts.split(",") if name.strip()]
    origins = [*(f"http://{name}" for name in here), *(f"https://{name}" for name in further)]
    return [
        *(executable("mlflow"), "server", "--host", host, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", tracking_uri(home)),
        *("--default-artifact-root", (home.mlflow_folder / "artifacts").as_uri()),
        *("--allowed-hosts", ",".join([*here, *further, *(f"{name}:*" for name in further)])),
        *("--cors-allowed-origins", ",".join(origins)),
    ]
