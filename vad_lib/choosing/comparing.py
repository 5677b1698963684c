"""Detectors beside one another on the images of a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vad_lib.choosing.cross_validation import CrossValidated, cross_validate
from vad_lib.choosing.figures import figures_of
from vad_lib.choosing.folds import MOST_DRAWN, images_to_judge, make_folds, with_drawn_defects
from vad_lib.choosing.report import Choice, choice_page
from vad_lib.detectors.registry import FIRST_CHOICE, GUIDE_DEFAULT, find_detector
from vad_lib.errors import InputError
from vad_lib.plan.arguments import TrainArguments
from vad_lib.progress import Progress, ProgressUpdate, silent
from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.thresholds import LearningRule

PARTS = 5
LEAST_PARTS = 3
"""One to judge, one that a fit may watch, and one to learn from."""


def models_to_compare(train: TrainArguments, asked: Sequence[str] = ()) -> list[str]:
    """Return the detectors that are compared: those asked for, else the plan's own and the two usual ones.

    Raises:
        PlanError: one of them is unknown.
    """
    names = list(dict.fromkeys(asked or (train.model_name, FIRST_CHOICE, GUIDE_DEFAULT)))
    for name in names:
        find_detector(name)
    return names


def compare_on_line(
    line: str,
    dataset: ValidatedDataset,
    train: TrainArguments,
    models: Sequence[str],
    work: Path,
    *,
    parts: int = PARTS,
    weights_store: Path | None = None,
    cache_folder: Path | None = None,
    progress: Progress = silent,
) -> tuple[Choice, str]:
    """Compare detectors by cross-validation; a comparison that was killed goes on where it was.

    Args:
        line: its name.
        dataset: after readiness, with all labels of people.
        train: the plan's arguments; ``model_parameters`` holds those of every detector.
        models: names of detectors.
        work: a folder for what is kept in between.
        parts: into which the images are cut.
        weights_store: where backbone weights lie; the home's by default.
        cache_folder: of features; none by default.
        progress: told of every step.

    Returns:
        The comparison, and its page.

    Raises:
        InputError: there are too few images, or parts.
    """
    if parts < LEAST_PARTS:
        raise InputError(f"The images are cut into {parts} parts: {LEAST_PARTS} are needed at least.")
    rows = images_to_judge(dataset)
    rows["part"] = make_folds(rows, dataset.image_facts, parts, train.experiment_seed)
    drawn = with_drawn_defects(rows, work / "drawn", train.experiment_seed)
    # without a real defect no method may learn from drawn ones
    rule = train.learning_rule(dataset.threshold_method if drawn is rows else "Percentile")
    results: list[CrossValidated] = []
    for name in models:
        asked = train.model_copy(update={"model_name": name})
        told = _named(progress, f"{name}, {len(results) + 1} of {len(models)} detectors")
        results.append(
            cross_validate(
                *(name, dataset, drawn, asked, rule),
                work=work,
                weights_store=weights_store,
                cache_folder=cache_folder,
                progress=told,
            )
        )
    choice = Choice.of(line, results, {one.name: figures_of(one) for one in results if not one.reason})
    return choice, choice_page(choice, facts_in_words(rows, parts, rule))


def facts_in_words(rows: pd.DataFrame, parts: int, rule: LearningRule) -> list[str]:
    """Say what was compared and how."""
    flags = rows["is_anomalous"].to_numpy(bool)
    normal, defects = int(np.sum(~flags)), int(np.sum(flags))
    kinds = rows.loc[flags, "label"].nunique()
    if defects:
        of = f"{defects} with defects of {kinds} kinds"
    else:
        of = f"{min(normal, MOST_DRAWN)} on which a defect was drawn, as there is no real one"
    return [
        f"{normal} normal images and {of}, cut into {parts} parts. Each image was scored by a model that learnt "
        "from the normal images of the other parts, and images that look the same are in one part. Where a fit keeps "
        "its best epoch, it watches one of the other parts for this, and learns from the rest.",
        f"Each part is judged by a threshold ({rule.method}) that was learnt on the scores of the other parts. Nothing "
        "was tuned on these figures. Behind each figure stands its interval of 95 %.",
    ]


def _named(progress: Progress, name: str) -> Progress:
    def tell(update: ProgressUpdate) -> None:
        progress(
            ProgressUpdate(
                f"{name}: {update.task}",
                update.done,
                update.total,
                update.unit,
                update.seconds_spent,
                update.seconds_left,
                update.note,
            )
        )

    return tell
