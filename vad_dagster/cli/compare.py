"""``vad compare NAME``: detectors beside one another on the images of a line."""

from __future__ import annotations

from typing import Annotated

import typer

from vad_dagster.cli.commands import run_job_of_line
from vad_dagster.cli.console import console, new_table
from vad_dagster.cli.lines import existing_line
from vad_lib.errors import VadError
from vad_lib.progress import format_seconds


def compare(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A detector, as a plan's model_name; repeatable. Default: the plan's and the two usual ones."
        ),
    ] = None,
    parts: Annotated[int, typer.Option(min=3, help="Into which the images are cut; each is scored by the others.")] = 5,
) -> None:
    """Compare detectors on a line's own images by cross-validation, with intervals, tests and a recommendation.

    The plan stays as it is. Ctrl-C stops it; the next call goes on where it was.
    """
    import pandas as pd

    line = existing_line(name)
    outcome = run_job_of_line(line, "compare_line", [], {"model_choice": {"models": model or [], "parts": parts}})
    if not outcome.succeeded:
        raise VadError(outcome.why(name, "compared"))
    told = outcome.metadata.get("model_choice", {})
    console.print(f"{name} compared in {format_seconds(outcome.seconds)}.", style="bold green")
    figures = pd.read_csv(line.comparison / "figures.csv", dtype=str).fillna("").set_index("detector")
    table = new_table("", *figures.index)
    for figure in figures:
        table.add_row(str(figure), *figures[figure])
    console.print(table)
    console.print(str(told.get("recommendation", "")), markup=False)
    console.print(str(told.get("differences", "")), markup=False)
    console.print(f"A page with pictures: {line.comparison / 'index.html'}", markup=False)
