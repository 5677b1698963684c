"""``vad plan …``: what a line's plan means."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from vad_dagster.cli.console import console, new_table
from vad_dagster.cli.lines import existing_line

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
        table = new_table("argument", "value", "from", "meaning", title=str(section))
        table.columns[0].no_wrap = True
        table.columns[1].max_width = 36
        for row in part.to_dict("records"):
            meaning = f"{row['meaning']} Default: {row['default']}. Allowed: {row['allowed']}."
            if row["ui"]:
                meaning += " An operator may change it."
            source = f"{row['source']}, {row['where']}" if row["where"] else row["source"]
            table.add_row(*(escape(str(cell)) for cell in (row["argument"], row["value"], source, meaning)))
        console.print(table)
        console.print()
    for notice in plan.notices:
        console.print(f"note: {notice}", markup=False)
    console.print(f"plan: {line.plan_file}", markup=False)
