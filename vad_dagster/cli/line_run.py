"""A job of the project for one line, as commands ask for it: arguments by name, and a run that is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from vad_dagster.cli.console import stderr
from vad_dagster.cli.following import Follower, RunOutcome
from vad_dagster.cli.running import JobRequest, refuse_second_run, run_job
from vad_dagster.configuration import TAKEN_BY, plan_of_run
from vad_dagster.home import tracking_file
from vad_dagster.jobs import inspection_tags, training_tags
from vad_dagster.partitions import register_lines
from vad_dagster.plans import plan_of
from vad_dagster.registry import LineRegistry
from vad_dagster.resources import MLflowTracking
from vad_lib.errors import InputError
from vad_lib.lines import Line
from vad_lib.plan.faults import did_you_mean

if TYPE_CHECKING:
    from dagster import DagsterInstance


JOBS = {
    "train_line": ("train", training_tags, ("validated_dataset", "trained_model", "threshold_table")),
    "extend_line": ("model extend", training_tags, ()),
    "compare_line": ("compare", training_tags, ()),
    "inspect_line": ("inspect", inspection_tags, ("inference_outputs",)),
}
"""The command of each job, its tags, and the assets that take an operator's arguments."""


def run_for_line(
    instance: DagsterInstance,
    line: Line,
    job: str,
    arguments: Mapping[str, Any],
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunOutcome:
    """Run one of ``JOBS`` for a line and show it.

    ``arguments`` are an operator's, by name; ``extra`` is further config by asset.

    Raises:
        VadError: the run cannot be submitted, or another run of this job works on the line.
    """
    verb, tags_of, _ = JOBS[job]
    tags = tags_of(line.name)
    config = run_config(job, arguments, extra or {})
    refuse_in_vain(line, job, config)
    register_lines(instance, [line.name])
    refuse_second_run(instance, job, line.name)
    with Follower(f"{verb} {line.name}") as follower:
        request = JobRequest(job, line.name, config, {**tags, "vad/started_by": f"vad {verb}"})
        try:
            return run_job(instance, request, follower)
        except KeyboardInterrupt:
            stderr.print(f"Stopped. Run {follower.run_id[:8]} is marked as canceled; nothing was published.")
            raise typer.Exit(130) from None


def refuse_in_vain(line: Line, job: str, config: Mapping[str, Any]) -> None:
    """Refuse what a run would refuse after its start.

    Raises:
        PlanError: an argument that may not be changed, a value that is not allowed, or one that cannot be used here.
        InputError: an inspection without a champion.
    """
    from vad_lib.training import require_usable

    plan = plan_of_run(plan_of(line), config)
    if job == "train_line":
        require_usable(plan.train)
    if job in ("train_line", "compare_line"):
        return
    if (file := tracking_file()) is not None and not file.exists():
        raise InputError(f"Line {line.name!r} has no champion: train it first (`vad train {line.name}`).")
    LineRegistry(MLflowTracking(), line.name).champion()


def run_config(job: str, arguments: Mapping[str, Any], extra: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the run config that the launchpad would hold.

    Raises:
        InputError: an argument is none of those that can be set for this job.
    """
    *_, assets = JOBS[job]
    configs: dict[str, dict[str, Any]] = {asset: dict(values) for asset, values in extra.items()}
    allowed = {name: asset for asset in assets for name in TAKEN_BY[asset][1].model_fields}
    for name, value in arguments.items():
        if name not in allowed:
            raise InputError(
                f"--set {name}: there is no such argument here.{did_you_mean(name, allowed)} "
                f"There are: {', '.join(sorted(allowed))}."
            )
        configs.setdefault(allowed[name], {})[name] = value
    return {"ops": {asset: {"config": values} for asset, values in configs.items()}} if configs else {}
