"""A finished model on validation rows: its maps, its artifacts, and how another model fares on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from vad_lib.artifacts import TrainingRecord, TrainTree, write_train_tree
from vad_lib.artifacts.pictures import rows_with_heatmaps
from vad_lib.heatmaps import PROBABILITIES, HeatmapScale, learn_heatmap_scale
from vad_lib.monitoring.reference import Reference, places_of
from vad_lib.paired_tests import delong, newcombe
from vad_lib.progress import Progress, silent
from vad_lib.tables import NG
from vad_lib.training_inputs import digest_of_model

if TYPE_CHECKING:
    from vad_lib.models import InspectionModel
    from vad_lib.readiness.dataset import ValidatedDataset
    from vad_lib.thresholds import LearntThreshold
    from vad_lib.trained_model import TrainedModel

MODEL_FOLDER = "inspection_model"
SCALE_IMAGES = 30
"""So many maps of images decided OK, and as many of NG ones, are enough to learn a colour scale."""


def publish_training(
    trained: TrainedModel,
    learnt: LearntThreshold,
    dataset: ValidatedDataset,
    scores: pd.DataFrame,
    *,
    line: str,
    target: Path,
    work: Path,
    log_folder: Path | None = None,
    progress: Progress = silent,
) -> tuple[TrainingRecord, TrainTree]:
    """Judge the validation rows once, draw their maps, save the model that inspects, and write the train artifacts.

    Args:
        trained: the fitted detector.
        learnt: its threshold.
        dataset: what it was trained and validated on.
        scores: ``tables.ValidationScores`` of the validation rows; ``.attrs["ms_per_image"]`` is recorded where known.
        line: its name.
        target: folder of the train artifacts.
        work: an empty folder of the caller's, where the saved model lies afterwards (``record.model_folder``).
        log_folder: with the logs of the earlier steps.
        progress: told while maps are made and drawn.
    """
    fit, judged = trained.fit, learnt.judged(scores)
    maps = make_validation_maps(
        trained.with_threshold(learnt),
        judged,
        work / "maps",
        heatmaps=fit.train.save_validation_heatmap,
        progress=progress,
    )
    scale = PROBABILITIES if judged.empty else maps.scale
    normal = judged[~judged["is_anomalous"].astype(bool)]
    train_files = [Path(file) for file in dataset.train_rows["file"]]
    reference = Reference.learn(train_files, normal["raw_score"], maps.places)
    record = TrainingRecord(
        dataset=dataset,
        train=fit.train,
        rows=judged,
        learnt=learnt,
        model_folder=work / MODEL_FOLDER,
        heatmap_scale=scale,
        weights=fit.info.backbone,
        epochs=fit.epochs,
        facts={"line": line, "plan_digest": fit.plan_digest, "seconds": fit.info.fit_seconds, **fit.numbers},
        notices=fit.info.notices,
        comparisons=fit.comparisons(scores.attrs.get("ms_per_image")),
        made_from=digest_of_model(dataset, fit.train, fit.info, learnt.threshold),
        scores_like=trained.scores_like,
    )
    trained.with_threshold(learnt, scale, reference).save(record.model_folder)
    return record, write_train_tree(target, record, maps=maps, log_folder=log_folder, progress=progress)


class ValidationMaps:
    """Anomaly maps of validation rows, kept in a folder because together they may not fit in memory.

    Attributes:
        scale: the colour scale of the model version; None for a detector without maps.
        files: row -> ``.npy`` file, float32 (H, W).
        places: ``places_of`` the maps of normal rows that were decided OK.
    """

    def __init__(
        self, scale: HeatmapScale | None, files: Mapping[int, Path], places: Sequence[npt.NDArray[np.float32]] = ()
    ) -> None:
        self.scale = scale
        self.files = dict(files)
        self.places = list(places)

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        for row, file in self.files.items():
            yield row, np.load(file, allow_pickle=False)


def make_validation_maps(
    model: InspectionModel, judged: pd.DataFrame, folder: Path, *, heatmaps: bool = True, progress: Progress = silent
) -> ValidationMaps:
    """Compute the maps that are drawn, and enough others to learn the colour scale from.

    Args:
        model: with threshold and calibration.
        judged: ``tables.ValidationScores`` with the column ``predicted``.
        folder: where maps go.
        heatmaps: also those of every anomalous row and every row decided NG, not only what the scale needs.
        progress: told about each image.
    """
    ng = judged["predicted"] == NG
    wanted = rows_with_heatmaps(judged["is_anomalous"], judged["predicted"]) if heatmaps else False
    drawn = pd.Series(wanted, index=judged.index)
    needed = pd.Series(False, index=judged.index)
    for part in (judged[ng], judged[~ng]):
        needed[part.sample(min(len(part), SCALE_IMAGES), random_state=0).index] = True
    rows = judged[drawn | needed].reset_index(drop=True)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[int, Path] = {}
    flags: list[bool] = []
    places = []
    for result in model.predict_files([Path(file) for file in rows["file"]], progress=progress, with_maps=True):
        if result.map is None:
            continue
        row = rows.loc[result.index]
        file = folder / f"{int(row['row'])}.npy"
        np.save(file, np.asarray(result.map, dtype=np.float32), allow_pickle=False)
        files[int(row["row"])] = file
        flags.append(bool(row["predicted"] == NG))
        if not flags[-1] and not row["is_anomalous"]:
            places.append(places_of(result.map))
    if not files:
        return ValidationMaps(None, {})
    scale = learn_heatmap_scale((np.load(file, allow_pickle=False) for file in files.values()), flags)
    keep = set(judged.loc[drawn, "row"].astype(int))
    return ValidationMaps(scale, {row: file for row, file in files.items() if row in keep}, places)


def judge_rows(model: InspectionModel, rows: pd.DataFrame, *, progress: Progress = silent) -> pd.DataFrame:
    """Score labelled rows with a model and decide them at its own threshold.

    Args:
        model: any version.
        rows: ``tables.ValidatedRows`` with labels.
        progress: told about each image.

    Returns:
        Columns ``file``, ``is_anomalous``, ``raw_score`` and ``predicted``; files that cannot be read any more are left
        out.
    """
    files, flags = list(rows["file"]), list(rows["is_anomalous"].astype(bool))
    judged = [
        (files[result.index], flags[result.index], result.raw_score, result.predicted)
        for result in model.predict_files([Path(file) for file in files], progress=progress)
        if result.raw_score is not None and result.predicted is not None
    ]
    return pd.DataFrame(judged, columns=["file", "is_anomalous", "raw_score", "predicted"])


def beside_on_rows(new: pd.DataFrame, old: pd.DataFrame) -> str:
    """Say how two models differ on the rows that both have judged, with intervals (95 %) and paired tests.

    Args:
        new: of ``judge_rows``, of the challenger.
        old: the same of the champion.

    Returns:
        Sentences; empty where there is no row.
    """
    pairs = new.merge(old, on=["file", "is_anomalous"], suffixes=("_new", "_old"))
    if pairs.empty:
        return ""
    flags = pairs["is_anomalous"].astype(bool)
    new_right, old_right = ((pairs[f"predicted_{which}"] == NG) == flags for which in ("new", "old"))
    only_new, only_old = int((new_right & ~old_right).sum()), int((~new_right & old_right).sum())
    both, neither = int((new_right & old_right).sum()), int((~new_right & ~old_right).sum())
    found = newcombe(both, only_new, only_old, neither)
    told = (
        f"Of {len(pairs)} validation rows only the challenger is right on {only_new}, only the champion on {only_old}: "
        f"a difference of {found.difference:+.1%}, between {found.low:+.1%} and {found.high:+.1%} (McNemar, p = "
        f"{found.p:.2g})."
    )
    if flags.any() and not flags.all():
        area = delong(flags, pairs["raw_score_new"], pairs["raw_score_old"])
        between = f"between {area.low:+.4f} and {area.high:+.4f}"
        told += f" AUROC differs by {area.difference:+.4f}, {between} (DeLong, p = {area.p:.2g})."
    return told
