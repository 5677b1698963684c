"""``vad describe``: findings in words, by a vision language model that the settings name."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vad_dagster.cli import words_evaluation, words_training
from vad_dagster.cli.console import console, new_table, stderr, user_name
from vad_dagster.cli.lines import existing_line
from vad_lib.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy import Row

    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.lines import Line
    from vad_lib.progress import ProgressUpdate
    from vad_lib.words.answer import Answer
    from vad_lib.words.context import LineFacts

app = typer.Typer(
    no_args_is_help=True,
    help="Findings in words, by a vision language model (VAD_VLM_URL, VAD_VLM_MODEL): run, show, search, correct, "
    "export, check, evaluate; and by a local model with learnt prompts: train-prompter, ask-local. The detector "
    "decides; the model describes.",
)
app.command("evaluate")(words_evaluation.evaluate)
app.command("train-prompter")(words_training.train_prompter)
app.command("ask-local")(words_training.ask_local)

YES_OR_NO = {True: "yes", False: "no", None: "-"}

Name = Annotated[str, typer.Argument(help="Name of the line.")]
Image = Annotated[
    str, typer.Argument(help="Number of the prediction, sha256, path in the watch folder or absolute path.")
]
Person = Annotated[str, typer.Option(help="Who says so. Default: the name of the user.")]


@app.command()
def run(
    name: Name,
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Numbers of predictions, sha256s or paths. Without any: the newest images."),
    ] = None,
    newest: Annotated[int, typer.Option(min=1, max=1000, help="Without images: so many of the newest ones.")] = 1,
    ng: Annotated[bool, typer.Option("--ng", help="Without images: only those of which the detector says NG.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also what has a description already.")] = False,
    language: Annotated[str, typer.Option(help="Of the texts. Default: VAD_VLM_LANGUAGE.")] = "",
) -> None:
    """Describe findings now, and show what the model says. Ctrl-C stops it; what is left waits for the next worker."""
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.inspection_db.labels import find_prediction
    from vad_lib.inspection_db.result_lists import Wanted, find_results
    from vad_lib.queue import new_worker
    from vad_lib.words.client import Client
    from vad_lib.words.describing import Budgets, describe_waiting, description_by_id, request_description
    from vad_lib.words.endpoint import Endpoint

    line, endpoint = existing_line(name), Endpoint.required()
    db, facts = InspectionDatabase.from_environment(), _facts(line)
    endpoint.require_leave(line.name, facts.allow_images_to_leave)
    if images:
        numbers = [int(find_prediction(db, line.name, image).prediction_id) for image in images]
    else:
        found = find_results(db, line.name, Wanted("NG" if ng else ""), limit=newest)
        numbers = [row.prediction_id for row in found.rows]
    if not numbers:
        raise InputError(f"The line {line.name!r} has no{' NG' if ng else ''} predictions to describe.")
    asked = [
        request_description(db, line.name, number, asked_by=user_name(), language=language, again=again)
        for number in dict.fromkeys(numbers)
    ]
    try:
        with closing(Client(endpoint)) as client:
            tally = describe_waiting(
                db, facts, client, new_worker(), Budgets.of_settings(), only=asked, progress=_show_progress
            )
    except KeyboardInterrupt:
        stderr.print("Stopped. What is not described yet waits for the next worker.")
        raise typer.Exit(130) from None
    left = 0
    for number in asked:
        row = description_by_id(db, number)
        if row is not None:
            _print_description(db, row)
            left += row.state != "done"
    if tally.why_waiting:
        stderr.print(tally.why_waiting, markup=False)
    if left:
        raise typer.Exit(1)


@app.command()
def show(name: Name, image: Image) -> None:
    """Show the description of an image that was asked for last."""
    from vad_lib.inspection_db import InspectionDatabase

    db = InspectionDatabase.from_environment()
    _print_description(db, _last_description(db, existing_line(name), image))


@app.command()
def search(
    name: Name,
    words: Annotated[list[str] | None, typer.Argument(help="Words of the summary. Without any: all.")] = None,
    disagreements: Annotated[
        bool, typer.Option("--disagreements", help="Only those that say the opposite of the detector.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest first.")] = 20,
) -> None:
    """Find descriptions by words of their summary."""
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.words.describing import search_descriptions

    line, text = existing_line(name), " ".join(words or [])
    db = InspectionDatabase.from_environment()
    rows = search_descriptions(db, line.name, text, disagreements=disagreements, limit=limit)
    table = new_table(">prediction", "image", "detector", "model", "agrees", "summary")
    for row in rows:
        said = (row.predicted, row.anomaly or "-", YES_OR_NO[row.agrees], row.summary)
        table.add_row(*_cells(row.prediction_id, Path(row.path).name, *said))
    console.print(table)
    console.print(f"{len(rows)} descriptions", markup=False)


@app.command()
def correct(
    name: Name,
    image: Image,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field and what it should have been, such as --set summary='It is dust.'"),
    ] = None,
    file: Annotated[Path | None, typer.Option("--json", help="A file with fields as JSON, regions included.")] = None,
    note: Annotated[str, typer.Option(help="Why.")] = "",
    person: Person = "",
) -> None:
    """Say what the answer should have been. It becomes an example in the next prompts of the line."""
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.words.corrections import record_correction

    db, line = InspectionDatabase.from_environment(), existing_line(name)
    row = _last_description(db, line, image)
    fields = _fields(values or [], file)
    record_correction(db, row.description_id, fields, person=person or user_name(), note=note)
    console.print(f"corrected: {', '.join(fields)}", markup=False)


@app.command()
def export(
    name: Name,
    to: Annotated[Path, typer.Option(help="A folder; it is made where it is missing.")],
    language: Annotated[str, typer.Option(help="In which the answers are. Default: VAD_VLM_LANGUAGE.")] = "",
) -> None:
    """Write the corrected answers as JSONL in the usual chat format, with pictures as files, for fine-tuning."""
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.settings import settings
    from vad_lib.words.fine_tuning import export_chat

    line = existing_line(name)
    db = InspectionDatabase.from_environment()
    made = export_chat(db, _facts(line), to.resolve(), language or settings().vlm_language)
    console.print(f"{made.file}: {made.examples} examples", markup=False)
    for path in made.lost:
        console.print(f"  not taken along, since the image is gone or another lies in its place: {path}", markup=False)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A line, to see whether its plan lets pictures go there.")] = "",
) -> None:
    """Ask the endpoint for its models, and about a drawn picture in each form, and say what works."""
    from vad_lib.words.checking import check_rungs
    from vad_lib.words.client import Client, EndpointError
    from vad_lib.words.endpoint import Endpoint

    endpoint = Endpoint.required()
    where = "on this machine" if endpoint.is_local else "not on this machine: a plan has to allow_images_to_leave"
    console.print(f"{endpoint.url} ({where})", markup=False)
    if name:
        line = existing_line(name)
        endpoint.require_leave(line.name, _facts(line).allow_images_to_leave)
    try:
        with closing(Client(endpoint)) as client:
            models = client.models()
        there = "is among them" if endpoint.model in models else "is NOT among them: see VAD_VLM_MODEL"
        console.print(f"models: {', '.join(models) or 'none'}; {endpoint.model} {there}", markup=False)
    except EndpointError as error:
        console.print(f"models: {error}", markup=False)
    table = new_table("form asked for by", "replied", "has the form", ">seconds", ">tokens", "said")
    checks = check_rungs(endpoint)
    for one in checks:
        said = (YES_OR_NO[one.replied], YES_OR_NO[one.structured], f"{one.seconds:.1f}", one.tokens, one.said)
        table.add_row(*_cells(one.rung, *said))
    console.print(table)
    used = next((one for one in checks if one.replied), None)
    if used is None:
        raise InputError("The endpoint does not reply: findings cannot be described.")
    verb = "have" if used.structured else "do not have"
    console.print(f"Descriptions ask by {used.rung}, and replies {verb} the form.", markup=False)


def _facts(line: Line) -> LineFacts:
    from vad_dagster.finding_words import ModelMaps, line_facts
    from vad_dagster.resources import MLflowTracking

    return line_facts(line, ModelMaps(MLflowTracking()))


def _last_description(db: InspectionDatabase, line: Line, image: str) -> Row[Any]:
    from vad_lib.inspection_db.labels import find_prediction
    from vad_lib.words.describing import newest_description

    prediction = find_prediction(db, line.name, image)
    row = newest_description(db, prediction.prediction_id)
    if row is None:
        raise InputError(f"{image} has no description yet: `vad describe run {line.name} {prediction.prediction_id}`.")
    return row


def _fields(values: list[str], file: Path | None) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if file is not None:
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read as JSON: {error}") from error
        if not isinstance(fields, dict):
            raise InputError(f"{file} must hold a JSON object of fields.")
    for value in values:
        field, equals, text = value.partition("=")
        if not equals:
            raise InputError(f"--set {value}: write a field and its value, such as --set summary='It is dust.'")
        fields[field.strip()] = text
    if not fields:
        raise InputError("Say what the answer should have been: --set summary='It is dust.', or --json FILE.")
    return fields


def _print_description(db: InspectionDatabase, row: Row[Any]) -> None:
    from vad_lib.inspection_db.lineage import prediction_by_id
    from vad_lib.words.describing import answer_of

    record = prediction_by_id(db, row.line, row.prediction_id)
    image = Path(record.path).name if record is not None else "?"
    detector = f"the detector says {record.predicted}" if record is not None else ""
    console.print(f"[bold]{row.prediction_id}[/bold] ", end="")
    console.print(f"{_plain(image)}: {detector}", markup=False)
    if row.state != "done":
        console.print(f"  {row.state}: {_plain(row.error or 'it was not described yet')}", markup=False)
        return
    answer = answer_of(row)
    for text in _lines_of(answer) if answer else [f"(without form) {_plain(row.raw_reply)}"]:
        console.print(f"  {text}", markup=False)
    if row.agrees is False:
        console.print("  The model does not agree with the detector: somebody should look.", style="yellow")
    tokens = (row.prompt_tokens or 0) + (row.completion_tokens or 0)
    left = "; pictures left this machine" if row.left_machine else ""
    console.print(f"  by {row.model} at {row.endpoint}, {tokens} tokens, {row.seconds:.1f} s{left}", markup=False)


def _lines_of(answer: Answer) -> list[str]:
    return [
        f"{answer.summary} (anomaly: {answer.anomaly}, confidence: {answer.confidence})",
        *(
            f"{region.number}. {region.kind}, {region.place}, severity {region.severity}: {region.description}"
            for region in answer.regions
        ),
        f"against the reference: {answer.reference_difference}",
        f"look next: {answer.next_check}",
    ]


def _plain(value: object) -> str:
    from vad_lib.words.answer import plain_text

    return plain_text(str(value), 2000)


def _cells(*values: object) -> list[str]:
    """Return values as cells of a table, in which square brackets would else be taken for markup."""
    from rich.markup import escape

    return [escape(_plain(value)) for value in values]


def _show_progress(update: ProgressUpdate) -> None:
    stderr.print(str(update), markup=False)
