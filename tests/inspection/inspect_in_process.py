"""Run by tests as a process of its own: inspect one batch with the brightness model, then say what came of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from brightness_model import BrightnessModel

from vad_lib.inspection import inspect_batch
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home

parser = argparse.ArgumentParser()
parser.add_argument("home", type=Path)
parser.add_argument("batch_id")
parser.add_argument("--seconds", type=float, default=0.0)
parser.add_argument("--poisonous", action="store_true")
parser.add_argument("--log", type=Path)
given = parser.parse_args()

home = Home(given.home)
result = inspect_batch(
    InspectionDatabase.of(home),
    BrightnessModel(seconds=given.seconds, poisonous=given.poisonous, log=given.log),
    model_version="1",
    line=home.line("bottles"),
    batch_id=given.batch_id,
    batch_size=4,
)
print(
    json.dumps(
        {
            "predicted": len(result.predictions),
            "scored": result.scored,
            "refused": len(result.refused),
            "left": result.left,
        }
    )
)
