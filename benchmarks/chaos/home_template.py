"""A home as a chaos test finds it: lines with two registered versions of a real model each, one of them serving."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.homes import FACTS, call, environment_of, write_plan


def make_template(scratch: Path, lines: Sequence[str]) -> Path:
    """Return a home to copy. What MLflow notes is absolute, so it is made where the copies will stand."""
    home, template = scratch / "home", scratch / "template"
    if template.is_dir():
        return template
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    models = scratch / "models"
    plan = write_plan(scratch / "plan.yaml", side=64, sampling_ratio=0.05, settle_seconds=1.0, max_batch_images=100)
    environment = environment_of(home)
    call("small-models", environment, models)
    call("home", environment, home, plan, ",".join(lines), models / "a", models / "b")
    home.rename(template)
    return template


def thresholds_of(home: Path) -> dict[str, float]:
    """Return the threshold of each version by label."""
    found: dict[str, float] = json.loads((home / FACTS).read_text())
    return found
