"""Run by a test as a process of its own: a service whose decoder never comes back from files named ``slow…``."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

from serving_rig import RigSource

from vad_dagster.service.process import ServiceSettings, serve_and_end
from vad_dagster.service.web_app import create_app
from vad_lib.inspection import reader
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.lines import Home
from vad_lib.serving import InferenceService, ServiceLimits

home, hanging = Home(Path(sys.argv[1])), Path(sys.argv[2])
decode = reader.decode_bytes


def decode_for_ever(data: bytes, *more: Any, **options: Any) -> Any:
    if b"slow" in data:
        hanging.touch()
        threading.Event().wait()
    return decode(data, *more, **options)


reader.decode_bytes = decode_for_ever
# as the command line does
signal.signal(signal.SIGTERM, signal.default_int_handler)
source = RigSource(home)
source.add("bottles")
service = InferenceService(InspectionDatabase.of(home), source, ServiceLimits(follow_seconds=0.1))
serve_and_end(create_app(service), ServiceSettings(port=0, log_level="error"))
