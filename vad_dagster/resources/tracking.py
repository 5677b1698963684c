"""Runs in MLflow: one experiment a line, one run a training (and one more where only the threshold was changed).

MLflow is imported inside the methods: it takes more than a second, and every process that Dagster starts would pay it.
What a model version is, and which one serves, is in ``vad_dagster.registry``.
"""

from __future__ import annotations

import json
import os
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import dagster as dg
from pydantic import Field

from vad_dagster.home import NO_TELEMETRY, prepare_tracking, tracking_uri
from vad_lib.lines import Home
from vad_lib.settings import settings

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

MAX_PARAMETER_LENGTH = 500
# without it MLflow shows the pages of language models
KIND = "mlflow.experimentKind"


def dagster_url(path: str) -> str:
    """Return an address in Dagster's UI: ``$DAGSTER_UI_URL`` (default http://127.0.0.1:3000) and the path."""
    return f"{settings().dagster_ui_url.rstrip('/')}/{path.lstrip('/')}"


class MLflowTracking(dg.ConfigurableResource):
    """Where runs and model versions are recorded.

    The address is ``$MLFLOW_TRACKING_URI``, or an SQLite database and a folder of artifacts under ``$VAD_HOME/mlflow``.
    """

    ui_url: str = Field(
        default="",
        description="Address of MLflow's web page, used in links. Empty: $MLFLOW_UI_URL, the tracking server where the "
        "tracking URI is one, else http://127.0.0.1:5000.",
    )

    def connect(self) -> MlflowClient:
        """Return a client, after creating the embedded database if needed; sets the process's tracking URI."""
        for name, value in {**NO_TELEMETRY, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}.items():
            os.environ.setdefault(name, value)
        import mlflow

        given = settings().mlflow_tracking_uri
        uri = prepare_tracking()
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        if given is None:
            # mlflow sets it by itself; a process that later works on another home would go on with this one's database
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)

    def experiment(self, line: str) -> str:
        """Return the id of the line's experiment, which is made if it is missing."""
        client = self.connect()
        name = f"vad-{line}"
        found = client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
            return found.experiment_id
        embedded = tracking_uri().startswith("sqlite:")
        location = (Home.from_environment().mlflow_folder / "artifacts" / name).as_uri() if embedded else None
        return client.create_experiment(
            name, artifact_location=location, tags={"vad.line": line, KIND: "custom_model_development"}
        )

    @contextmanager
    def run(
        self,
        line: str,
        *,
        name: str = "",
        run_id: str = "",
        parent_run_id: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[TrackedRun]:
        """Open a new run, or ``run_id`` again; an exception inside marks it as failed."""
        import mlflow

        experiment_id = self.experiment(line)
        all_tags = {"vad.line": line, **(tags or {})}
        if parent_run_id:
            all_tags["mlflow.parentRunId"] = parent_run_id
        with mlflow.start_run(
            run_id=run_id or None,
            experiment_id=None if run_id else experiment_id,
            run_name=name or None,
            tags=all_tags,
            log_system_metrics=False,
        ) as active:
            yield TrackedRun(experiment_id, active.info.run_id, self._ui())

    def run_url(self, experiment_id: str, run_id: str) -> str:
        return f"{self._ui()}/{_run_page(experiment_id, run_id)}"

    def version_url(self, model: str, version: str | int) -> str:
        return f"{self._ui()}/#/models/{model}/versions/{version}"

    def models_url(self) -> str:
        """Return the address of the page of all registered models."""
        return f"{self._ui()}/#/models"

    def _ui(self) -> str:
        uri = tracking_uri()
        default = uri if uri.startswith("http") else "http://127.0.0.1:5000"
        return (self.ui_url or settings().mlflow_ui_url or default).rstrip("/")


class TrackedRun:
    """The open run; methods say what is recorded and where it appears."""

    def __init__(self, experiment_id: str, run_id: str, ui: str) -> None:
        self.run_id = run_id
        self.page = _run_page(experiment_id, run_id)
        self.url = f"{ui}/{self.page}"
        self._ui = ui

    def artifact_page(self, path: str) -> str:
        """Return the page that shows an artifact, as a link on any page of MLflow's UI."""
        return f"{self.page}/artifacts/{quote(path)}"

    def artifact_url(self, path: str) -> str:
        """Return the address of that page."""
        return f"{self._ui}/{self.artifact_page(path)}"

    def artifact_address(self, path: str) -> str:
        """Return the address of an artifact's bytes, as a picture in another page needs it."""
        return f"{self._ui}/get-artifact?{urlencode({'path': path, 'run_uuid': self.run_id})}"

    def describe(self, markdown: str) -> None:
        """Write the description that MLflow's UI shows on the page of the run."""
        self.tags({"mlflow.note.content": markdown})

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Record arguments (cut to what every MLflow store takes; the plan artifact holds them whole)."""
        import mlflow

        mlflow.log_params({name: _as_parameter(value) for name, value in values.items()})

    def metrics(self, values: Mapping[str, float | int | None], step: int | None = None) -> None:
        """Record numbers; missing ones are left out."""
        import mlflow

        present = {name: float(value) for name, value in values.items() if value is not None and value == value}
        if present:
            mlflow.log_metrics(present, step=step)

    def curve(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record one row of numbers an epoch; ``number`` is the epoch's."""
        for number, row in enumerate(rows):
            step = int(row.get("number", number + 1))
            self.metrics(
                {
                    name: value
                    for name, value in row.items()
                    if name != "number" and isinstance(value, int | float) and not isinstance(value, bool)
                },
                step=step,
            )

    def dataset(self, frame: pd.DataFrame, *, name: str, digest: str, source: str, context: str) -> None:
        """Record which rows were used, under a digest of our own (of the images' contents, labels and splits)."""
        import mlflow
        import mlflow.data

        with warnings.catch_warnings():
            # about which of its own two classes stands for a local path, and about integer columns
            warnings.simplefilter("ignore", category=UserWarning)
            dataset = mlflow.data.from_pandas(  # type: ignore[attr-defined]
                frame, source=source, name=name, digest=digest[:36]
            )
        mlflow.log_input(dataset, context=context)

    def text(self, text: str, path: str) -> None:
        import mlflow

        mlflow.log_text(text, path)

    def json(self, content: Any, path: str) -> None:
        self.text(json.dumps(content, indent=2, ensure_ascii=False, default=str), path)

    def file(self, file: Path, folder: str = "") -> None:
        """Copy a file or the contents of a folder into the run."""
        import mlflow

        if file.is_dir():
            mlflow.log_artifacts(str(file), artifact_path=folder or None)
        else:
            mlflow.log_artifact(str(file), artifact_path=folder or None)

    def tags(self, values: Mapping[str, Any]) -> None:
        import mlflow

        mlflow.set_tags({name: str(value) for name, value in values.items()})


def _run_page(experiment_id: str, run_id: str) -> str:
    """Return the page of a run, as a link on any page of MLflow's UI: it leads there under whichever address."""
    return f"#/experiments/{experiment_id}/runs/{run_id}"


def _as_parameter(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_PARAMETER_LENGTH else text[: MAX_PARAMETER_LENGTH - 1] + "…"


def system_facts() -> dict[str, Any]:
    """Return what may explain a difference in time or result: machine, cores, versions."""
    from importlib.metadata import PackageNotFoundError, version

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "absent"

    packages = ("vad", "torch", "torchvision", "anomalib", "timm", "dagster", "mlflow", "numpy", "scikit-learn")
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {package: of(package) for package in packages},
    }
