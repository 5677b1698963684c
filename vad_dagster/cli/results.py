"""``vad results``: the artifacts of whatever was inspected in a stretch of time, from the database."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from vad_dagster.cli.console import console
from vad_dagster.cli.lines import existing_line
from vad_lib.errors import InputError

UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def results(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    since: Annotated[str, typer.Option(help="Such as 90m, 8h, 2d, or a date and time like 2026-01-31T06:00.")] = "24h",
    before: Annotated[str, typer.Option(help="The same; empty: now.")] = "",
    to: Annotated[
        Path | None, typer.Option(help="A folder. Default: results in the line's folder. It is replaced whole.")
    ] = None,
    heatmaps: Annotated[bool, typer.Option("--heatmaps", help="Draw one for each image; the model is loaded.")] = False,
) -> None:
    """Write output.csv, summary and pictures of what was inspected in a stretch of time, whoever did it.

    Nothing is scored again: it is a view of the inspection database, in the form of the inference artifacts.
    """
    from vad_dagster.inspection_run import inspection_record
    from vad_dagster.plans import plan_of, watch_folder
    from vad_dagster.registry import LineRegistry
    from vad_dagster.resources import MLflowTracking
    from vad_lib.artifacts import write_inference_tree
    from vad_lib.inspection.history import inspected_between, maps_of
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.models import InspectionModel

    line = existing_line(name)
    plan = plan_of(line)
    now = datetime.now(UTC)
    registry = LineRegistry(MLflowTracking(), line.name)
    version = registry.champion()
    dataset, result = inspected_between(
        InspectionDatabase.from_environment(),
        line.name,
        folder=watch_folder(line, plan),
        model_version=version.label,
        inference_threshold=plan.inference.inference_threshold,
        since=moment(since, now),
        before=moment(before, now) if before else None,
    )
    model = InspectionModel.load(registry.folder(version)) if heatmaps else None
    tree = write_inference_tree(
        to.resolve() if to is not None else line.folder / "results",
        inspection_record(
            plan, version, model, dataset, result, {"line": line.name, "versions": dict(result.versions)}
        ),
        maps=maps_of(result, model) if model is not None else None,
    )
    counts = result.predictions["predicted"].value_counts()
    console.print(
        f"{len(result.predictions)} images: {counts.get('OK', 0)} OK, {counts.get('NG', 0)} NG; "
        f"{len(result.refused)} refused",
        markup=False,
    )
    for label, count in result.versions.items():
        console.print(f"  {count} by {label}", markup=False)
    console.print(f"  results: {tree.output}", markup=False)


def moment(text: str, now: datetime) -> datetime:
    """Return the moment that a person means: so long before now, or a date, in local time where it names no zone.

    Raises:
        InputError: it is neither.

    >>> moment("90m", datetime(2026, 1, 2, 3, 0, tzinfo=UTC)).isoformat()
    '2026-01-02T01:30:00+00:00'
    """
    if match := re.fullmatch(r"(\d{1,6})([mhd])", text.strip()):
        return now - timedelta(**{UNITS[match[2]]: int(match[1])})
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except ValueError as error:
        raise InputError(
            f"{text}: give a time such as 90m, 8h or 2d (before now), or a date and time such as 2026-01-31T06:00."
        ) from error
