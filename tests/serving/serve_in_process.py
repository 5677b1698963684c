"""Run by tests as a process of its own: an inference service with the brightness model, until it is killed."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from pathlib import Path

from brightness_model import BrightnessModel
from serving_rig import RigSource

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.serving import InferenceService, ServiceLimits, Sinks

parser = argparse.ArgumentParser()
parser.add_argument("home", type=Path)
parser.add_argument("lines", nargs="+")
parser.add_argument("--seconds", type=float, default=0.0)
parser.add_argument("--poisonous", action="store_true")
parser.add_argument("--log", type=Path)
parser.add_argument("--webhook", default="")
given = parser.parse_args()

logging.basicConfig(level=logging.INFO, stream=sys.stderr)
home = Home(given.home)
source = RigSource(
    home,
    make=lambda line, version: BrightnessModel(seconds=given.seconds, poisonous=given.poisonous, log=given.log),
)
for name in given.lines:
    source.add(name, sinks=Sinks(webhook_url=given.webhook))
service = InferenceService(InspectionDatabase.of(home), source, ServiceLimits(micro_batch=8, follow_seconds=0.2))
service.start()
print("started", flush=True)
threading.Event().wait()
