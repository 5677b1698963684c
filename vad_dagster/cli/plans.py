"""``vad plan …``: what a line's plan means."""

from __future__ import annotations

from textwrap import fill
from typing import Annotated, Any

import typer

from vad_dagster.cli.console import console
from vad_dagster.cli.lines import existing_line

INDENTED: dict[str, Any] = {"initial_indent": "    ", "subsequent_indent": "    ", "break_long_words": False}
app = typer.Typer(no_args_is_help=True, help="What a line's experimental plan means.")


@app.command("explain")
def explain(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    step: Annotated[str, typer.Option(help="Only this step, such as train or readiness.")] = "",
    changed: Annotated[bool, typer.Option("--changed", help="Only arguments that are not at their default.")] = False,
) -> None:
    """Print every argument: the value in force, where it came from, the default, what is allowed, what it means."""
    from vad_lib.plan.explaining import explain as explained
    from vad_lib.plan.reading import read_plan

    line = existing_line(name)
    plan = read_plan(line.plan_file, line.base_folder)
    rows = explained(plan)
    if step:
        rows = rows[rows["step"] == step]
    if changed:
        rows = rows[rows["source"] != "default"]
    for section, part in rows.groupby("step", sort=False):
        console.print(str(section), style="bold green", markup=False)
        for row in part.to_dict("records"):
            meaning = f"{row['meaning']} Default: {row['default']}. Allowed: {row['allowed']}."
            if row["ui"]:
                meaning += " An operator may change it."
            source = f"{row['source']}, {row['where']}" if row["where"] else row["source"]
            # a line of its own, which no table cuts: what is printed can be copied
            console.print(f"{row['argument']}: {row['value']}", style="bold", markup=False)
            console.print(fill(f"From {source}. {meaning}", console.width, **INDENTED), markup=False)
        console.print()
    for notice in plan.notices:
        console.print(f"note: {notice}", markup=False)
    console.print(f"plan: {line.plan_file}", markup=False)
