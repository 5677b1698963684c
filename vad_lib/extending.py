"""Adding confirmed normal images to a model, without fitting it again.

The detector says whether and how it can (``Detector.extend``); backbone and image size stay. The threshold is learnt
again by the same method on the same validation rows, because scores near it may have moved; one that a person chose
stays. Both, and the performance before and after, are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vad_lib.errors import InputError, UnreadableImageError
from vad_lib.images.decoding import decode_image
from vad_lib.images.listing import list_folder
from vad_lib.metrics import Evaluation, evaluate
from vad_lib.models import InspectionModel
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.thresholds import Calibration, DecisionRule, Threshold, learn_calibration, learn_threshold

if TYPE_CHECKING:
    from vad_lib.readiness.dataset import ValidatedDataset


@dataclass(frozen=True)
class NewImages:
    """Images that were given, sorted out.

    Attributes:
        files: that can be learnt from.
        sha256: of their contents.
        shapes: their (height, width) in pixels.
        known: that the model has learnt from already; passed over.
        refused: reason by file, of those that must not or cannot be learnt from.
    """

    files: tuple[Path, ...] = ()
    sha256: tuple[str, ...] = ()
    shapes: tuple[tuple[int, int], ...] = ()
    known: tuple[Path, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Extension:
    """An extended model beside the one that it was made from.

    Attributes:
        model: the new one, with the threshold in force.
        images: that were given.
        rows_before: of the bank.
        rows_added: to the bank.
        patches_farther: patches that the bank did not cover.
        radius: distance up to which the bank covers a patch.
        before: performance of the old model on the validation rows.
        kept: of the new one with the old threshold.
        after: of the new one with the threshold in force.
        threshold_before: of the old model.
        scores: of the added images: file, before, after (raw), predicted_before, predicted_after.
        notices: what the user should know.
    """

    model: InspectionModel
    images: NewImages
    rows_before: int
    rows_added: int
    patches_farther: int
    radius: float
    before: Evaluation
    kept: Evaluation
    after: Evaluation
    threshold_before: Threshold
    scores: pd.DataFrame
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the model, JSON-ready."""
        return {
            "images_added": [str(file) for file in self.images.files],
            "images_known": [str(file) for file in self.images.known],
            "images_refused": self.images.refused,
            "rows_before": self.rows_before,
            "rows_added": self.rows_added,
            "patches_farther": self.patches_farther,
            "radius": self.radius,
            "before": self.before.model_dump(mode="json"),
            "after_with_kept_threshold": self.kept.model_dump(mode="json"),
            "after": self.after.model_dump(mode="json"),
            "threshold_before": self.threshold_before.model_dump(mode="json"),
            "threshold_after": self.model.threshold.model_dump(mode="json"),
            "scores": self.scores.to_dict("records"),
            "notices": list(self.notices),
        }


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files that paths name, and the images in folders among them, at any depth.

    Raises:
        InputError: a path does not exist, or there is no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += [path / name for name in list_folder(path).images]  # masks of images are left out
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"There is no file or folder {path}.")
    if not found:
        raise InputError(f"There is no image in {', '.join(map(str, paths)) or 'the list'}.")
    return found


def sort_out(
    files: Sequence[Path],
    rows: pd.DataFrame,
    learnt: Sequence[str] = (),
    progress: Progress = silent,
    *,
    learnt_from_table: bool = True,
) -> NewImages:
    """Say which of some images may be learnt from.

    Args:
        files: said to be normal.
        rows: ``tables.ValidatedRows`` of the line's training data.
        learnt: sha256 of further images that the model has learnt from.
        progress: told of every image.
        learnt_from_table: the model was trained on these rows; else it need not know their images.
    """
    of_table = rows.drop_duplicates("sha256").set_index("sha256")
    seen = set(learnt)
    good: list[tuple[Path, str, tuple[int, int]]] = []
    known: list[Path] = []
    refused: dict[str, str] = {}
    meter = ProgressMeter(progress, "Checking images", len(files))
    for file in files:
        try:
            decoded = decode_image(file)
        except UnreadableImageError as error:
            refused[str(file)] = error.reason
        else:
            row = of_table.loc[decoded.sha256] if decoded.sha256 in of_table.index else None
            if row is not None and row["is_anomalous"]:
                refused[str(file)] = f"the ground-truth table calls it {row['label']!r}"
            elif row is not None and row["split"] == "valid":
                refused[str(file)] = "it is a validation image: what was learnt from cannot measure the model"
            elif (row is not None and learnt_from_table) or decoded.sha256 in seen:
                known.append(file)
            else:
                seen.add(decoded.sha256)
                good.append((file, decoded.sha256, (decoded.height, decoded.width)))
        meter.advance()
    return NewImages(
        tuple(file for file, _, _ in good),
        tuple(sha256 for _, sha256, _ in good),
        tuple(shape for _, _, shape in good),
        tuple(known),
        refused,
    )


