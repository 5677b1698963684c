"""Jobs that stand for long work, and the sensor that finds dead runs, for a real daemon."""

import os
import time
from pathlib import Path

import dagster as dg

from vad_dagster.sensors import dead_runs

FOLDER = Path(os.environ.get("TOY_FOLDER", "."))


@dg.op
def wait_the_first_time() -> None:
    mark = FOLDER / "waits_once"
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        time.sleep(300)


@dg.op
def sleep() -> None:
    (FOLDER / "sleeps").write_text(str(os.getpid()))
    time.sleep(300)


@dg.job(executor_def=dg.in_process_executor)
def waits_once() -> None:
    wait_the_first_time()


@dg.job(executor_def=dg.in_process_executor)
def sleeps() -> None:
    sleep()


defs = dg.Definitions(jobs=[waits_once, sleeps], sensors=[dead_runs])
