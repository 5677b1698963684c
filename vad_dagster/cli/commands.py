"""``vad train``, ``vad inspect``, ``vad dev`` and ``vad demo``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from vad_dagster.cli.console import console
from vad_dagster.cli.lines import existing_line
from vad_lib.errors import InputError, VadError
from vad_lib.lines import Line
from vad_lib.progress import format_seconds

if TYPE_CHECKING:
    from vad_dagster.cli.following import RunOutcome

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="ARGUMENT=VALUE",
        help="Use another value for this run; only arguments that the plan lists under ui_args. May be repeated.",
    ),
]


def train(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    set_: Settings = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what it will take: time, memory, disk, memory bank. Writes nothing."),
    ] = False,
) -> None:
    """Train a line: from its table to a registered model. The same job as in Dagster's UI; Ctrl-C stops it."""
    line = existing_line(name)
    if dry_run:
        from vad_dagster.cli.forecasting import forecast_line
        from vad_dagster.cli.line_run import run_config

        forecast_line(line, run_config("train_line", dict(_setting(text) for text in set_ or []), {}))
        return
    outcome = run_job_of_line(line, "train_line", set_ or [])
    _finish(outcome, line, "trained", "train")


def inspect(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Images, with or without a table. Default: what the plan names.")
    ] = None,
    set_: Settings = None,
) -> None:
    """Inspect images with the line's champion. The same job as in Dagster's UI; Ctrl-C stops it."""
    line = existing_line(name)
    if folder is not None and not folder.is_dir():
        raise InputError(f"There is no folder {folder}.")
    extra = {"inference_outputs": {"folder": str(folder.resolve())}} if folder is not None else {}
    outcome = run_job_of_line(line, "inspect_line", set_ or [], extra)
    _finish(outcome, line, "inspected", "inference")


def dev(
    port: Annotated[int, typer.Option(help="Of Dagster's UI.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Of MLflow's UI.")] = 5000,
    only: Annotated[str, typer.Option(help="Only this one: dagster, mlflow or service.")] = "",
    service: Annotated[
        bool, typer.Option("--service/--no-service", help="The inference service; without it, runs inspect everything.")
    ] = True,
    service_port: Annotated[int, typer.Option(help="Of the inference service.")] = 8600,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show all that the servers write, and not only problems.")
    ] = False,
) -> None:
    """Open both UIs on localhost, with the daemon that runs sensors and schedules, and the inference service.

    A server that dies is started again. Ctrl-C stops everything.
    """
    from vad_dagster.cli.development import serve

    ports = {"dagster": port, "mlflow": mlflow_port, "service": service_port}
    if only and only not in ports:
        raise InputError(f"--only {only}: there are dagster, mlflow and service.")
    if not service and only != "service":
        del ports["service"]
    serve({only: ports[only]} if only else ports, verbose=verbose)


def demo(
    retrain: Annotated[bool, typer.Option("--retrain", help="Train again even if both models are there.")] = False,
) -> None:
    """Make a line of real photographs with drawn defects, train both models, inspect a drop through the daemon.

    Takes a few minutes the first time. Later ones drop new images only.
    """
    from vad_dagster.cli.demo import run_demo

    run_demo(retrain=retrain)


def run_job_of_line(
    line: Line, job: str, settings: list[str], extra: Mapping[str, Mapping[str, Any]] | None = None
) -> RunOutcome:
    """Run a job for a line with arguments as ``NAME=VALUE`` and further config by asset, and show it."""
    from vad_dagster.cli.line_run import run_for_line
    from vad_dagster.cli.server import open_instance

    given = dict(_setting(text) for text in settings)
    with open_instance() as instance:
        return run_for_line(instance, line, job, given, extra or {})


def _setting(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise InputError(f"--set {text}: write ARGUMENT=VALUE, such as --set batch_size=8.")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {text}: the value cannot be read ({error}).") from error


def _finish(outcome: RunOutcome, line: Line, done: str, pipeline: str) -> None:
    """Say how it ended and where the results are; leave with code 1 unless it succeeded."""
    if not outcome.succeeded:
        raise VadError(outcome.why(line.name, done))
    from vad_dagster.plans import plan_of

    plan = plan_of(line)
    if pipeline == "train":
        artifacts = plan.train_artifacts_folder(line.train_artifacts, line.base_folder)
    else:
        artifacts = plan.inference_artifacts_folder(line.inference_artifacts, line.base_folder)
    console.print(f"{line.name} {done} in {format_seconds(outcome.seconds)}.", style="bold green")
    for label, text in facts(outcome).items():
        console.print(f"  {label}: {text}", markup=False)
    pictures = [folder for folder in sorted(artifacts.glob("extra_output/**/images")) if any(folder.iterdir())]
    if pictures:
        console.print(f"  pictures: {pictures[0]}", markup=False)
    console.print(f"  results: {artifacts / 'output'}", markup=False)


def facts(outcome: RunOutcome) -> dict[str, str]:
    """Return the few numbers of a run that belong on its last lines, as far as they are known."""
    wanted = {
        "model_evaluation": (
            "model version",
            "nothing new",
            "result",
            "warning",
            "image_auroc",
            "f1",
            "misses",
            "false alarms",
            "threshold",
            "report",
        ),
        "champion_model": ("version", "why"),
        "inference_outputs": ("model version", "images", "OK", "NG"),
        "inference_summary": ("result", "score"),
    }
    found = {}
    for asset, names in wanted.items():
        for name in names:
            value = outcome.metadata.get(asset, {}).get(name)
            if value is not None:
                label = "serving" if (asset, name) == ("champion_model", "version") else name.replace("_", " ")
                found[label] = f"{value:.4g}" if isinstance(value, float) else str(value)
    return found
