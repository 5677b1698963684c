"""``vad weights …``: the backbone weights on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vad_dagster.cli.console import console, new_table, stderr

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
