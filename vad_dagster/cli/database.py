"""``vad db``: which revision the inspection database is at, its upgrade, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vad_dagster.cli.console import console
from vad_lib.errors import VadError
from vad_lib.progress import format_seconds

if TYPE_CHECKING:
    from sqlalchemy import Engine

app = typer.Typer(no_args_is_help=True, help="The inspection database: revision, upgrade, integrity.")


@app.command()
def current() -> None:
    """Show where the database is, and its revision. Changes nothing."""
    from vad_lib.inspection_db.revision import HEAD, revision_of

    engine = _engine_of_what_is_there()
    with engine.execution_options(vad_readonly=True).connect() as connection:
        found = revision_of(connection)
    console.print(engine.url.render_as_string(), markup=False)
    console.print(f"revision {found or 'none'}; this software works with {HEAD}", markup=False)


@app.command()
def upgrade() -> None:
    """Bring the database to the newest revision. Whoever opens it does so anyway; this does nothing else."""
    from vad_lib.inspection_db.engine import create_inspection_engine
    from vad_lib.inspection_db.revision import bring_up_to_date
    from vad_lib.lines import Home

    before, after = bring_up_to_date(create_inspection_engine(Home.from_environment().inspection_db_url))
    if before == after:
        console.print(f"revision {after}: nothing to do", markup=False)
    else:
        console.print(f"brought from revision {before or 'none'} to {after}", markup=False)


@app.command()
def check() -> None:
    """Look whether the database is whole and its rows keep the laws of the queue. Leaves with code 1 if not.

    Warns beside that of files that wait for long while neither a service nor a run works on their line.
    """
    from vad_lib.inspection_db.laws import check_database

    engine = _engine_of_what_is_there()
    faults = check_database(engine)
    if faults:
        raise VadError("\n".join(map(str, faults)))
    console.print(f"{engine.url.render_as_string()}: whole, and every law holds", markup=False)
    for warning in _neglected():
        console.print(f"warning: {warning}", style="yellow", markup=False)


def _neglected() -> list[str]:
    """Say on which lines files wait for long and nobody works."""
    from dagster import DagsterRunStatus, RunsFilter

    from vad_dagster.cli.server import open_instance
    from vad_dagster.jobs import INSPECT_TAG
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.queue.facts import neglected

    db = InspectionDatabase.from_environment()
    if not (waiting := neglected(db)):
        return []
    unfinished = [DagsterRunStatus[name] for name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED")]
    with open_instance() as instance:
        runs = instance.get_runs(RunsFilter(job_name="inspect_line", statuses=unfinished))
    busy = {run.tags.get(INSPECT_TAG) or run.tags.get("dagster/partition", "") for run in runs}
    return [
        f"{line}: {facts.pending} files wait, the longest for {format_seconds(facts.unleased_seconds or 0.0)}, and "
        f"neither a service nor a run works on them. `vad dev` or `vad serve` does; is there a champion?"
        for line, facts in sorted(waiting.items())
        if line not in busy
    ]


def _engine_of_what_is_there() -> Engine:
    """Return the engine. To open a file of SQLite would make it, and a mistyped address look like a database.

    Raises:
        VadError: there is no such file.
    """
    from vad_lib.inspection_db.engine import create_inspection_engine, database_address
    from vad_lib.lines import Home

    address = Home.from_environment().inspection_db_url
    url = database_address(address)
    file = url.database if url.get_backend_name() == "sqlite" else None
    if file and file != ":memory:" and not Path(file).exists():
        raise VadError(
            f"There is no database at {file}. Check VAD_HOME and VAD_INSPECTION_DB; `vad db upgrade` makes a new one."
        )
    return create_inspection_engine(address)
