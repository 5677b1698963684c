"""The train step: from a validated dataset and the plan's arguments to a fitted detector and validation scores.

Nothing is written here but what the caller asks for, and nothing is half written: a fit that is stopped, by an
exception in ``progress`` or by the keyboard, leaves no file and no half-fitted detector behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from vad_lib.augmentation import COLOUR_TRANSFORMS, LARGEST_HUE, TRANSFORMS, Augmentation
from vad_lib.errors import InputError, PlanError, ReadinessError
from vad_lib.findings import ArgumentChange
from vad_lib.machine import require_accelerator
from vad_lib.preprocessing import Preprocessing, resolve_image_size
from vad_lib.progress import Progress, ProgressMeter, silent
from vad_lib.tables import ValidationScores

if TYPE_CHECKING:
    from vad_lib.detectors.base import Detector, Epoch, FitReport
    from vad_lib.detectors.images import ImageDataset
    from vad_lib.encoders.weight_file import BackboneWeights
    from vad_lib.plan.arguments import TrainArguments
    from vad_lib.readiness.dataset import ValidatedDataset


@dataclass(frozen=True)
class FittedDetector:
    """What a fit gives.

    Attributes:
        detector: fitted.
        preprocessing: brings images to the detector's size.
        report: epochs, the metric that decided, numbers.
        seconds: of the fit, reading of the images included.
        arguments: in force, after all automatic changes.
        weights: the backbone's. Say it loudly where ``weights.is_fallback``, or ``weights.source`` is 'random'.
        changes: arguments that were changed automatically here (readiness has its own).
        notices: what the user should know.
        unreadable: reasons by path, of training images that could not be read any more; they were left out.
        n_train: images that were learnt from.
    """

    detector: Detector
    preprocessing: Preprocessing
    report: FitReport
    seconds: float
    arguments: TrainArguments
    weights: BackboneWeights
    n_train: int
    changes: tuple[ArgumentChange, ...] = ()
    notices: tuple[str, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def history(self) -> tuple[Epoch, ...]:
        """One entry an epoch; empty for a detector without epochs."""
        return self.report.epochs


@dataclass(frozen=True)
class PreparedFit:
    """What a fit begins with: the unfitted detector and the images that it learns from and is watched on."""

    detector: Detector
    images: ImageDataset
    validation: ImageDataset | None
    preprocessing: Preprocessing
    arguments: TrainArguments
    changes: tuple[ArgumentChange, ...]
    notices: tuple[str, ...]


def require_usable(train: TrainArguments) -> None:
    """Refuse arguments that cannot be used here, before any work is begun: a GPU that is not there, unknown layers.

    Raises:
        PlanError: says what can be used.
    """
    from vad_lib.detectors.registry import find_detector

    require_accelerator(train.accelerator)
    own = find_detector(train.model_name).own(train.model_parameters)
    if reason := own.reason_against(train.precision):
        raise PlanError(reason)
    own.require_usable()


def fit_detector(
    dataset: ValidatedDataset,
    train: TrainArguments,
    *,
    weights_store: Path | None = None,
    progress: Progress = silent,
    work_folder: Path | None = None,
    cache_folder: Path | None = None,
) -> FittedDetector:
    """Fit the detector that the plan asks for on the training rows.

    The same rows, arguments, seed, thread count and library versions give the same detector, bit for bit on the CPU.

    Args:
        dataset: after readiness; its ``monitor_metric`` is the one in force.
        train: the plan's train arguments.
        weights_store: where backbone weights lie; the home's by default.
        progress: told of every step, with an estimate; an exception raised in it stops the fit.
        work_folder: where the fitted detector is saved at the end, in a folder ``detector``, and where a streaming fit
            keeps what it has done, in ``memory_bank``, to go on after a kill; nowhere by default.
        cache_folder: of features that earlier fits extracted (``detectors.feature_cache``); none by default.

    Raises:
        WeightsMissingError: the backbone's weights are not on this machine; before any image is read.
        PlanError: arguments that cannot be used on this machine or with this backbone.
        ReadinessError: no training row, and the detector needs some.
        InputError: no training image can be read.
    """
    start = time.monotonic()
    prepared = prepare_fit(
        dataset, train, weights_store=weights_store, work_folder=work_folder, cache_folder=cache_folder
    )
    detector, images = prepared.detector, prepared.images
    detector.fit(images, validation=prepared.validation, progress=progress)
    unreadable = {str(images.files[index]): reason for index, reason in sorted(images.unreadable.items())}
    notices = [*prepared.notices, *detector.report.notices]
    if unreadable:
        notices.append(f"{len(unreadable)} training images could not be read any more and were left out.")
    if work_folder is not None:
        detector.save(work_folder / "detector")
    return FittedDetector(
        detector=detector,
        preprocessing=prepared.preprocessing,
        report=detector.report,
        seconds=time.monotonic() - start,
        arguments=prepared.arguments,
        weights=detector.weights,
        n_train=len(images) - len(unreadable),
        changes=prepared.changes,
        notices=tuple(notices),
        unreadable=unreadable,
    )


def prepare_fit(
    dataset: ValidatedDataset,
    train: TrainArguments,
    *,
    weights_store: Path | None = None,
    work_folder: Path | None = None,
    cache_folder: Path | None = None,
) -> PreparedFit:
    """Make the unfitted detector and its images; arguments and errors are those of ``fit_detector``."""
    from vad_lib.detectors.images import ImageDataset
    from vad_lib.detectors.registry import find_detector
    from vad_lib.encoders.clip_folder import warning_of

    rows, valid_rows = dataset.train_rows, dataset.valid_rows
    if not len(rows) and train.needs_images:
        raise ReadinessError("There is no normal training image: nothing can be learnt.")
    own = find_detector(train.model_name).own(train.model_parameters)
    size, changes = resolve_image_size(train.img_size, *own.size_for(train.img_size))
    arguments = train.model_copy(update={"img_size": size, "monitor_metric": dataset.monitor_metric})
    detector = create_detector(
        arguments, weights_store=weights_store, work_folder=work_folder, cache_folder=cache_folder
    )
    preprocessing = Preprocessing(size, grey_bits := grey_bits_of(dataset.image_facts))
    augmentation = augmentation_of(arguments, grey=bool((rows["channels"] == 1).all()))
    return PreparedFit(
        detector=detector,
        images=ImageDataset.from_rows(rows, preprocessing, augmentation),
        validation=ImageDataset.from_rows(valid_rows, preprocessing) if len(valid_rows) else None,
        preprocessing=preprocessing,
        arguments=arguments,
        changes=changes,
        notices=(
            *(augmentation.notices if augmentation else ()),
            *_notice_of_bits(grey_bits),
            *filter(None, (warning_of(detector.weights),)),
        ),
    )


def grey_bits_of(facts: pd.DataFrame) -> int:
    """Return the bits that 16-bit grey images use (``images.checking.check_images``); 16 where there is none."""
    known = facts["grey_bits"].dropna() if "grey_bits" in facts else ()
    return int(max(known, default=16))


def _notice_of_bits(bits: int) -> tuple[str, ...]:
    if bits == 16:
        return ()
    return (
        f"The 16-bit images use {bits} bits: the value {2**bits - 1} is white, and the model keeps it so. What is "
        "brighter in later images is white too.",
    )


def create_detector(
    train: TrainArguments,
    *,
    weights_store: Path | None = None,
    work_folder: Path | None = None,
    cache_folder: Path | None = None,
) -> Detector:
    """Make the unfitted detector that a plan asks for.

    Args:
        train: the plan's train arguments.
        weights_store: where backbone weights lie; the home's by default.
        work_folder: where a fit may keep what it has done, to go on after a kill; nowhere by default.
        cache_folder: of features that earlier fits extracted (``feature_cache``); none by default.

    Raises:
        PlanError: an unknown detector or layer, or a GPU that is not there.
        WeightsMissingError: the backbone's weights are not on this machine.
        ModelFormatError: the weight file is damaged or lacks what is needed.
    """
    from vad_lib.detectors.base import FitSettings
    from vad_lib.detectors.registry import find_detector
    from vad_lib.encoders.weights import resolve_backbone_weights

    detector = find_detector(train.model_name)
    own = detector.own(train.model_parameters)
    weights = replace(resolve_backbone_weights(own.backbone(), weights_store), precision=train.precision)
    cache = None
    if cache_folder is not None and train.feature_cache:
        from vad_lib.detectors.feature_cache import FeatureCache

        cache = FeatureCache.from_environment(cache_folder)
    settings = FitSettings(
        weights=weights,
        seed=train.experiment_seed,
        batch_size=train.batch_size,
        max_epochs=train.max_epochs,
        monitor_metric=train.monitor_metric,
        accelerator=train.accelerator,
        work_folder=work_folder,
        feature_cache=cache,
        weights_store=weights_store,
    )
    return detector.load_class().create(own, settings)


def augmentation_of(train: TrainArguments, *, grey: bool = False) -> Augmentation | None:
    """Return the augmentation that a plan asks for; None where nothing would ever be applied.

    Args:
        train: the plan's train arguments.
        grey: True where every training image has one channel; saturation and hue have no effect there and are
            left out with a notice.

    Raises:
        PlanError: an unknown transform, or a hue_degree above 0.5.
    """
    names = tuple(dict.fromkeys(train.augmentation_list))
    if unknown := [name for name in names if name not in TRANSFORMS]:
        raise PlanError(f"augmentation_list holds {unknown[0]!r}; the transforms are {', '.join(TRANSFORMS)}.")
    if "hue" in names and train.hue_degree > LARGEST_HUE:
        raise PlanError(f"hue_degree is {train.hue_degree}; the largest possible shift is {LARGEST_HUE}.")
    notices = []
    if grey and (idle := [name for name in names if name in COLOUR_TRANSFORMS]):
        names = tuple(name for name in names if name not in COLOUR_TRANSFORMS)
        notices.append(f"The training images are grey: {' and '.join(idle)} would have no effect and is left out.")
    if "blur" in names and train.blur_kernel_size < 3:
        names = tuple(name for name in names if name != "blur")
        notices.append(f"blur_kernel_size is {train.blur_kernel_size}: the smallest blur is 3 pixels, so none is done.")
    if names and train.augmentation_choice > len(names):
        notices.append(
            f"augmentation_choice is {train.augmentation_choice}, but there are {len(names)} transforms: "
            "all of them are applied to each image."
        )
    choice = min(train.augmentation_choice, len(names))
    if not names and not notices:
        return None
    return Augmentation(
        names,
        choice,
        train.rotation_angle,
        train.brightness_degree,
        train.contrast_degree,
        train.saturation_degree,
        train.hue_degree,
        train.blur_kernel_size,
        train.experiment_seed,
        tuple(notices),
    )


def score_rows(
    detector: Detector,
    preprocessing: Preprocessing,
    rows: pd.DataFrame,
    batch_size: int = 4,
    progress: Progress = silent,
    *,
    on_map: Callable[[int, npt.NDArray[np.float32]], None] | None = None,
) -> pd.DataFrame:
    """Score labelled rows.

    Args:
        detector: fitted.
        preprocessing: the one it was fitted with.
        rows: ``tables.ValidatedRows`` with labels, such as ``dataset.valid_rows``.
        batch_size: images read at once; no effect on any score.
        progress: told of every batch.
        on_map: called with each row number and its map, float32 (H, W), in the order of scoring.

    Returns:
        ``tables.ValidationScores`` in the order of ``rows``. Rows whose image cannot be read any more are left out and
        listed in ``.attrs["unreadable"]`` as [{'row', 'image_path', 'reason'}]; ``.attrs["ms_per_image"]`` is the
        time that reading and scoring took, where there are rows.

    Raises:
        InputError: a row has no label, or none can be read.
    """
    from vad_lib.detectors.images import ImageDataset

    if rows["is_anomalous"].isna().any():
        raise InputError("A validation row has no label; scores without labels come from InspectionModel.")
    images = ImageDataset.from_rows(rows, preprocessing)
    start = time.monotonic()
    scores = np.full(len(images), np.nan)
    meter = ProgressMeter(progress, "Scoring", len(images))
    numbers = rows["row"].to_numpy()
    for batch in images.batches(batch_size):
        result = detector.score(batch.images, with_maps=on_map is not None)
        scores[batch.indices] = result.scores
        if on_map is not None and result.maps is not None:
            for index, anomaly_map in zip(batch.indices, result.maps, strict=True):
                on_map(int(numbers[index]), anomaly_map)
        meter.advance(len(batch.indices))
    read = np.array([index not in images.unreadable for index in range(len(images))], dtype=bool)
    if len(rows) and not read.any():
        raise InputError(f"None of the {len(rows)} images can be read any more, {rows['file'].iloc[0]} for one.")
    table = rows[["row", "image_path", "file", "label", "is_anomalous"]].assign(raw_score=scores)[read]
    table = table.astype({"is_anomalous": bool}).reset_index(drop=True)
    validated = ValidationScores.validate(table)
    if len(table):
        validated.attrs["ms_per_image"] = round(1000 * (time.monotonic() - start) / len(table), 3)
    validated.attrs["unreadable"] = [
        {"row": int(numbers[index]), "image_path": str(rows["image_path"].iloc[index]), "reason": reason}
        for index, reason in sorted(images.unreadable.items())
    ]
    return validated
