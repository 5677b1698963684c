"""Where the values of assets lie: ``$VAD_HOME/lines/<line>/store/<asset>/``, in files that other programs can read.

A pandas frame becomes ``table.parquet``; any other value writes itself by its ``save(folder)`` and is read by the
``load(folder)`` of the type that the reading asset names in its annotation. Nothing is pickled. A folder is written
beside the old one and swapped in, so a killed run leaves the last good value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from vad_lib.artifacts.publishing import publish_tree
from vad_lib.errors import InputError
from vad_lib.lines import Home

TABLE_FILE = "table.parquet"


def store_folder(line: str, asset: str, home: Home | None = None) -> Path:
    """Return where the value of ``asset`` of ``line`` lies (it need not exist yet)."""
    return (home or Home.from_environment()).line(line).store / asset


class LineStore(dg.ConfigurableIOManager):
    """Stores one value per asset and line, the newest only: history is Dagster's and MLflow's."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        if obj is None:
            return
        folder = store_folder(context.partition_key, context.asset_key.path[-1])
        folder.parent.mkdir(parents=True, exist_ok=True)
        with publish_tree(folder, keep=1) as partial:
            if isinstance(obj, pd.DataFrame):
                obj.to_parquet(partial / TABLE_FILE, index=False)
            elif callable(getattr(obj, "save", None)):
                obj.save(partial)
            else:
                raise TypeError(
                    f"{context.asset_key.to_user_string()} returned a {type(obj).__name__}, which is neither a pandas "
                    "DataFrame nor has save(folder): give it save and load, and it can be stored."
                )
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        context.add_output_metadata({"stored in": dg.MetadataValue.path(str(folder)), "bytes stored": size})

    def load_input(self, context: dg.InputContext) -> Any:
        asset = context.asset_key.path[-1]
        folder = store_folder(context.partition_key, asset)
        if not folder.is_dir():
            raise InputError(
                f"{asset} of line {context.partition_key!r} has not been made yet (no {folder}): materialize it first, "
                "or run the whole job train_line."
            )
        wanted = context.dagster_type.typing_type
        if wanted is pd.DataFrame:
            return pd.read_parquet(folder / TABLE_FILE)
        if not callable(getattr(wanted, "load", None)):
            raise TypeError(f"Annotate the parameter {asset} with the type that can load(folder), not {wanted!r}.")
        return wanted.load(folder)
