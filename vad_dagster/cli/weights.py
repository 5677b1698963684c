"""``vad weights …``: the backbone weights on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from vad_dagster.cli.console import console, new_table, stderr

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
    table = new_table("backbone", "file", "source", "sha256")
    for weights in found:
        table.add_row(*(escape(str(v)) for v in (weights.name, weights.file, weights.source, weights.sha256[:16])))
    console.print(table)


@app.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="A .safetensors, .pth or .pt file of plain tensors.")],
    name: Annotated[
        str, typer.Option(help="timm's name of the backbone, such as resnet18. Default: what the file's name says.")
    ] = "",
) -> None:
    """Copy a file of weights into the store, after reading it without unpickling."""
    from vad_lib.encoders.weights import add_weights

    added = add_weights(file, name or None)
    console.print(f"{added.name}: {added.file}", markup=False)


@app.command("fetch")
def fetch(name: Annotated[str, typer.Argument(help="timm's name of the backbone, such as wide_resnet50_2.")]) -> None:
    """Download weights through timm into the store (the one command that needs a network)."""
    from vad_lib.encoders.weights import fetch_weights

    with stderr.status(f"fetching {name}"):
        fetched = fetch_weights(name)
    console.print(f"{name}: {fetched}", markup=False)
