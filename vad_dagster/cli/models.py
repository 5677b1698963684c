"""``vad model …``: the versions of a line, which one serves, and adding normal images to it without a fit."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vad_dagster.cli.console import console, new_table
from vad_dagster.cli.lines import existing_line
from vad_lib.errors import VadError
from vad_lib.progress import format_seconds

if TYPE_CHECKING:
    from vad_dagster.registry import LineRegistry
    from vad_lib.inspection_db.audit import Actor

app = typer.Typer(no_args_is_help=True, help="Versions of a line's model: list, promote, roll back, extend.")

Name = Annotated[str, typer.Argument(help="Name of the line.")]
By = Annotated[str, typer.Option(help="Who decides; kept on the version. Default: the user of this machine.")]
SHOWN = ("image_auroc", "f1", "fn", "fp")


@app.command("list")
def list_(name: Name) -> None:
    """List the versions of a line, the newest first: numbers, which one serves, where each comes from."""
    registry = _registry(name)
    versions = registry.versions()
    if not versions:
        console.print(f"Line {name} has no version yet: vad train {name}", markup=False)
        return
    table = new_table("version", "is", "detector", ">image AUROC", ">F1", ">misses", ">false alarms", "from")
    for version in versions:
        origin = version.tags.get("extended_from", "")
        added = f"{origin} and {version.tags.get('images_added')} images" if origin else "a training"
        numbers = (_short(version.tags.get(number, "")) for number in SHOWN)
        cells = (version.number, ", ".join(version.aliases), version.tags.get("detector", ""), *numbers, added)
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)


@app.command("show")
def show(
    name: Name, version: Annotated[str, typer.Argument(help="Number, or champion, challenger, previous.")] = "champion"
) -> None:
    """Show one version: its story, its tags, and the pages of it and of what it predicted."""
    from vad_dagster.provenance import line_events_page, model_pages, results_page
    from vad_dagster.resources.tracking import MLflowTracking

    registry = _registry(name)
    found = registry.named(version)
    console.print(f"{found.label} ({', '.join(found.aliases) or 'no alias'})", style="bold green", markup=False)
    console.print(found.description, markup=False)
    pages = {
        "predictions": results_page(name, version=found.number),
        "inspections in Dagster": line_events_page(name),
        **{f"{what} in MLflow": page for what, page in model_pages(MLflowTracking(), found.label).items()},
    }
    for what, page in pages.items():
        console.print(f"{what}: {page}", markup=False, soft_wrap=True)
    table = new_table("tag", "value")
    for tag, value in sorted(found.tags.items()):
        table.add_row(escape(tag), escape(value))
    console.print(table)


@app.command("compare")
def compare(
    name: Name,
    challenger: Annotated[str, typer.Argument(help="Number, or challenger, previous.")] = "",
    champion: Annotated[str, typer.Option(help="Number: beside which version. Default: the one that serves.")] = "",
    images: Annotated[int, typer.Option(help="At most so many images on which they differ.", min=0)] = 20,
) -> None:
    """Compare two versions on the live images that both have scored, and list those on which they differ.

    Without CHALLENGER it is the newest version that does not serve or, where there is none, the one that served before.
    """
    from vad_dagster.registry import CHALLENGER, PREVIOUS
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.inspection_db.version_comparison import compare_versions, differing_images

    registry, db = _registry(name), InspectionDatabase.from_environment()
    serving = registry.named(champion) if champion else registry.champion()
    other = CHALLENGER if registry.at(CHALLENGER) is not None else PREVIOUS
    labels = serving.label, registry.named(challenger or other).label
    found = compare_versions(db, name, *labels)
    console.print(f"{labels[0]} (champion) beside {labels[1]} (challenger)", style="bold", markup=False)
    console.print(found.live.in_words(), markup=False)
    console.print(found.judged.in_words(), markup=False)
    differ = differing_images(db, name, *labels, page=images) if images else []
    if differ:
        table = new_table(">prediction", "champion", ">p", "challenger", ">p", "people", "image")
        for image in differ:
            says = (image.champion, f"{image.champion_p:.3f}", image.challenger, f"{image.challenger_p:.3f}")
            table.add_row(*(escape(cell) for cell in (str(image.prediction_id), *says, image.label, image.path)))
        console.print(table)


@app.command("promote")
def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="Number, or challenger.")] = "challenger",
    by: By = "",
    reason: Annotated[str, typer.Option(help="Why; kept on the version and in the audit.")] = "",
) -> None:
    """Let a version serve. The one that served before stays as previous: vad model rollback."""
    from vad_dagster.promotions import promote_by_person
    from vad_lib.inspection_db import InspectionDatabase

    registry = _registry(name)
    serving = promote_by_person(InspectionDatabase.from_environment(), registry, version, _person(by), reason)
    _say_who_serves(registry, name, serving.label)


@app.command("rollback")
def rollback(
    name: Name, by: By = "", reason: Annotated[str, typer.Option(help="Why; kept in the audit.")] = ""
) -> None:
    """Let the version serve again that served before. A second time goes forward again."""
    from vad_dagster.promotions import roll_back_by_person
    from vad_lib.inspection_db import InspectionDatabase

    registry = _registry(name)
    serving = roll_back_by_person(InspectionDatabase.from_environment(), registry, _person(by), reason)
    _say_who_serves(registry, name, serving.label)


@app.command("threshold")
def threshold(
    name: Name,
    value: Annotated[float, typer.Argument(help="On the raw score; NG at or above it. The threshold table has them.")],
    reason: Annotated[str, typer.Option(help="Why; kept on the version and in the audit.")],
    by: By = "",
) -> None:
    """Let the version that serves go on with another threshold, as a version of its own. Nothing is fitted."""
    from vad_dagster.resources.tracking import MLflowTracking
    from vad_dagster.thresholds import save_threshold
    from vad_lib.inspection_db import InspectionDatabase

    line = existing_line(name)
    db = InspectionDatabase.from_environment()
    made = save_threshold(db, MLflowTracking(), line.name, value, _person(by), reason)
    _say_who_serves(_registry(name), name, made.label)


@app.command("unpin")
def unpin(name: Name, by: By = "") -> None:
    """Let the rule decide again which version serves. Until then the one that a person chose stays."""
    registry = _registry(name)
    chosen_by = registry.chosen_by()
    registry.lift_choice(by=by.strip() or getpass.getuser())
    who = f"It was chosen by {chosen_by}. " if chosen_by else "No person had chosen it. "
    console.print(f"{registry.champion().label} serves line {name}. {who}The rule decides from now on.", markup=False)


@app.command("extend")
def extend(
    name: Name,
    images: Annotated[list[Path], typer.Argument(help="Normal images, or folders of them, that you have looked at.")],
    promote: Annotated[bool, typer.Option("--promote", help="Let the new version serve at once.")] = False,
    by: By = "",
) -> None:
    """Let the champion learn further normal images without training again, where its detector can.

    The result is a new version, the challenger, measured beside the champion on the same validation rows. Images that
    the model knows are passed over; unreadable ones, validation images, and what the table calls anomalous are refused.
    """
    from vad_dagster.cli.line_run import run_for_line
    from vad_dagster.cli.server import open_instance
    from vad_lib.extending import find_images

    line = existing_line(name)
    files = [str(file.resolve()) for file in find_images(images)]
    config = {"images": files, "promote": promote, "decided_by": by.strip() or getpass.getuser()}
    with open_instance() as instance:
        outcome = run_for_line(instance, line, "extend_line", {}, {"extended_model": config})
    if not outcome.succeeded:
        raise VadError(outcome.why(name, "extended"))
    page = outcome.metadata["extended_model"]
    console.print(f"{name} extended in {format_seconds(outcome.seconds)}.", style="bold green", markup=False)
    for label in ("model version", "extended from", "images added", "rows before", "rows added"):
        console.print(f"  {label}: {page[label]}", markup=False)
    console.print(f"  threshold: {page['threshold before']:.6g} before, {page['threshold']:.6g} now", markup=False)
    console.print(page["beside the champion"], markup=False)
    console.print(page["notices"], markup=False)
    if not promote:
        console.print(f"To let it serve: vad model promote {name}", markup=False)
    console.print(f"To go back, once it serves: vad model rollback {name}", markup=False)


def _registry(name: str) -> LineRegistry:
    from vad_dagster.registry import LineRegistry
    from vad_dagster.resources.tracking import MLflowTracking

    return LineRegistry(MLflowTracking(), existing_line(name).name)


def _person(by: str) -> Actor:
    from vad_lib.inspection_db.audit import Actor

    return Actor(by.strip() or getpass.getuser())


def _say_who_serves(registry: LineRegistry, name: str, label: str) -> None:
    from vad_dagster.registry import PREVIOUS

    previous = registry.at(PREVIOUS)
    before = f"; {previous.label} is the previous one" if previous is not None else ""
    console.print(
        f"{label} serves line {name}{before}. It stays until a person chooses another, or lifts this choice: "
        f"vad model unpin {name}",
        markup=False,
    )


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value or "–"
