"""A small real line: photographed gravel cut into tiles, some with a bright scratch; and running its jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vad_dagster.definitions import build_defs
from vad_lib.lines import Home, Line

PLAN = """
name: gravel
external_path:
  - load_train_data_path: ./train/
  - load_inference_data_path: ./inference/
user_parameters:
  - train_pipeline:
      - step: input
        args:
          - file_type: csv
      - step: readiness
        args:
          - ok_class: good
            validation_split_rate: 0.3
            ratio_minor_threshold: 0.05
        ui_args: [ok_class]
      - step: train
        args:
          - model_name: patchcore
            img_size: [64, 64]
            percentile: 0.9
            model_parameters:
              patchcore_backbone: resnet18
              patchcore_layers: [layer1, layer2]
        ui_args: [model_name, percentile]
  - inference_pipeline:
      - step: input
        args:
          - file_type: csv
      - step: readiness
        args:
      - step: inference
        args:
          - inference_threshold: 0.5
        ui_args: [inference_threshold]
      - step: output
        args:
"""


@contextmanager
def own_home(folder: Path) -> Iterator[Home]:
    """A home for the tests of one module: random weights, and databases of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAD_HOME", str(folder))
        patch.setenv("VAD_WEIGHTS", str(folder / "weights"))
        patch.setenv("VAD_ALLOW_RANDOM_WEIGHTS", "1")
        for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "VAD_INSPECTION_DB"):
            patch.delenv(name, raising=False)
        yield Home(folder)


def draw_tile(number: int, *, scratched: bool = False) -> Image.Image:
    """Return one tile of 64 x 64 pixels, another for each number."""
    from skimage.data import gravel

    picture = gravel()
    row, column = divmod(number, 14)
    tile = picture[row * 36 : row * 36 + 64, column * 32 : column * 32 + 64].copy()
    if scratched:
        rows = np.random.default_rng(number).integers(8, 40, 2)
        tile[rows[0] : rows[0] + 12, 10:54] = 255
        tile[rows[1] : rows[1] + 6, 10:54] = 0
    return Image.fromarray(tile).convert("RGB")


def make_line(home: Home, name: str = "gravel", plan: str = PLAN, normal: int = 24, scratched: int = 8) -> Line:
    """Make a line with a table of 24 normal and 8 scratched tiles, and 6 tiles to inspect."""
    line = home.line(name)
    for folder in ("train/good", "train/scratch", "inference", "inbox"):
        (line.folder / folder).mkdir(parents=True)
    rows = []
    for number in range(normal + scratched):
        bad = number >= normal
        path = f"./{'scratch' if bad else 'good'}/tile{number}.png"
        draw_tile(number, scratched=bad).save(line.folder / "train" / path)
        rows.append({"image_path": path, "label": "scratch" if bad else "good"})
    pd.DataFrame(rows).to_csv(line.folder / "train" / "train.csv", index=False)
    for number in range(40, 46):
        draw_tile(number, scratched=number % 2 == 0).save(line.folder / "inference" / f"tile{number}.png")
    line.plan_file.write_text(plan)
    return line


DEFS = build_defs()


def run(
    instance: dg.DagsterInstance,
    job: str,
    config: Mapping[str, Any] | None = None,
    selection: list[str] | None = None,
    line: str = "gravel",
) -> dg.ExecuteInProcessResult:
    return DEFS.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=line,
        run_config={"ops": {asset: {"config": values} for asset, values in (config or {}).items()}},
        asset_selection=[dg.AssetKey(name) for name in selection] if selection else None,
        raise_on_error=False,
    )


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    found = {event.asset_key.path[-1]: event for event in result.get_asset_materialization_events()}
    return {name: value.value for name, value in found[asset].materialization.metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    texts = []
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            told = data.user_failure_data.description if data.user_failure_data else None
            texts.append(told or (data.error.to_string() if data.error else ""))
    return "\n".join(texts)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    return {check.check_name: check for check in result.get_asset_check_evaluations()}
