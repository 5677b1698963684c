"""The steps of the demo, in order."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vad_dagster.cli.console import console, stderr
from vad_dagster.cli.demo.daemon import running_daemon
from vad_dagster.cli.demo.report import print_report, read_models
from vad_dagster.cli.line_run import run_for_line
from vad_dagster.cli.lines import add_line
from vad_dagster.cli.results import results
from vad_dagster.cli.server import open_instance
from vad_lib.detectors.registry import FIRST_CHOICE, GUIDE_DEFAULT
from vad_lib.errors import VadError
from vad_lib.lines import Home, Line
from vad_lib.progress import format_seconds
from vad_lib.synthetic import contact_sheet, make_demo_drop, make_demo_line

if TYPE_CHECKING:
    import pandas as pd
    from dagster import DagsterInstance

LINE = "demo"
PLAN = Path(__file__).with_name("experimental_plan.yaml")
MODELS = (GUIDE_DEFAULT, FIRST_CHOICE)
BACKBONE = "resnet18"
SEED = 7
DROP_SECONDS = 300.0


@dataclass(frozen=True)
class Drop:
    """A drop that was inspected.

    Attributes:
        folder: in the inbox.
        table: one row a file: file, label, and what came of it: predicted (OK, NG or empty), p, reason.
        seconds: from the arrival of the last file to the last result.
    """

    folder: Path
    table: pd.DataFrame
    seconds: float


def run_demo(*, retrain: bool = False) -> None:
    """Make the images, train both models, inspect a drop through the daemon, and print what came of it.

    A later call finds the images and models of the first and only inspects a new drop.

    Raises:
        VadError: something on the way failed; the message says what.
    """
    began = time.monotonic()
    home = Home.from_environment()
    with open_instance() as instance:
        _refuse_without_weights(home)
        line = _make_line(home)
        for model in MODELS:
            _train(instance, home, line, model, retrain)
        stderr.print("starting the daemon")
        with running_daemon(instance, home, home.root / "demo" / "daemon.log"):
            drop = _inspect_drop(instance, home, line)
    print_report(line, read_models(line), drop)
    console.print(f"\nThe demo took {format_seconds(time.monotonic() - began)}.")


def _refuse_without_weights(home: Home) -> None:
    """Say what is missing before anything else is done."""
    from vad_lib.encoders.weights import resolve_backbone_weights

    with stderr.status("looking for backbone weights"):
        found = resolve_backbone_weights(BACKBONE, home.weights_folder)
    stderr.print(f"weights: {found.name} from {found.file or found.source}", markup=False)


def _make_line(home: Home) -> Line:
    """Write images and line, unless they are there. A plan that somebody changed stays as it is."""
    folder = home.root / "demo" / "images"
    line = home.line(LINE)
    if not (folder / "manifest.csv").is_file():
        with stderr.status("cutting photographs and drawing defects"):
            shutil.rmtree(folder, ignore_errors=True)
            partial = folder.with_name("images.partial")
            shutil.rmtree(partial, ignore_errors=True)
            make_demo_line(partial, SEED, train_normal=100)
            make_demo_drop(partial / "first_drop", SEED, prefix="first_")
            partial.rename(folder)
        files = [
            *sorted((folder / "train" / "good").iterdir())[:16],
            *sorted((folder / "train").glob("[!g]*/*_00[0-3].png")),
        ]
        contact_sheet(files).save(folder / "contact_sheet.png")
    stderr.print(f"images: {folder / 'contact_sheet.png'}", markup=False)
    if not line.plan_file.is_file():
        shutil.copyfile(PLAN, folder / PLAN.name)
        add_line(line, plan=folder / PLAN.name)
    return line


def _train(instance: DagsterInstance, home: Home, line: Line, model: str, retrain: bool) -> None:
    if not retrain and any(row.model == model for row in read_models(line)):
        stderr.print(f"{model}: trained already (--retrain trains it again)", markup=False)
        return
    outcome = run_for_line(instance, line, "train_line", {"model_name": model})
    if not outcome.succeeded:
        reasons = "\n".join(outcome.failures) or outcome.status
        raise VadError(f"{model} was not trained: {reasons}\n(run {outcome.run_id}; `vad dev` shows all of it)")
    stderr.print(f"{model}: trained in {format_seconds(outcome.seconds)}", markup=False)


def _inspect_drop(instance: DagsterInstance, home: Home, line: Line) -> Drop:
    """Let new images arrive, and wait for the sensor to see them and for the run to decide each."""
    import pandas as pd

    from vad_lib.inspection_db import InspectionDatabase

    db = InspectionDatabase.of(home)
    number = 1 + len(list(line.inbox.glob("drop_*")))
    name = f"drop_{number:03d}"
    made = make_demo_drop(home.root / "demo" / "drops" / name, SEED + number, prefix=f"{name}_")
    folder = line.inbox / name
    began = datetime.now(UTC)
    _deliver([Path(file) for file in made["file"]], folder)
    arrived = time.monotonic()
    status = stderr.status(f"{len(made)} files have arrived in {folder}")
    with status:
        while True:
            files = db.incoming_files(line.name)
            files = files[files["path"].str.startswith(f"{name}/")]
            decided = files[files["state"] != "pending"]
            seconds = time.monotonic() - arrived
            if len(decided) >= len(made):
                break
            if seconds > DROP_SECONDS:
                raise VadError(
                    f"After {format_seconds(seconds)} only {len(decided)} of the {len(made)} files in {folder} were "
                    f"inspected. See {home.root / 'demo' / 'daemon.log'}, or the runs of inspect_line in `vad dev`."
                )
            status.update(f"{len(decided)} of {len(made)} files are decided, {format_seconds(seconds)}")
            time.sleep(0.3)
        status.update("writing the artifacts")
        _wait_for_runs(instance, line)
    # Files that were complete at different moments were taken by different runs: one tree of all of them.
    results(line.name, since=began.isoformat(), before="", to=None, heatmaps=True)
    predictions = db.predictions(line.name)
    newest = predictions.drop_duplicates("sha256", keep="last").set_index("sha256")
    by_file = decided.set_index(decided["path"].map(lambda path: Path(path).name))
    rows = []
    for file, label in zip(made["file"], made["label"], strict=True):
        incoming = by_file.loc[Path(file).name]
        scored = newest.loc[incoming["sha256"]] if incoming["state"] == "done" else None
        rows.append(
            {
                "file": Path(file).name,
                "label": label,
                "predicted": "" if scored is None else scored["predicted"],
                "p": None if scored is None else scored["p"],
                "reason": incoming["reason"] or "",
            }
        )
    return Drop(folder, pd.DataFrame(rows), seconds)


def _deliver(files: list[Path], folder: Path) -> None:
    """Copy files as a careful camera does: under another name first, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        partial = folder / f".{file.name}.part"
        shutil.copyfile(file, partial)
        partial.rename(folder / file.name)


def _wait_for_runs(instance: DagsterInstance, line: Line) -> None:
    from dagster import RunsFilter

    deadline = time.monotonic() + DROP_SECONDS
    while time.monotonic() < deadline:
        runs = instance.get_runs(RunsFilter(job_name="inspect_line", tags={"dagster/partition": line.name}))
        if all(run.is_finished for run in runs):
            return
        time.sleep(0.3)
    raise VadError(f"The inspection of {line.name} does not end; `vad dev` shows its runs.")
