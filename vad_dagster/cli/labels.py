"""``vad label``: what people say about predictions. Every training takes the labels that hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vad_dagster.cli.console import console, new_table, user_name
from vad_dagster.cli.lines import existing_line
from vad_lib.errors import InputError

if TYPE_CHECKING:
    from vad_lib.inspection_db.labels import Said
    from vad_lib.lines import Line
    from vad_lib.plan import ExperimentalPlan

app = typer.Typer(no_args_is_help=True, help="What people say about predictions: give, withdraw, list, export.")


@app.command()
def give(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    image: Annotated[
        str, typer.Argument(help="Number of the prediction, sha256, path in the watch folder or absolute path.")
    ],
    label: Annotated[str, typer.Argument(help="ok, ng or unsure: what the part is.")],
    kind: Annotated[str, typer.Option(help="Of ng: the kind of defect.")] = "",
    note: Annotated[str, typer.Option(help="Why.")] = "",
    person: Annotated[str, typer.Option(help="Who says so. Default: the name of the user.")] = "",
) -> None:
    """Say what a part is. The last label on an image holds; those before it stay in the history."""
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.inspection_db.audit import Actor
    from vad_lib.inspection_db.labels import find_prediction, record_label

    line = existing_line(name)
    answers: dict[str, Said] = {"ok": "OK", "ng": "NG", "unsure": "unsure"}
    if (said := answers.get(label.lower())) is None:
        raise InputError(f"{label}: a label is ok, ng or unsure.")
    db = InspectionDatabase.from_environment()
    found = find_prediction(db, line.name, image)
    record_label(db, found.prediction_id, said, by=Actor(person or user_name()), note=note, kind=kind)
    agrees = "as predicted" if said == found.predicted else f"predicted was {found.predicted}"
    console.print(f"{Path(found.path).name} is {said} ({agrees}, by {found.model_version})", markup=False)


@app.command()
def withdraw(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    image: Annotated[
        str, typer.Argument(help="Number of the prediction, sha256, path in the watch folder or absolute path.")
    ],
    note: Annotated[str, typer.Option(help="Why.")] = "",
    person: Annotated[str, typer.Option(help="Who says so. Default: the name of the user.")] = "",
) -> None:
    """Take back the label that holds on an image. The next training does without it; the history keeps all."""
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.inspection_db.audit import Actor
    from vad_lib.inspection_db.labels import find_prediction, withdraw_label

    line = existing_line(name)
    db = InspectionDatabase.from_environment()
    found = find_prediction(db, line.name, image)
    withdraw_label(db, found.prediction_id, by=Actor(person or user_name()), note=note)
    console.print(f"{Path(found.path).name} has no label any more", markup=False)


@app.command("list")
def list_labels(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    history: Annotated[
        bool, typer.Option("--history", help="All that was said, not only the labels that hold.")
    ] = False,
    version: Annotated[
        str,
        typer.Option(help="Those that a version was trained with: its number, or champion, challenger, previous."),
    ] = "",
) -> None:
    """Show the labels of a line, and how often its predictions agree with them."""
    if version:
        _list_of_version(existing_line(name).name, version)
        return
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.inspection_db.labels import agreement, label_history, labels_that_hold

    line = existing_line(name)
    db = InspectionDatabase.from_environment()
    rows = (label_history if history else labels_that_hold)(db, line.name)
    table = new_table("prediction", "image", "predicted", "label", "person", "time", "note")
    for row in rows.itertuples():
        when = f"{row.created_at:%Y-%m-%d %H:%M}"
        image = Path(str(row.path)).name
        cells = (row.prediction_id, image, row.predicted, row.label, row.person, when, row.note or "")
        table.add_row(*map(str, cells))
    console.print(table)
    found = agreement(db, line.name)
    if found.rate is not None:
        console.print(
            f"{found.agree} of {found.judged} predictions agree with the labels; {found.missed} missed, "
            f"{found.false_alarms} false alarms",
            markup=False,
        )


def _list_of_version(line: str, version: str) -> None:
    from vad_dagster.registry import LineRegistry
    from vad_dagster.resources import MLflowTracking

    registry = LineRegistry(MLflowTracking(), line)
    found = registry.named(version)
    table = new_table("prediction", "image", "label", "person", "time", "used as")
    labels = registry.labels_of(found)
    for one in labels.itertuples():
        image, when = Path(str(one.path)).name, f"{one.created_at:%Y-%m-%d %H:%M}"
        table.add_row(*map(str, (one.prediction_id, image, one.label, one.person, when, one.used_as)))
    console.print(table)
    console.print(f"{found.label} was trained with {len(labels)} labels of people", markup=False)


@app.command()
def sample(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 20,
) -> None:
    """Show images of the random sample of OK images that nobody has judged: judging all of them, some each shift, tells
    how many defects are missed."""
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.inspection_db.monitoring import read_drift, to_audit

    line = existing_line(name)
    db = InspectionDatabase.from_environment()
    table = new_table("prediction", "image", "time")
    for row in to_audit(db, line.name, count):
        table.add_row(str(row.prediction_id), row.path, f"{row.created_at:%Y-%m-%d %H:%M}")
    console.print(table)
    console.print(f"Missed defects: {read_drift(db, line.name).misses}", markup=False)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    to: Annotated[Path, typer.Option(help="A folder that is there.")],
    ok_label: Annotated[str, typer.Option(help="What the table calls a normal part. Default: the plan's.")] = "",
    ng_label: Annotated[
        str,
        typer.Option(help="What it shall call an anomalous one; without it, the table's most frequent word for one."),
    ] = "",
) -> None:
    """Write the labels that hold as labels.csv, with their images, into a folder, for use elsewhere. The line's own
    trainings take the labels by themselves."""
    from vad_lib.inspection.label_export import export_labels
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.plan import read_plan

    line = existing_line(name)
    plan = read_plan(line.plan_file, line.base_folder)
    own = plan.find_train_data(line.base_folder)
    if own is not None and to.resolve() == own.resolve():
        raise InputError(f"{to} is the line's own training folder: its trainings take the labels by themselves.")
    made = export_labels(
        InspectionDatabase.from_environment(),
        line.name,
        to,
        ok_label=ok_label or _ok_label(line, plan),
        ng_label=ng_label,
        path_column=plan.input.path_column,
        label_column=plan.input.y_column,
        split_column=plan.readiness.train_validate_column,
        encoding=plan.input.encoding,
    )
    console.print(f"{made.table}: {made.ok} OK, {made.ng} NG", markup=False)
    for path in made.lost:
        console.print(f"  not taken along, since the image is gone or another lies in its place: {path}", markup=False)


def _ok_label(line: Line, plan: ExperimentalPlan) -> str:
    """Return the plan's normal label, or the one that the last training found."""
    from vad_dagster.values import last_dataset

    dataset = last_dataset(line)
    found = plan.readiness.ok_class or (dataset.ok_class if dataset else "")
    if not found:
        raise InputError("The plan names no ok_class, and the line was not trained yet: give --ok-label.")
    return found
