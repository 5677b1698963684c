"""``vad bench …``: all detectors beside one another on the same images."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vad_dagster.cli.console import console, stderr
from vad_lib.atomic_files import write_whole

if TYPE_CHECKING:
    import pandas as pd

    from vad_lib.comparison.image_sets import ImageSet
    from vad_lib.comparison.running import Candidate, Compared
    from vad_lib.detectors.registry import RegisteredDetector

app = typer.Typer(no_args_is_help=True, help="All detectors beside one another on the same images.")

Detectors = Annotated[list[str] | None, typer.Option("--detector", help="Only this one; may be given several times.")]
Encoders = Annotated[
    list[str] | None,
    typer.Option("--encoder", help="An encoder (a name, file or folder) for the detectors that take any; repeatable."),
]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--set", help="An argument in model_parameters, NAME=VALUE, for detectors that have it; repeatable."),
]
RandomClip = Annotated[
    bool, typer.Option("--random-clip", help="Show with a small CLIP of random weights that all parts work together.")
]
Size = Annotated[int, typer.Option(help="Pixels of a side of the images that detectors get.")]
Epochs = Annotated[int, typer.Option(help="Most epochs of detectors that train in epochs.")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn at random.")]


@app.command("paintings")
def paintings(
    photos: Annotated[Path | None, typer.Option(help="A folder with a photograph of each painting.")] = None,
    out: Annotated[Path, typer.Option(help="Where the images, the tables and the page go.")] = Path("var/paintings"),
    detectors: Detectors = None,
    encoders: Encoders = None,
    arguments: Arguments = None,
    random_clip: RandomClip = False,
    images: Annotated[int, typer.Option(min=10, help="Normal images of each painting to learn from.")] = 60,
    size: Size = 256,
    epochs: Epochs = 15,
    seed: Seed = 0,
    sort: Annotated[bool, typer.Option("--sort", help="Copy the test images into folders by decision, too.")] = False,
) -> None:
    """Make a set of images of paintings, run every detector on it, and print how they compare."""
    from vad_lib.comparison.document import FIGURES, NOTE
    from vad_lib.comparison.image_sets import painting_sets
    from vad_lib.comparison.pages import mean_table
    from vad_lib.synthetic.paintings import make_paintings, read_photographs

    candidates = _candidates(detectors, encoders, arguments, out / "random_clip" if random_clip else None)
    made = make_paintings(out / "images", read_photographs(photos), seed, train=images)
    sets = list(painting_sets(made))
    results = _run(candidates, sets, size, epochs, seed, out)
    more = {"Means over the paintings": mean_table(results), "The study that this protocol follows": FIGURES}
    told = [*(one.described() for one in sets), NOTE]
    if photos is None:
        told.insert(0, "No folder of paintings was given: two photographs of scikit-image take their place.")
    _tell("Detectors on paintings", told, results, more, out)
    if sort:
        _sort(results, out / "sorted")
    _track("bench-paintings", results, out)


@app.command("detectors")
def detectors_(
    folders: Annotated[list[Path], typer.Argument(help="Image sets with the folders of MVTec AD.")],
    out: Annotated[Path, typer.Option(help="Where the tables and the page go.")] = Path("var/detectors"),
    detectors: Detectors = None,
    encoders: Encoders = None,
    arguments: Arguments = None,
    random_clip: RandomClip = False,
    drawn: Annotated[bool, typer.Option("--drawn", help="Add the drawn line of the demo.")] = False,
    most_normal: Annotated[int, typer.Option(help="Most normal images of a folder to learn from; 0 takes all.")] = 0,
    most_of_each_kind: Annotated[int, typer.Option(help="Most images of a kind to report on; 0 takes all.")] = 0,
    size: Size = 256,
    epochs: Epochs = 15,
    seed: Seed = 42,
) -> None:
    """Run every detector on image sets, and print how they compare, with time and memory."""
    from vad_lib.comparison.image_sets import drawn_set, folder_set
    from vad_lib.synthetic.demo_line import make_demo_line

    candidates = _candidates(detectors, encoders, arguments, out / "random_clip" if random_clip else None)
    sets = [folder_set(folder, most_normal, most_of_each_kind) for folder in folders]
    with tempfile.TemporaryDirectory() as temporary:
        if drawn:
            sets.append(drawn_set(make_demo_line(Path(temporary), seed), most_normal, most_of_each_kind))
        results = _run(candidates, sets, size, epochs, seed, out)
        _tell("Detectors beside one another", [one.described() for one in sets], results, {}, out)
    _track("bench-detectors", results, out)


def _candidates(
    detectors: Sequence[str] | None,
    encoders: Sequence[str] | None,
    arguments: Sequence[str] | None,
    random_clip: Path | None,
) -> list[Candidate]:
    """Return what to run: each detector as it is, and once more for each encoder where it takes any.

    Raises:
        InputError: there is no such detector, or none of those that run has such an argument.
        PlanError: the argument does not take that value.
    """
    from vad_lib.comparison.running import Candidate
    from vad_lib.detectors.registry import find_detector, registered
    from vad_lib.errors import InputError
    from vad_lib.plan.checking import check_arguments
    from vad_lib.plan.faults import PlanProblems

    rows = [find_detector(name) for name in detectors] if detectors else list(registered().values())
    said = {name.strip(): value for name, _, value in (text.partition("=") for text in arguments or ())}
    if unknown := [name for name in said if not any(name in row.arguments.model_fields for row in rows)]:
        raise InputError(f"None of the detectors that run has an argument {unknown[0]!r} in model_parameters.")
    problems = PlanProblems()

    def own(row: RegisteredDetector) -> dict[str, Any]:
        of_row = {name: value for name, value in said.items() if name in row.arguments.model_fields}
        checked = check_arguments(row.arguments, of_row, problems, "model_parameters")
        problems.raise_faults("--set")
        return checked

    found = [Candidate(row.name, own(row)) for row in rows]
    for encoder in encoders or ():
        note = Path(encoder).name
        with_encoder = [(row, row.arguments.with_encoder(encoder)) for row in rows]
        # a detector that takes no encoder is not run twice
        found += [Candidate(row.name, own(row) | choice, note) for row, choice in with_encoder if choice]
    if random_clip is not None:
        from vad_lib.comparison.random_clip import write_random_clip

        write_random_clip(random_clip)
        note = "random CLIP, which shows only that it runs"
        on_clip = [(row, row.arguments.on_random_clip(random_clip)) for row in rows]
        found += [Candidate(row.name, own(row) | choice, note) for row, choice in on_clip if choice]
    return found


def _run(
    candidates: Sequence[Candidate], sets: Sequence[ImageSet], size: int, epochs: int, seed: int, out: Path
) -> list[Compared]:
    """Run all, and keep what there is after each: a run that is stopped has not worked for nothing."""
    from vad_lib.comparison.pages import result_table
    from vad_lib.comparison.running import compare
    from vad_lib.progress import format_seconds

    results: list[Compared] = []
    begun = time.monotonic()
    total = len(candidates) * len(sets)
    for candidate in candidates:
        for images in sets:
            left = (total - len(results)) * (time.monotonic() - begun) / max(1, len(results))
            estimate = f", about {format_seconds(left)} left" if results else ""
            with stderr.status(f"{len(results)} of {total}{estimate}: {candidate.detector} on {images.name}"):
                one = compare(candidate, images, size=size, max_epochs=epochs, seed=seed)
            results.append(one)
            out.mkdir(parents=True, exist_ok=True)
            result_table(results).to_csv(out / "results.csv", index=False)
            found = f"image AUROC {one.evaluation.image_auroc:.3f}" if one.evaluation else f"not run: {one.reason}"
            stderr.print(f"{candidate.detector} on {images.name}: {found}", markup=False)
    return results


def _tell(
    title: str, told: Sequence[str], results: Sequence[Compared], more: dict[str, pd.DataFrame], out: Path
) -> None:
    from vad_lib.comparison.pages import as_markdown, comparison_page, not_run_table, recall_table, result_table

    tables = {
        "Results": result_table(results),
        **more,
        "Found, of all anomalous images": recall_table(results),
        "Not run": not_run_table(results),
    }
    tables = {heading: table for heading, table in tables.items() if len(table)}
    text = "\n\n".join((*told, *(f"{name}\n\n{as_markdown(table)}" for name, table in tables.items())))
    write_whole(out / "results.md", f"{text}\n".encode())
    write_whole(out / "index.html", comparison_page(title, told, results, tables).encode())
    console.print(text, markup=False)
    console.print(f"\nA page with pictures: {out / 'index.html'}", markup=False)


def _sort(results: Sequence[Compared], folder: Path) -> None:
    """Copy each test image into ``DETECTOR/SET/anomaly`` or ``DETECTOR/SET/non_anomaly``, by what was decided."""
    import shutil

    from vad_lib.synthetic.paintings import ANOMALY, NORMAL

    for one in results:
        for row in one.rows.to_dict("records"):
            decided = ANOMALY if row["predicted"] == "NG" else NORMAL
            target = folder / one.candidate.detector / one.images / decided
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(row["file"], target / Path(row["file"]).name)


def _track(name: str, results: Sequence[Compared], out: Path) -> None:
    """Record a run in MLflow: the tables, the page, and a metric for each detector and set."""
    from vad_dagster.resources.tracking import MLflowTracking

    with MLflowTracking().run(name, name=name) as run:
        import mlflow

        for one in results:
            if one.evaluation is not None:
                key = f"{one.candidate.detector}/{one.images}".replace(" ", "_")
                mlflow.log_metrics({f"{key}/{metric}": value for metric, value in one.evaluation.headlines().items()})
        for file in ("results.csv", "results.md", "index.html"):
            mlflow.log_artifact(str(out / file))
        console.print(f"In MLflow: {run.url}", markup=False)
