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
    from vad_lib.monitoring import MonitorSettings
    from vad_lib.progress import Progress
    from vad_lib.readiness import ValidatedDataset


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


def monitor_settings(plan: ExperimentalPlan) -> MonitorSettings | None:
    """Return how a line is watched for drift; None where its plan wants that it is not."""
    from vad_lib.monitoring import MonitorSettings

    wanted = plan.operation
    if not wanted.drift:
        return None
    return MonitorSettings(
        one_in=wanted.drift_one_in,
        usual_ng=wanted.usual_ng_share,
        largest_shift=wanted.largest_shift,
        largest_rotation=wanted.largest_rotation,
    )


@lru_cache(maxsize=256)
def _read(file: Path, base_folder: Path, mtime_ns: int, size: int) -> ExperimentalPlan:
    return read_plan(file, base_folder)


def training_table(
    plan: ExperimentalPlan, base_folder: Path, *, renew: bool = True
) -> tuple[InputTable, Finding | None]:
    """Read what a training begins with: a folder of labels gets its table first; the finding says so where it did.

    The schedule that asks whether there is anything new and the training itself have to see the same. Where the
    detector needs no images, there may be no folder, or an empty one: the table is then empty.

    Args:
        plan: of the line.
        base_folder: where its relative paths start.
        renew: whether the table of a folder of labels is written.

    Raises:
        InputError: there is nothing to train from.
    """
    from vad_lib.ground_truth import no_images, read_input
    from vad_lib.labelled_folder import renew_table

    if (folder := plan.find_train_data(base_folder)) is None:
        return no_images(base_folder.resolve(), plan.input), None
    renewed = renew_table(folder) if renew else None
    table = read_input(
        folder,
        plan.input,
        pipeline="train",
        ignored_suffixes=plan.operation.ignored_suffixes,
        may_be_empty=not plan.train.needs_images,
    )
    return table, renewed


def rows_of_next_training(line: Line, plan: ExperimentalPlan, progress: Progress) -> ValidatedDataset:
    """Return the rows that a training of a line would take now, labels of people included. Nothing is written.

    Args:
        line: with its own images.
        plan: of the line, with what was entered for the run.
        progress: told about the images.

    Raises:
        VadError: whatever would stop the training itself.
    """
    from vad_lib.inspection.confirmed_labels import collect_labels
    from vad_lib.inspection_db import InspectionDatabase
    from vad_lib.readiness import prepare_training_data

    table, _ = training_table(plan, line.base_folder, renew=False)
    labels = collect_labels(InspectionDatabase.from_environment(), line, keep=False)
    chosen = plan.readiness
    table = table.with_labels(labels, ok_class=chosen.ok_class, split_column=chosen.train_validate_column)
    return prepare_training_data(table, chosen, plan.train, progress)


def refuse_where_never(line: Line) -> ExperimentalPlan:
    """Return the plan of a line on which people may promote a version. To go back to the version before needs no leave.

    Raises:
        InputError: the plan says ``promotion: never``.
    """
    plan = plan_of(line)
    if plan.operation.promotion == "never":
        raise InputError(
            f"The plan of line {line.name!r} says promotion: never, so no other version is let serve. Set promotion to "
            f"by_person or automatic in the section operation of {line.plan_file} first."
        )
    return plan


def enough_inspected(line: Line, plan: ExperimentalPlan) -> bool:
    """Say whether the line has inspected as many images as the plan's ``threshold_from_first`` waits for."""
    from vad_lib.inspection_db import InspectionDatabase

    wanted = plan.train.threshold_from_first
    return wanted > 0 and InspectionDatabase.from_environment().count_predictions(line.name) >= wanted


def watch_folder(line: Line, plan: ExperimentalPlan) -> Path:
    """Return the folder where images of the line arrive, absolute."""
    return Path(os.path.abspath(plan.watch_folder(line.inbox, line.base_folder)))


def line_of(context: dg.AssetExecutionContext) -> Line:
    """Return the line that the run is about."""
    return Home.from_environment().line(context.partition_key)
