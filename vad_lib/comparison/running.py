"""One detector on one image set: fitted, its threshold learnt on images that were held back, measured on the rest."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from vad_lib.comparison.image_sets import ImageSet
from vad_lib.detectors.registry import find_detector, parameters_model
from vad_lib.encoders.store import sha256_of
from vad_lib.errors import InputError, VadError
from vad_lib.metrics import Evaluation, auroc_interval, evaluate
from vad_lib.plan.arguments import TrainArguments
from vad_lib.preprocessing import Preprocessing, resolve_image_size
from vad_lib.progress import Progress, silent
from vad_lib.thresholds import DecisionRule, LearningRule, learn_calibration, learn_threshold

if TYPE_CHECKING:
    from vad_lib.detectors.base import Detector
    from vad_lib.detectors.images import ImageDataset

PERCENTILE = 0.99
"""Quantile of the scores of held-out normal images that is the threshold; no anomalous image is looked at for it."""
MAP_STEP = 2
"""Every second value of a map each way is kept: enough for a picture and for the area under the curve of pixels."""
Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """A detector to compare.

    Attributes:
        detector: as the plan's ``model_name``.
        parameters: its arguments in ``model_parameters``; the defaults where empty.
        note: what a reader must know, such as that the weights are random.
        precision: as in the plan.
    """

    detector: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Compared:
    """What one detector reached on one set.

    Attributes:
        images: name of the set.
        candidate: the detector.
        reason: why it did not run; empty where it did, and the rest is None or empty where it did not.
        encoder: name of the network behind it, and where its weights are from.
        evaluation: of the decisions on the test images.
        interval: of the image AUROC, 95 %.
        pixel_auroc: of the maps; None where there are no maps or no masks.
        rows: the test table with ``raw_score``, ``predicted`` and ``p``.
        maps: float32 (h, w) by file, every second value each way; empty where the detector makes none.
        fit_seconds: reading included.
        ms_per_image: to score one image of the set, reading included.
        megabytes: of the fitted detector.
        notices: of the fit.
    """

    images: str
    candidate: Candidate
    reason: str = ""
    encoder: str = ""
    evaluation: Evaluation | None = None
    interval: tuple[float, float] | None = None
    pixel_auroc: float | None = None
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    maps: dict[str, Map] = field(default_factory=dict)
    fit_seconds: float = 0.0
    ms_per_image: float = 0.0
    megabytes: float = 0.0
    notices: tuple[str, ...] = ()


def compare(
    candidate: Candidate,
    images: ImageSet,
    *,
    size: int = 256,
    max_epochs: int = 15,
    seed: int = 42,
    weights_store: Path | None = None,
    progress: Progress = silent,
) -> Compared:
    """Fit a detector and measure it; what it lacks on this machine is the reason of a row without numbers."""
    try:
        return _compare(candidate, images, size, max_epochs, seed, weights_store, progress)
    except VadError as error:
        return Compared(images.name, candidate, reason=str(error))


def _compare(
    candidate: Candidate,
    images: ImageSet,
    size: int,
    max_epochs: int,
    seed: int,
    weights_store: Path | None,
    progress: Progress,
) -> Compared:
    from vad_lib.detectors.fit_forecast import bytes_of
    from vad_lib.training import create_detector, require_usable

    train = TrainArguments(
        model_name=candidate.detector,
        img_size=(size, size),
        max_epochs=max_epochs,
        experiment_seed=seed,
        precision=candidate.precision,
        model_parameters=parameters_model()(**candidate.parameters),
    )
    own = find_detector(candidate.detector).own(train.model_parameters)
    require_usable(train)
    in_force, _ = resolve_image_size(train.img_size, *own.size_for(train.img_size))
    preprocessing = Preprocessing(in_force)
    detector = create_detector(train, weights_store=weights_store)
    detector.refuse_images({sha256_of(Path(file)) for file in images.test["file"]})
    begun = time.perf_counter()
    detector.fit(dataset_of(images.fit, preprocessing), progress=progress)
    fit_seconds = time.perf_counter() - begun

    held_out, _ = _score(detector, images.held_out, preprocessing)
    normal = np.zeros(len(held_out), dtype=bool)
    threshold = learn_threshold(held_out, normal, LearningRule(method="Percentile", percentile=PERCENTILE))
    rule = DecisionRule(learn_calibration(held_out, normal, threshold))
    begun = time.perf_counter()
    scores, maps = _score(detector, [Path(file) for file in images.test["file"]], preprocessing, with_maps=True)
    seconds = time.perf_counter() - begun
    flags = images.test["is_anomalous"].to_numpy(bool)
    judged = rule.judge(scores)
    found = evaluate(scores, flags, judged.predicted)
    area = found.image_auroc
    weights = detector.weights
    return Compared(
        images.name,
        candidate,
        encoder=f"{weights.name} ({weights.source})" if weights.name else "",
        evaluation=found,
        interval=None if area is None else auroc_interval(area, int((~flags).sum()), int(flags.sum())),
        pixel_auroc=_pixel_auroc(maps, images.test) if maps else None,
        rows=images.test.assign(raw_score=scores, p=judged.p, predicted=judged.predicted),
        maps=maps,
        fit_seconds=fit_seconds,
        ms_per_image=1000 * seconds / len(scores),
        megabytes=bytes_of(detector.state_dict().values()) / 1e6,
        notices=detector.report.notices,
    )


def dataset_of(files: Sequence[Path], preprocessing: Preprocessing) -> ImageDataset:
    """Return files as a detector reads them."""
    from vad_lib.detectors.images import ImageDataset

    shapes = []
    for file in files:
        with Image.open(file) as image:
            shapes.append((image.height, image.width))
    return ImageDataset(files, preprocessing, shapes=shapes)


def _score(
    detector: Detector, files: Sequence[Path], preprocessing: Preprocessing, *, with_maps: bool = False
) -> tuple[npt.NDArray[np.float64], dict[str, Map]]:
    """Return raw scores (N,) in the order of the files, and the maps by file.

    Raises:
        InputError: one of the images cannot be read.
    """
    images = dataset_of(files, preprocessing)
    scores, maps = np.full(len(files), np.nan), {}
    for batch in images.batches(8):
        found = detector.score(batch.images, with_maps=with_maps)
        scores[batch.indices] = found.scores
        for index, one in zip(batch.indices, () if found.maps is None else found.maps, strict=False):
            maps[str(files[index])] = one[::MAP_STEP, ::MAP_STEP]
    if images.unreadable:
        index, reason = next(iter(images.unreadable.items()))
        raise InputError(f"{files[index]} cannot be read: {reason}")
    return scores, maps


def _pixel_auroc(maps: Mapping[str, Map], test: pd.DataFrame) -> float | None:
    """Return the area under the ROC curve of the pixels; images that are anomalous and have no mask are left out."""
    from sklearn.metrics import roc_auc_score

    if not test["mask"].astype(bool).any():
        return None
    truths, values = [], []
    for file, mask, anomalous in zip(test["file"], test["mask"], test["is_anomalous"], strict=True):
        if anomalous and not mask:
            continue
        one = maps[file]
        truth = np.zeros(one.shape, dtype=bool)
        if mask:
            with Image.open(mask) as picture:
                small = picture.convert("L").resize((one.shape[1], one.shape[0]), Image.Resampling.NEAREST)
            truth = np.asarray(small) > 127
        truths.append(truth.ravel())
        values.append(one.ravel())
    return float(roc_auc_score(np.concatenate(truths), np.concatenate(values)))
