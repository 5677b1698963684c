"""``vad line …``: add, list, pause and remove inspection lines."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from vad_dagster.cli.console import console, new_table, user_name
from vad_lib.atomic_files import write_whole
from vad_lib.detectors.registry import FIRST_CHOICE, find_detector
from vad_lib.errors import InputError
from vad_lib.images.paths import is_image_name
from vad_lib.lines import Home, Line

if TYPE_CHECKING:
    from vad_lib.inspection_db.database import DecisionCounts

app = typer.Typer(no_args_is_help=True, help="Add, list, pause and remove inspection lines.")


def existing_line(name: str) -> Line:
    """Return a line that has a plan.

    Raises:
        InputError: there is none of that name; the message names those that exist.
    """
    home = Home.from_environment()
    line = home.line(name)
    if line.plan_file.is_file():
        return line
    names = [other.name for other in home.lines()]
    there = f"There are: {', '.join(names)}." if names else "There is none yet."
    raise InputError(f"There is no line {name!r} in {home.lines_folder}. {there} `vad line add` makes one.")


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Name of the line: letters, digits, '-' and '_'.")],
    plan: Annotated[
        Path | None, typer.Option(help="An experimental_plan.yaml. Its relative paths keep their meaning.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="A folder of images instead of a plan: normal images only, or good/ beside folders of defective "
            "ones (train/ and test/ above them are understood). A table and a plan are written."
        ),
    ] = None,
    ok_class: Annotated[
        str, typer.Option(help="With --images: the folder of normal images, if it is not good, ok or normal.")
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            help="Instead of a plan: the detector, as a plan's model_name. One that needs no images is enough without "
            f"--images; with them {FIRST_CHOICE} is taken where nothing is said."
        ),
    ] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Replace the plan of a line that exists.")] = False,
) -> None:
    """Make a line from a plan, from a folder of images, or from a detector that needs none. The plan is checked first;
    a wrong one changes nothing."""
    if (plan is not None) == (images is not None or bool(model)):
        raise InputError(
            "Give either --plan FILE or --images FOLDER, or without images --model with a detector that needs none."
        )
    line = Home.from_environment().line(name)
    if line.plan_file.exists() and not replace:
        raise InputError(f"Line {name!r} exists: {line.plan_file}. Give --replace to replace its plan.")
    made = add_line(line, plan=plan, images=images, ok_class=ok_class, model=model)
    register(line)
    for notice in made:
        console.print(f"note: {notice}", markup=False)
    console.print(f"Line {name}: {line.plan_file}", markup=False)
    console.print(f"Next: vad train {name}", markup=False)


def add_line(
    line: Line, *, plan: Path | None = None, images: Path | None = None, ok_class: str = "", model: str = ""
) -> tuple[str, ...]:
    """Write the line's folder and plan, and return what the user should know.

    Without ``plan`` and ``images`` the plan is that of ``model``, a detector that needs no images.

    Raises:
        PlanError, InputError: the plan or the folder cannot be used; nothing was written to the line's folder.
    """
    from vad_lib.plan.reading import read_plan

    if plan is not None:
        if not plan.is_file():
            raise InputError(f"There is no plan {plan}.")
        base = plan.resolve().parent
        read = read_plan(plan, base)
        read.find_train_data(base)
        read.watch_folder(line.inbox, base)
        line.inbox.mkdir(parents=True, exist_ok=True)
        if plan.resolve() != line.plan_file.resolve():
            write_whole(line.plan_file, plan.read_bytes())
            line.remember_base_folder(base)
        return read.notices
    arguments = find_detector(model or FIRST_CHOICE).arguments
    choices = arguments.recommended(has_images=images is not None) | {"model_name": model or FIRST_CHOICE}
    return _from_images(line, images, ok_class, choices) if images is not None else _without_images(line, choices)


def _from_images(line: Line, images: Path, ok_class: str, choices: dict[str, Any]) -> tuple[str, ...]:
    from vad_lib.labelled_folder import label_folder
    from vad_lib.plan.reading import read_plan
    from vad_lib.plan.writing import dump_plan, write_plan_for_folder

    labelled = label_folder(images, ok_class=ok_class)
    partial = line.folder / ".plan.partial"
    line.inbox.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    try:
        written = write_plan_for_folder(labelled.folder, partial, **{**choices, **labelled.choices})
        if labelled.split_column:
            # train/ and test/ together are the training data: one fits, the other validates
            paths = written.paths.model_copy(update={"train_data": str(labelled.folder)})
            text = dump_plan(written.model_copy(update={"paths": paths}), comments=True)
            partial.write_text(text, encoding="utf-8")
        read_plan(partial, line.folder)
        partial.replace(line.plan_file)
    finally:
        partial.unlink(missing_ok=True)
    line.remember_base_folder(labelled.folder)
    return labelled.notices


def _without_images(line: Line, choices: dict[str, Any]) -> tuple[str, ...]:
    from vad_lib.labelled_folder import ONLY_NORMAL_PERCENTILE
    from vad_lib.plan.writing import dump_plan, plan_without_images

    plan = plan_without_images(line.name, **{**choices, "percentile": ONLY_NORMAL_PERCENTILE})
    line.inbox.mkdir(parents=True, exist_ok=True)
    write_whole(line.plan_file, dump_plan(plan, comments=True).encode())
    line.remember_base_folder(line.folder)
    return (
        "There are no training images, so nothing will be known about misses and false alarms: the first version waits "
        f"for `vad model promote {line.name}`, or serves at once with promotion: automatic in the plan's section "
        "operation.",
        f"Images to inspect arrive in {line.inbox}.",
    )


def register(line: Line) -> None:
    """Make the line known to Dagster now, without waiting for the sensor."""
    from vad_dagster.cli.server import open_instance
    from vad_dagster.partitions import register_lines

    with open_instance() as instance:
        register_lines(instance, [line.name])


@app.command("list")
def list_() -> None:
    """List the lines: training images, the version that serves, and what was decided, by runs and by the service."""
    home = Home.from_environment()
    lines = home.lines()
    if not lines:
        console.print(f"There is no line yet in {home.lines_folder}. `vad line add` makes one.", markup=False)
        return
    table = new_table("line", "model", ">training images", "champion", ">OK", ">NG", "last decision (UTC)")
    faults, counted = {}, _decisions(home)
    for line in lines:
        *cells, fault = _row(home, line, counted)
        table.add_row(*(escape(cell) for cell in cells))
        if fault:
            faults[line.name] = fault
    console.print(table)
    for name, fault in [*faults.items(), *_alarms(home)]:
        console.print(f"{name}: {fault}", style="yellow", markup=False)


def _row(home: Home, line: Line, counted: Mapping[str, DecisionCounts]) -> list[str]:
    from vad_lib.errors import VadError
    from vad_lib.plan.reading import read_plan

    model, images, fault = "", "", ""
    try:
        plan = read_plan(line.plan_file, line.base_folder)
        model = plan.train.model_name
        folder = plan.find_train_data(line.base_folder)
        images = str(_count_images(folder) if folder else 0)
    except VadError as error:
        fault = str(error).splitlines()[0]
    found = counted.get(line.name)
    decisions = [str(found.ok), str(found.ng), f"{found.last:%Y-%m-%d %H:%M}"] if found else ["0", "0", ""]
    return [line.name, model, images, _champion(home, line), *decisions, fault]


def _decisions(home: Home) -> dict[str, DecisionCounts]:
    """Return what was decided on each line; nothing where there is no database yet."""
    from vad_lib.inspection_db import InspectionDatabase

    return InspectionDatabase.of(home).decision_counts() if _has_database(home) else {}


def _alarms(home: Home) -> list[tuple[str, str]]:
    """Return lines with each alarm of drift that stands."""
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.inspection_db.monitoring import standing_alarms

    found = standing_alarms(InspectionDatabase.of(home)) if _has_database(home) else {}
    return [(line, sentence) for line, told in found.items() for sentence in told.values()]


def _has_database(home: Home) -> bool:
    """Whether there is one: to list lines makes none."""
    file = home.inspection_db_url.removeprefix("sqlite:///")
    return file == home.inspection_db_url or Path(file).exists()


def _count_images(folder: Path) -> int:
    return sum(is_image_name(file.name) for file in folder.rglob("*"))


def _champion(home: Home, line: Line) -> str:
    from vad_dagster.home import tracking_file

    if (file := tracking_file(home)) is not None and not file.exists():
        return ""
    from vad_dagster.registry import CHAMPION, LineRegistry
    from vad_dagster.resources.tracking import MLflowTracking

    found = LineRegistry(MLflowTracking(), line.name).at(CHAMPION)
    return "" if found is None else f"version {found.number}"


@app.command("pause")
def pause(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    reason: Annotated[str, typer.Option(help="Why: others will ask.")],
    person: Annotated[str, typer.Option(help="Who says so. Default: the name of the user.")] = "",
) -> None:
    """Let the images of a line wait until somebody resumes it. Nothing is lost; what is in hand is finished."""
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.inspection_db.audit import Actor
    from vad_lib.queue import pause_line, pauses

    line, db = existing_line(name), InspectionDatabase.from_environment()
    pause_line(db, line.name, Actor(person or user_name()), reason)
    held = pauses(db)[line.name]
    console.print(
        f"{line.name} is paused since {held.since:%Y-%m-%d %H:%M} UTC by {held.person}: {held.reason}", markup=False
    )
    console.print(f"Next: vad line resume {line.name}", markup=False)


@app.command("resume")
def resume(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    person: Annotated[str, typer.Option(help="Who says so. Default: the name of the user.")] = "",
) -> None:
    """Let the images of a paused line be inspected again, those that waited first."""
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.inspection_db.audit import Actor
    from vad_lib.queue import resume_line

    line = existing_line(name)
    resume_line(InspectionDatabase.from_environment(), line.name, Actor(person or user_name()), reason)
    console.print(f"{line.name} is not paused.", markup=False)


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take a line out of work. Its folder is moved aside, not deleted; models stay in MLflow, runs in Dagster."""
    home = Home.from_environment()
    line = existing_line(name)
    aside = home.root / "removed" / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    if not yes:
        typer.confirm(f"Move {line.folder} to {aside}?", abort=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    line.folder.rename(aside)
    from vad_dagster.cli.server import open_instance
    from vad_dagster.partitions import LINES_PARTITION

    with open_instance() as instance:
        instance.delete_dynamic_partition(LINES_PARTITION, name)
    console.print(f"Line {name} is out of work; its folder is now {aside}", markup=False)