def extend_model(
    model: InspectionModel,
    files: Sequence[Path],
    dataset: ValidatedDataset,
    *,
    extended_from: str = "",
    learnt_from_table: bool = True,
    progress: Progress = silent,
) -> Extension:
    """Add normal images to a model. The model that is given stays as it is.

    Args:
        model: whose detector can learn without a fit.
        files: images that a person has found normal.
        dataset: the line's; its validation rows measure both models.
        extended_from: name of the version that is extended, for the record.
        learnt_from_table: the model was trained on the rows of ``dataset``; else images of its table are looked at as
            any others, since a table that has grown since then says nothing about what the model knows.
        progress: told of every step.

    Raises:
        InputError: the detector cannot learn without a fit, or no image is left to learn from; the message names every
            refused one.
        ReadinessError: there are no validation rows.
    """
    from vad_lib.detectors.images import ImageDataset
    from vad_lib.errors import ReadinessError
    from vad_lib.training import score_rows

    if not len(dataset.valid_rows):
        raise ReadinessError("There are no validation rows to measure the model on before and after.")
    history = list(model.info.extra.get("extensions", []))
    learnt = [sha for past in history for sha in past["sha256"]]
    images = sort_out(files, dataset.rows, learnt, progress, learnt_from_table=learnt_from_table)
    if not images.files:
        raise InputError("\n".join(["There is no new image to learn from.", *_told(images)]))
    given = ImageDataset(images.files, model.preprocessing, shapes=images.shapes)
    grown = model.detector.extend(given, progress)
    rows = dataset.valid_rows
    old_scores = score_rows(model.detector, model.preprocessing, rows, progress=progress)
    new_scores = score_rows(grown.detector, model.preprocessing, rows, progress=progress)
    threshold, calibration, notice = _learn_again(model, new_scores)
    past = {"from": extended_from, "images": len(images.files), "rows_added": grown.rows_added}
    info = model.info.model_copy(
        update={
            "n_train": model.info.n_train + len(images.files),
            "extra": {**model.info.extra, "extensions": [*history, {**past, "sha256": list(images.sha256)}]},
        }
    )
    normal = new_scores.loc[~new_scores["is_anomalous"].astype(bool), "raw_score"]
    reference = model.reference.with_scores(normal) if model.reference else None
    new = InspectionModel(
        grown.detector, model.preprocessing, threshold, calibration, info, model.heatmap_scale, reference
    )
    notices = [notice, *_told(images)]
    if grown.patches_farther and grown.left_radius > grown.radius:
        notices.append(
            "The new images differ so much that the bank still does not cover all of their patches: train again with "
            "them in the ground-truth table."
        )
    notices.append("Add the images to the ground-truth table too, or the next training will not know them.")
    return Extension(
        model=new,
        images=images,
        rows_before=grown.rows_before,
        rows_added=grown.rows_added,
        patches_farther=grown.patches_farther,
        radius=grown.radius,
        before=_performance(old_scores, model.calibration),
        kept=_performance(new_scores, model.calibration),
        after=_performance(new_scores, calibration),
        threshold_before=model.threshold,
        scores=_scores_of_added(model, new, images),
        notices=tuple(notices),
    )


def _learn_again(model: InspectionModel, scores: pd.DataFrame) -> tuple[Threshold, Calibration, str]:
    """Return the threshold in force after the extension, its calibration, and what was done in words."""
    old = model.threshold
    if old.rule is None:
        kept = "a person chose it" if old.method == "chosen" else f"its method is {old.method}"
        return old, model.calibration, f"The threshold {old.value:.6g} was kept: {kept}."
    raw, flags = scores["raw_score"], scores["is_anomalous"]
    threshold = learn_threshold(raw, flags, old.rule)
    moved = f"{old.value:.6g} became {threshold.value:.6g}"
    told = f"The threshold was learnt again by {old.method} on the same rows: {moved}."
    return threshold, learn_calibration(raw, flags, threshold), told


def _performance(scores: pd.DataFrame, calibration: Calibration) -> Evaluation:
    predicted = DecisionRule(calibration).judge(scores["raw_score"]).predicted
    return evaluate(scores["raw_score"], scores["is_anomalous"], predicted)


def _scores_of_added(old: InspectionModel, new: InspectionModel, images: NewImages) -> pd.DataFrame:
    files = list(images.files)
    before, after = list(old.predict_files(files)), list(new.predict_files(files))
    return pd.DataFrame(
        {
            "file": [str(file) for file in files],
            "before": [result.raw_score for result in before],
            "after": [result.raw_score for result in after],
            "predicted_before": [result.predicted for result in before],
            "predicted_after": [result.predicted for result in after],
        }
    )


def _told(images: NewImages) -> list[str]:
    """Return in words what was not learnt from."""
    told = [f"{len(images.known)} images were known already and passed over."] if images.known else []
    return told + [f"Refused: {file}: {reason}." for file, reason in images.refused.items()]
