"""``vad performance NAME``: how well a line does in use."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from vad_dagster.cli.console import console, new_table
from vad_dagster.cli.lines import existing_line


def performance(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    weeks: Annotated[int, typer.Option(min=1, max=520, help="How far back to look; this week is the last one.")] = 12,
    json: Annotated[bool, typer.Option("--json", help="As data.")] = False,
) -> None:
    """Say how well a line does in use: precision, recall and false alarms, by what people said, with intervals."""
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.inspection_db.field_performance import field_performance

    line = existing_line(name)
    found = field_performance(InspectionDatabase.from_environment(), line.name, datetime.now(UTC), weeks)
    if json:
        print(found.model_dump_json(indent=2))
        return
    console.print(found.whole.in_words(), markup=False)
    rows = found.table()
    table = new_table(*rows)
    for row in rows.astype(str).to_numpy():
        table.add_row(*row)
    console.print(table)
    if found.kinds:
        kinds = new_table("kind of defect", ">found", ">missed")
        for kind in found.kinds:
            kinds.add_row(kind.kind, str(kind.found), str(kind.missed))
        console.print(kinds)
