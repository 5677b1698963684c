"""Small things that all assets share: owners, tags, the frame of a step, and its progress in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from vad_dagster.checks import readable_failure
from vad_lib.lines import Line
from vad_lib.progress import Progress, ProgressUpdate

if TYPE_CHECKING:
    from vad_lib.forecast import Forecast

logger = logging.getLogger(__name__)

QUALITY_TEAM, ML_TEAM = "team:quality", "team:ml"


def step_tags(pipeline: str, step: str) -> dict[str, str]:
    """Return the tags that say which pipeline and step of the guide an asset is."""
    return {"vad/pipeline": pipeline, "vad/step": step}


def log_progress(context: dg.AssetExecutionContext) -> Progress:
    """Return a progress callable that writes log lines, each task at most every ten seconds and at its end."""
    last: dict[str, float] = {}

    def write(update: ProgressUpdate) -> None:
        finished = update.done >= update.total
        if finished or update.seconds_spent - last.get(update.task, 0.0) >= 10:
            last[update.task] = update.seconds_spent
            context.log.info(str(update))

    return write


def log_forecast(context: dg.AssetExecutionContext, forecast: Forecast) -> None:
    """Write what a training is expected to take to the log of the run."""
    context.log.info("Forecast: " + "; ".join(f"{what.strip()} {value}" for what, value in forecast.rows()))
    for warning in forecast.warnings:
        context.log.warning(warning)


@contextmanager
def step(context: dg.AssetExecutionContext, line: Line) -> Iterator[Path]:
    """Frame the work of an asset: errors for the user become readable failures, and its log goes to the artifacts.

    Yields the folder that gathers the log of all steps of this run.
    """
    from vad_lib.artifacts.records import collect_logs

    folder = line.folder / "logs" / context.run.run_id
    with readable_failure(), collect_logs(folder):
        logger.info("step %s of line %s", context.asset_key.to_user_string(), line.name)
        yield folder
