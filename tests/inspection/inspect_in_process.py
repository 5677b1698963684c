"""Run by tests as a process of its own: work on the queue with the brightness model, then say what came of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from brightness_model import BrightnessModel

from vad_lib.inspection import Served, inspect_queue
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.monitoring import Monitor
from vad_lib.thresholds import DecisionRule

parser = argparse.ArgumentParser()
parser.add_argument("home", type=Path)
parser.add_argument("run_id")
parser.add_argument("--seconds", type=float, default=0.0)
parser.add_argument("--poisonous", action="store_true")
parser.add_argument("--log", type=Path)
parser.add_argument("--watched", action="store_true")
given = parser.parse_args()

home = Home(given.home)
db = InspectionDatabase.of(home)
model = BrightnessModel(seconds=given.seconds, poisonous=given.poisonous, log=given.log)
monitor = Monitor(None, DecisionRule(model.calibration)) if given.watched else None
served = Served(model, "1", monitor=monitor)
decided = inspect_queue(db, home.line("bottles"), served, run_id=given.run_id, chunk=4)
print(json.dumps({"decided": decided, "scored": len(db.predictions("bottles", run_id=given.run_id))}))
