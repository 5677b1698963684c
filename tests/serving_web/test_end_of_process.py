"""SIGTERM ends the process, whatever its threads are at."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from brightness_model import write_image
from inspection_rig import Rig
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from serving_rig import RigSource, states, until

from vad_lib.inspection_db import InspectionDatabase
from vad_lib.queue import expire
from vad_lib.serving.service import STOP_SECONDS

HERE = Path(__file__).parent
FOLDERS = (HERE.parent.parent, HERE.parent / "inspection", HERE.parent / "serving", HERE)


def test_sigterm_while_a_file_decodes_for_ever_ends_the_process_and_the_file_is_offered_again(
    source: RigSource, tmp_path: Path
) -> None:
    inbox, hanging = source.lines["bottles"].folder, tmp_path / "hanging"
    marked = PngInfo()
    marked.add_text("speed", "slow")
    Image.new("L", (16, 16), 50).save(inbox / "slow.png", pnginfo=marked)
    process = subprocess.Popen(
        [sys.executable, str(HERE / "serve_hanging.py"), str(source.home.root), str(hanging)],
        env={
            **{name: value for name, value in os.environ.items() if name != "VAD_INSPECTION_DB"},
            "PYTHONPATH": os.pathsep.join(map(str, FOLDERS)),
            "VAD_HOME": str(source.home.root),
        },
    )
    try:
        until(lambda: hanging.exists() or process.poll() is not None, 60)
        write_image(inbox / "quick.png", 150)
        db = InspectionDatabase(f"sqlite:///{source.home.root}/inspection.db")
        until(lambda: states(db).get("quick.png") == "done", 60, seen=lambda: states(db))
        process.terminate()
        begun = time.monotonic()
        assert process.wait(STOP_SECONDS + 15) == 0
        assert time.monotonic() - begun < STOP_SECONDS + 15
    finally:
        process.kill()
        process.wait()
    assert states(db) == {"quick.png": "done", "slow.png": "pending"}
    assert expire(db) == 1
    Rig(db, source.lines["bottles"].line).inspect()
    assert states(db) == {"quick.png": "done", "slow.png": "done"}
