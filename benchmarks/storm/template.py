"""A home as a storm finds it: lines with two registered versions of a real model each, one of them serving."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.homes import FACTS, call, environment_of

PLAN = """
external_path:
    - load_train_data_path: ./train/
user_parameters:
    - train_pipeline:
        - step: readiness
          args:
            - ok_class: good
              train_validate_column: train_val_split
        - step: train
          args:
            - model_name: patchcore
              img_size: [64, 64]
              batch_size: 16
              model_parameters: {patchcore_backbone: resnet18, patchcore_coreset_sampling_ratio: 0.05}
operation:
    settle_seconds: 1.0
    max_batch_images: 100
"""


def make_template(scratch: Path, lines: Sequence[str]) -> Path:
    """Return a home to copy. What MLflow notes is absolute, so it is made where the copies will stand."""
    home, template = scratch / "home", scratch / "template"
    if template.is_dir():
        return template
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    models, plan = scratch / "models", scratch / "plan.yaml"
    plan.write_text(PLAN, encoding="utf-8")
    environment = environment_of(home)
    call("small-models", environment, models)
    call("home", environment, home, plan, ",".join(lines), models / "a", models / "b")
    home.rename(template)
    return template


def thresholds_of(home: Path) -> dict[str, float]:
    """Return the threshold of each version by label."""
    found: dict[str, float] = json.loads((home / FACTS).read_text())
    return found
