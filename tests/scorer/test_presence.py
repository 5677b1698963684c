"""Whether a scorer is there is told by the kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scorer_plant import until

from vad_lib.lines import Home
from vad_lib.scorer.presence import is_scorer_here

CODE = """
import pathlib, sys, time
from vad_lib.lines import Home
from vad_lib.scorer.presence import show_presence
show_presence(Home(pathlib.Path(sys.argv[1])))
print("shown", flush=True)
time.sleep(600)
"""


def _scorer(home: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", CODE, str(home)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "shown\n"
    return process


def test_a_scorer_is_here_until_the_last_one_is_killed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert not is_scorer_here(home)
    first, second = _scorer(tmp_path), _scorer(tmp_path)
    try:
        until(lambda: is_scorer_here(home))
        first.kill()
        first.wait()
        # the second one holds the lock as soon as the first has left it
        until(lambda: is_scorer_here(home))
        second.kill()
        second.wait()
        assert not is_scorer_here(home)
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
