"""``vad export``: a model version as a folder that scores without this software. ``vad backend``: what scores here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vad_dagster.cli.console import console, stderr
from vad_dagster.cli.lines import existing_line
from vad_lib.errors import InputError
from vad_lib.images.paths import FORMATS_TEXT
from vad_lib.lines import Line

MOST_IMAGES = 300


def export(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    to: Annotated[Path, typer.Option(help="Folder to be made; an earlier export there is replaced.")],
    format: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",
    version: Annotated[str, typer.Option(help="Number of a model version. Default: the champion.")] = "",
    images: Annotated[
        Path | None, typer.Option(help="Images to compare on. Default: the validation images of the line.")
    ] = None,
) -> None:
    """Write a model as a folder that scores with one short script, after both decided alike on validation images."""
    from vad_dagster.home import prepare_home
    from vad_dagster.plans import plan_of
    from vad_dagster.registry import LineRegistry
    from vad_dagster.resources import MLflowTracking
    from vad_lib.export.folder import FORMATS, export_model
    from vad_lib.models import InspectionModel

    line = existing_line(name)
    if format not in FORMATS:
        raise InputError(f"--format {format}: there are {', '.join(FORMATS)}.")
    prepare_home()
    registry = LineRegistry(MLflowTracking(), line.name)
    chosen = registry.version(version) if version else registry.champion()
    with stderr.status(f"exporting {chosen.label} and comparing it with the model"):
        parity = export_model(
            InspectionModel.load(registry.folder(chosen)),
            _images(line, images),
            format,
            to,
            model_version=chosen.label,
            inference_threshold=plan_of(line).inference.inference_threshold,
        )
    console.print(f"{chosen.label} exported as {format}: {to}", style="bold green")
    console.print(f"  the same decisions as the model: {parity.in_words()}", markup=False)
    console.print(f"  try it: python {to / 'score.py'} FOLDER_OF_IMAGES", markup=False)


def backend(
    name: Annotated[str, typer.Argument(help="Name of the line.")],
    images: Annotated[
        Path | None, typer.Option(help="Images to compare on. Default: the validation images of the line.")
    ] = None,
) -> None:
    """Measure which backend scores the champion fastest on this machine, and let it score if it decides alike.

    The inference service does so by itself, once for each version; this measures anew. $VAD_SCORING_BACKEND (auto,
    torch, openvino, onnx) is the switch.
    """
    from vad_dagster.home import prepare_home
    from vad_dagster.registry import LineRegistry
    from vad_dagster.resources import MLflowTracking
    from vad_lib.compiled import load_for_scoring

    line = existing_line(name)
    prepare_home()
    registry = LineRegistry(MLflowTracking(), line.name)
    champion = registry.champion()
    with stderr.status(f"measuring {champion.label}"):
        _, choice = load_for_scoring(registry.folder(champion), images=_images(line, images), again=True)
    console.print(f"{champion.label} is scored by {choice.in_words()}", style="bold green", markup=False)
    for other, parity in choice.parity.items():
        console.print(f"  {other} beside torch: {parity.in_words()}", markup=False)


def _images(line: Line, folder: Path | None) -> list[Path]:
    """Return at most ``MOST_IMAGES``, spread evenly over all."""
    if folder is not None:
        from vad_lib.images.paths import IMAGE_SUFFIXES

        found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    else:
        from vad_dagster.values import last_dataset

        if (dataset := last_dataset(line)) is None:
            raise InputError(
                f"Line {line.name!r} was not trained on this machine, so its validation images are not known: "
                "name a folder of images to compare on with --images."
            )
        found = [Path(file) for file in dataset.valid_rows["file"]]
    if not found:
        place = folder or "the validation rows: name a folder of images to compare on with --images"
        raise InputError(f"There is no {FORMATS_TEXT} image in {place}.")
    step = -(-len(found) // MOST_IMAGES)
    return found[::step]
