"""The plan of a line as assets and sensors ask for it, with what an operator entered in the launchpad."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from vad_lib.errors import InputError
from vad_lib.lines import Home, Line
from vad_lib.plan import ExperimentalPlan, read_plan

if TYPE_CHECKING:
    from vad_lib.findings import Finding
    from vad_lib.ground_truth import InputTable


def plan_of(line: Line) -> ExperimentalPlan:
    """Return the line's plan; it is read again only when the file has changed.

    Raises:
        InputError: there is no plan.
        PlanError: it has faults; the message lists them.
    """
    try:
        found = line.plan_file.stat()
    except OSError as error:
        raise InputError(
            f"Line {line.name!r} has no readable plan at {line.plan_file} ({error.strerror}). Make the line with "
            "`vad line add`, or put the plan there."
        ) from error
    return _read(line.plan_file, line.base_folder, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=256)
def _read(file: Path, base_folder: Path, mtime_ns: int, size: int) -> ExperimentalPlan:
    return read_plan(file, base_folder)


def training_table(plan: ExperimentalPlan, folder: Path) -> tuple[InputTable, Finding | None]:
    """Read what a training begins with: a folder of labels gets its table first; the finding says so where it did.

    The schedule that asks whether there is anything new and the training itself have to see the same.

    Raises:
        InputError: there is nothing to train from.
    """
    from vad_lib.ground_truth import read_input
    from vad_lib.labelled_folder import renew_table

    renewed = renew_table(folder)
    ignored = plan.operation.ignored_suffixes
    return read_input(folder, plan.input, pipeline="train", ignored_suffixes=ignored), renewed


def watch_folder(line: Line, plan: ExperimentalPlan) -> Path:
    """Return the folder where images of the line arrive, absolute."""
    return Path(os.path.abspath(plan.watch_folder(line.inbox, line.base_folder)))


def line_of(context: dg.AssetExecutionContext) -> Line:
    """Return the line that the run is about."""
    return Home.from_environment().line(context.partition_key)
