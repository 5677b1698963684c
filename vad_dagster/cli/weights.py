"""``vad weights …``: the backbone weights on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vad_dagster.cli.console import console, new_table, shown_progress, stderr

if TYPE_CHECKING:
    from vad_lib.encoders.weight_file import BackboneWeights

app = typer.Typer(no_args_is_help=True, help="Backbone weights: $VAD_WEIGHTS, else $VAD_HOME/weights.")


@app.command("list")
def list_() -> None:
    """List the weights that are here."""
    from vad_lib.encoders.weights import list_weights
    from vad_lib.lines import Home

    store = Home.from_environment().weights_folder
    found = list_weights(store)
    if not found:
        console.print(
            f"No weights in {store}. Fetch some (`vad weights fetch resnet18`), or bring a file from a machine with "
            "network (`vad weights add FILE --name resnet18`).",
            markup=False,
        )
        return
    table = new_table("backbone", "library", "file", "source", "licence", "sha256")
    for one in found:
        values = (one.name, one.library, one.file, one.source, one.licence, one.sha256[:16])
        table.add_row(*(escape(str(value)) for value in values))
    console.print(table)
    for one in found:
        _warn(one)


@app.command("add")
def add(
    file: Annotated[
        Path,
        typer.Argument(help="A .safetensors, .pth or .pt file of plain tensors, or a folder of open_clip."),
    ],
    name: Annotated[
        str,
        typer.Option(
            help="timm's name of the backbone, such as resnet18, or a name for the folder. Default: what the name of "
            "the file or folder says."
        ),
    ] = "",
    detector: Annotated[
        str, typer.Option(help="The detector that the file is of, where it is not a backbone's weights.")
    ] = "",
) -> None:
    """Copy weights into the store, after reading them without unpickling."""
    from vad_lib.encoders.weights import add_weights

    if detector:
        from vad_lib.detectors.registry import find_detector
        from vad_lib.lines import Home

        store = Home.from_environment().weights_folder
        console.print(str(find_detector(detector).load_class().add_file(file, name, store)), markup=False)
        return
    added = add_weights(file, name or None)
    console.print(f"{added.name}: {added.file}", markup=False)
    _warn(added)


def _warn(weights: BackboneWeights) -> None:
    from vad_lib.encoders.clip_folder import warning_of

    if warning := warning_of(weights):
        stderr.print(warning, style="yellow", markup=False)


@app.command("learn")
def learn(
    name: Annotated[str, typer.Argument(help="How plans will call what is learnt.")],
    folders: Annotated[
        list[Path],
        typer.Argument(help="Image sets of other products: train/good, test/KIND, and masks in ground_truth/KIND."),
    ],
    detector: Annotated[str, typer.Option(help="The detector that learns, as a plan's model_name.")],
    encoder: Annotated[str, typer.Option(help="A CLIP folder; with --kind vectors any backbone.")],
    lines: Annotated[
        list[str] | None,
        typer.Option("--line", help="A line that will be inspected with it: its images are refused. Repeatable."),
    ] = None,
    kind: Annotated[str, typer.Option(help="prompts, for a CLIP; vectors, for any encoder.")] = "prompts",
    levels: Annotated[
        list[int] | None, typer.Option("--level", help="A layer from 1; repeatable. Default: the detector's.")
    ] = None,
    size: Annotated[int, typer.Option(help="Pixels of a side of the images.")] = 518,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 15,
    most_of_each_kind: Annotated[int, typer.Option(help="Most damaged images of a kind; 0 takes all.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the start and of the order.")] = 42,
) -> None:
    """Learn from images of other products what damage looks like, for lines that have no images to learn from."""
    from vad_dagster.cli.lines import existing_line
    from vad_lib.comparison.image_sets import masked_images
    from vad_lib.detectors.masked_images import LearningSettings
    from vad_lib.detectors.registry import find_detector
    from vad_lib.encoders.store import sha256_of
    from vad_lib.images.paths import is_image_name
    from vad_lib.lines import Home
    from vad_lib.plan import read_plan

    under_test = set()
    for line in map(existing_line, lines or ()):
        folder = read_plan(line.plan_file, line.base_folder).find_train_data(line.base_folder)
        files = folder.rglob("*") if folder else ()
        under_test |= {sha256_of(file) for file in files if is_image_name(file.name) and file.is_file()}
    images = [one for folder in folders for one in masked_images(folder, most_of_each_kind)]
    store = Home.from_environment().weights_folder
    how = LearningSettings(encoder, store, kind, tuple(levels or ()), size, epochs, seed)
    learner = find_detector(detector).load_class()
    with shown_progress("learning") as show:
        file, arguments = learner.learn_file(images, name, how, line_sha256=under_test, progress=show)
    console.print(f"{file}: learnt from {len(images)} images", markup=False)
    console.print(f"For a plan with model_name: {detector}, under model_parameters:", markup=False)
    for argument, value in arguments.items():
        console.print(f"  {argument}: {value}", markup=False)


@app.command("fetch")
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="timm's name of the backbone, such as wide_resnet50_2, or the repository OWNER/NAME of a folder of "
            "open_clip."
        ),
    ],
) -> None:
    """Download weights into the store (the one command that needs a network)."""
    from vad_lib.encoders.weights import fetch_weights

    with stderr.status(f"fetching {name}"):
        fetched = fetch_weights(name)
    console.print(f"{name}: {fetched}", markup=False)
