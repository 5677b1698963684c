"""The arguments of every step, as frozen models: the guide's names, defaults and limits.

One class per step. A class says what may be written in a plan; what follows from several arguments together (a fixed
image size, a capped ``augmentation_choice``) is in ``resolving.py``, and what follows from the data is readiness. The
arguments of a detector are in its own folder.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import SerializeAsAny, field_validator

from vad_lib.argument_fields import Arguments, allowed_text, argument, words_of
from vad_lib.detectors.registry import GUIDE_DEFAULT, detector_names, find_detector, parameters_model
from vad_lib.images.paths import is_image_name
from vad_lib.notice_rules import NoticeRule
from vad_lib.plan.folders import holds_escapes
from vad_lib.plan.tree import BACKSLASHES
from vad_lib.thresholds import Costs, FalseAlarmBudget, LearningRule, LearntMethod

Augmentation = Literal["rotation", "brightness", "contrast", "saturation", "hue", "blur"]
Promotion = Literal["automatic", "by_person", "never"]

SMALLEST_SIDE = 32
LARGEST_SIDE = 2048
_SIZE_TEXT = re.compile(r"[\\\[( ]*(\d+)\s*(?:[,x×]|\s)\s*(\d+)[\\\]) ]*", re.IGNORECASE)
_FRACTION = "0.8 means that about 20 % of the normal validation images count as NG by construction"


class InputArguments(Arguments):
    """Step ``input``: how the ground-truth table is read."""

    file_type: Literal["csv"] = argument("csv", "Kind of the ground-truth table.", kind="required", user_setting=True)
    encoding: str = argument(
        "utf-8", "Encoding of the table; a byte-order mark is understood.", allowed="a text encoding that Python knows"
    )
    path_column: str = argument(
        "image_path", "Column that holds the image paths.", user_setting=True, min_length=1, allowed="a column name"
    )
    y_column: str = argument(
        "label", "Column that holds the labels.", user_setting=True, min_length=1, allowed="a column name"
    )

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
        except (LookupError, UnicodeError, ValueError):
            raise ValueError("must be a text encoding that Python knows, such as utf-8, cp949, cp1252") from None
        return value


class ReadinessArguments(Arguments):
    """Step ``readiness``: what is normal, what is held back for validation, how the threshold is learnt."""

    ok_class: str = argument(
        "",
        "Label of the normal images; empty takes the most frequent label of the training data.",
        operator_may_change=True,
        computed="the most frequent label of the training data",
        allowed="any label",
    )
    train_validate_column: str = argument(
        "",
        "Column that says train or valid for each row; empty makes a split by validation_split_rate.",
        aliases=("train_validation_column",),
        computed="a split by validation_split_rate",
        allowed="a column name",
    )
    validation_split_rate: float = argument(
        0.1, "Share of the normal rows held back for validation where no column says it.", gt=0, lt=1
    )
    threshold_method: LearntMethod = argument(
        "F1",
        "How the threshold is learnt. F1 becomes Percentile by itself where there are too few anomalous rows, and Cost "
        "where there is none. FalseAlarmRate keeps false_alarms_per_thousand, and needs normal rows only.",
    )
    num_minor_threshold: int = argument(
        5, "Percentile is taken where the smaller class has this many validation rows or fewer.", ge=0
    )
    ratio_minor_threshold: float = argument(
        0.1, "Percentile is taken where the smaller class is this share of the validation rows or less.", ge=0, le=1
    )
    enforce_requirements: bool = argument(
        False, "Stop where a mandatory requirement of the guide is broken, instead of showing it.", kind="own"
    )
    allow_small_dataset: bool = argument(
        False, "Accept fewer normal images than required, on record, even with enforce_requirements.", kind="own"
    )


def model_parameters(**values: Any) -> Arguments:
    """Return the dict ``model_parameters`` of step ``train``: the arguments of every detector that is installed.

    Args:
        values: by name; what is not given keeps its default.
    """
    return parameters_model()(**values)


class TrainArguments(Arguments):
    """Step ``train``: the detector, how it is fitted, and how the images are prepared."""

    model_name: str = argument(
        GUIDE_DEFAULT,
        "The detector.",
        kind="required",
        operator_may_change=True,
        user_setting=True,
        choices=detector_names,
    )
    experiment_seed: int = argument(
        42, "Seed of torch, numpy, Python, the data loaders and the coreset's start.", ge=0, le=2**32 - 1
    )
    img_size: tuple[int, int] | int = argument(
        (256, 256),
        "Size that images are resized to: [height, width], or one number for the shorter side with the aspect ratio "
        "kept. A detector that is made for one size takes that one, and the plan's notices say so.",
        allowed=f"[height, width] or one number, each a whole number from {SMALLEST_SIDE} to {LARGEST_SIDE}",
    )
    batch_size: int = argument(4, "Images at once, in training and validation.", ge=1)
    max_epochs: int = argument(15, "Most passes over the training images, for a detector that trains in epochs.", ge=1)
    accelerator: Literal["cpu", "gpu"] = argument("cpu", "Where the model is computed.")
    precision: Literal["float32", "bfloat16"] = argument(
        "float32",
        "Arithmetic of the encoder, and of FastFlow's flows, in the fit and in every score of the model. bfloat16 is "
        "faster on a GPU and on processors with AMX or AVX-512 BF16, and slower on others.",
        kind="own",
    )
    feature_cache: bool = argument(
        True,
        "Keep the features of training images on disk, by content, so that a later training extracts only those of new "
        "images. No effect on any result, and none with augmentation_list.",
        kind="own",
    )
    monitor_metric: Literal["loss", "image_AUROC", "image_F1Score"] = argument(
        "image_AUROC", "What decides which epoch is kept; becomes loss with threshold_method Percentile."
    )
    save_validation_heatmap: bool = argument(
        True, "Save heatmaps of the validation images that are anomalous or were judged wrongly."
    )
    percentile: float = argument(
        0.8,
        f"With Percentile, the quantile of the validation scores from which an image is NG; {_FRACTION}.",
        ge=0,
        le=1,
    )
    false_alarms_per_thousand: float = argument(
        10.0,
        "With FalseAlarmRate: normal images of 1,000 that may be called NG. 10 with confidence 0.95 needs 299 normal "
        "validation images; with fewer the threshold lies above all of them, and what can be promised is said.",
        kind="own",
        gt=0,
        lt=1000,
    )
    false_alarm_confidence: float = argument(
        0.95, "With FalseAlarmRate: how sure the budget is kept.", kind="own", gt=0, lt=1
    )
    cost_of_miss: float = argument(
        100.0, "With Cost: what a defective part costs that is called OK, in any currency.", kind="own", ge=0, le=1e12
    )
    cost_of_false_alarm: float = argument(
        1.0, "With Cost: what a good part costs that is called NG, in the same currency.", kind="own", ge=0, le=1e12
    )
    share_of_defects: float = argument(
        0.01, "With Cost: the share of all parts made that is defective.", kind="own", gt=0, lt=1
    )
    threshold_from_first: int = argument(
        0,
        "Without validation images: take the percentile of the raw scores of the first so many images that the line "
        "has inspected, at the next training; 0 keeps the detector's own threshold.",
        kind="own",
        ge=0,
        le=100_000,
    )
    augmentation_list: tuple[Augmentation, ...] = argument(
        (),
        "Random changes that training images may get; none where empty.",
        allowed="a list of rotation, brightness, contrast, saturation, hue, blur",
    )
    augmentation_choice: int = argument(
        3, "How many of augmentation_list each training image gets; at most as many as are listed.", ge=0
    )
    rotation_angle: float = argument(10.0, "Largest rotation in degrees, either way.", ge=0, le=180)
    brightness_degree: float = argument(0.3, "Brightness is multiplied by 1 - d to 1 + d.", ge=0, le=1)
    contrast_degree: float = argument(0.3, "Contrast is multiplied by 1 - d to 1 + d.", ge=0, le=1)
    saturation_degree: float = argument(
        0.3, "Saturation is multiplied by 1 - d to 1 + d; colour images only.", ge=0, le=1
    )
    hue_degree: float = argument(
        0.3,
        "Hue is shifted by up to this share of the colour circle, either way; colour images only.",
        ge=0,
        le=0.5,
        allowed="a number from 0 to 0.5 (half the colour circle either way is already every hue)",
    )
    blur_kernel_size: int = argument(
        5, "Largest blur kernel in pixels; odd sizes are drawn; 0 means no blur.", ge=0, le=255
    )
    model_parameters: SerializeAsAny[Arguments] = argument(
        model_parameters, "Arguments of the detectors themselves.", allowed="a map of model parameters"
    )

    def learning_rule(self, method: str) -> LearningRule:
        """Return how the threshold is learnt by the method in force, which readiness may have changed."""
        return LearningRule.model_validate(
            {
                "method": method,
                "percentile": self.percentile,
                "budget": FalseAlarmBudget(
                    per_thousand=self.false_alarms_per_thousand, confidence=self.false_alarm_confidence
                ),
                "costs": Costs(
                    miss=self.cost_of_miss,
                    false_alarm=self.cost_of_false_alarm,
                    share_of_defects=self.share_of_defects,
                ),
            }
        )

    def threshold_without_images(self) -> float | None:
        """Return the threshold of the detector where there are no images; None where it needs some."""
        return find_detector(self.model_name).own(self.model_parameters).threshold_without_images()

    @property
    def needs_images(self) -> bool:
        """Whether the detector learns from images of the line."""
        return self.threshold_without_images() is None

    @field_validator("model_name")
    @classmethod
    def _known_detector(cls, value: str) -> str:
        if value not in detector_names():
            raise ValueError(f"is refused: it must be {allowed_text(cls.model_fields['model_name'])}")
        return value

    @field_validator("model_parameters", mode="before")
    @classmethod
    def _arguments_of_all_detectors(cls, value: Any) -> Any:
        return parameters_model()(**value) if isinstance(value, dict) else value

    @field_validator("img_size", mode="before")
    @classmethod
    def _size_as_written(cls, value: Any) -> Any:
        if isinstance(value, str) and (pair := _SIZE_TEXT.fullmatch(value)):
            return pair.group(1), pair.group(2)
        if isinstance(value, list | tuple) and len(value) == 1:
            return value[0]
        return value

    @field_validator("img_size")
    @classmethod
    def _size_within_limits(cls, value: tuple[int, int] | int) -> tuple[int, int] | int:
        for side in value if isinstance(value, tuple) else (value,):
            if not SMALLEST_SIDE <= side <= LARGEST_SIDE:
                raise ValueError(f"has a side of {side} pixels: each must be from {SMALLEST_SIDE} to {LARGEST_SIDE}")
        return value

    @field_validator("augmentation_list", mode="before")
    @classmethod
    def _one_augmentation_or_a_list(cls, value: Any) -> Any:
        return words_of(value)

    @field_validator("augmentation_list")
    @classmethod
    def _each_augmentation_once(cls, value: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names an augmentation twice")
        return value


class InferenceArguments(Arguments):
    """Step ``inference``: where NG begins, and whether heatmaps are saved."""

    inference_threshold: float = argument(
        0.5,
        "NG from this calibrated score p on; 0.5 is exactly the trained threshold. The column p of "
        "threshold_test_result.csv gives other choices.",
        kind="required",
        ge=0,
        le=1,
    )
    save_anomaly_maps: bool = argument(False, "Save a heatmap of every inspected image.")


class OutputArguments(Arguments):
    """Step ``output`` takes no arguments."""


class OperationArguments(Arguments):
    """Section ``operation``, which the guide does not have: how the line runs."""

    watch_folder: str = argument(
        "",
        "Folder where images arrive; empty takes the inbox of the line.",
        kind="own",
        computed="the inbox of the line",
        allowed="a folder",
        aliases=("landing_folder",),
    )
    ignored_suffixes: tuple[str, ...] = argument(
        (),
        "Files with these endings, which cameras write beside images, are neither refused nor told.",
        kind="own",
        allowed="a list of endings such as .xml and .json, but not of images",
    )
    settle_seconds: float = argument(
        2.0, "A file that nobody closes is complete when size and time stood still this long.", kind="own", ge=0
    )
    promotion: Promotion = argument(
        "by_person",
        "Who lets a later model version serve: the rule by itself where it finds it not worse (automatic), a person "
        "(by_person), or nobody (never). The first version of a line serves in any case.",
        kind="own",
    )
    gate_least_judged: int = argument(
        20,
        "Live images that people must have judged, and champion and challenger scored, before automatic promotion; 0: "
        "the validation rows are enough.",
        kind="own",
        ge=0,
    )
    shadow_share: float = argument(
        0.2,
        "Share of the live images, and of the machine's time, in which a version that does not serve scores beside the "
        "champion; 0: none does.",
        kind="own",
        ge=0,
        le=1,
    )
    rollback_below: float = argument(
        0.0,
        "Let the version before serve again where people agree with less than this share of what the champion decided, "
        "and chance does not explain it; 0: never.",
        kind="own",
        ge=0,
        le=1,
    )
    rollback_without_labels: bool = argument(
        False,
        "For rollback_below, agreement with the version before counts where nobody has judged an image.",
        kind="own",
    )
    train_after_labels: int = argument(
        0,
        "Train by itself once people have judged so many images since the last training; 0: never.",
        kind="own",
        ge=0,
    )
    train_when_agreement_below: float = argument(
        0.0,
        "Train by itself where people agree with a smaller share of the champion's predictions; 0: never.",
        kind="own",
        ge=0,
        le=1,
    )
    train_agreement_images: int = argument(
        50, "Predictions of the champion that people must have judged before their agreement counts.", kind="own", ge=1
    )
    train_on_drift: bool = argument(
        False,
        "Train by itself where an alarm of drift stands about scores or NG, and none about the camera.",
        kind="own",
    )
    train_every_hours: float = argument(
        0.0, "Train by itself so long after the last training began; 0: never.", kind="own", ge=0
    )
    retrain_interval_hours: float = argument(
        6.0, "Least time between two trainings of the line, where no person starts them.", kind="own", ge=0
    )
    training_timeout_hours: float = argument(6.0, "A training that takes longer is stopped.", kind="own", gt=0)
    max_batch_images: int = argument(256, "Most images that one inspection run takes.", kind="own", ge=1)
    review_certainty: float = argument(
        0.2, "Images judged with less certainty than this are copied for review.", kind="own", ge=0, le=1
    )
    allow_images_to_leave: bool = argument(
        False,
        "Let pictures of this line be sent to a vision language model on another machine (VAD_VLM_URL); one on this "
        "machine needs no leave.",
        kind="own",
    )
    drift: bool = argument(True, "Watch each inspected image for drift: place, light, focus, scores, NG.", kind="own")
    drift_one_in: int = argument(
        3,
        "Of so many images one is also measured by what takes longer, rotation and the anomaly map; 0: none.",
        kind="own",
        ge=0,
    )
    usual_ng_share: float = argument(
        0.01, "Share of NG that is usual on the line; from three times that on, it is drift.", kind="own", gt=0, le=0.3
    )
    largest_shift: float = argument(1.0, "Pixels at 224 x 224 by which the part may lie off.", kind="own", gt=0)
    largest_rotation: float = argument(3.0, "Degrees by which the part may be turned.", kind="own", gt=0)
    notify: tuple[str, ...] = argument(
        (),
        "Who is told of what, by names of VAD_NOTIFY: ng, refused, drift, trouble, training_done, training_failed, "
        "gate. After a message, what happens within the minutes is told in one.",
        kind="own",
        allowed="a list of rules such as 'ng, drift to night-shift every 15'",
    )
    least_recall: float = argument(
        0.0,
        "The check of field_performance fails where less of the defects is found for sure; 0 asks for nothing.",
        kind="own",
        ge=0,
        le=1,
    )
    least_precision: float = argument(
        0.0, "The same for the share of NG images that are defective.", kind="own", ge=0, le=1
    )
    most_false_alarms: float = argument(
        1000.0,
        "The same for false alarms of 1,000 parts, where there are more; 1000 asks for nothing.",
        kind="own",
        ge=0,
        le=1000,
    )
    owners: tuple[str, ...] = argument(
        (),
        "Who answers for the line.",
        kind="own",
        allowed="a list of e-mail addresses and team:<name>",
    )

    @field_validator("watch_folder")
    @classmethod
    def _no_escapes(cls, value: str) -> str:
        if holds_escapes(value):
            raise ValueError(f"cannot be a path. {BACKSLASHES}")
        return value

    @field_validator("ignored_suffixes", mode="before")
    @classmethod
    def _one_suffix_or_a_list(cls, value: Any) -> Any:
        return words_of(value)

    @field_validator("ignored_suffixes")
    @classmethod
    def _suffixes_of_no_image(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        suffixes = tuple(f".{suffix.strip().lower().removeprefix('*').removeprefix('.')}" for suffix in value)
        for suffix in suffixes:
            if not re.fullmatch(r"\.[\w.-]+", suffix):
                raise ValueError(f"has {suffix!r}: an ending is such as .xml")
            if is_image_name(f"image{suffix}"):
                raise ValueError(f"has {suffix!r}: images are inspected")
        return suffixes

    @field_validator("notify", mode="before")
    @classmethod
    def _one_rule_or_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) and value.strip() else value or ()

    @field_validator("notify")
    @classmethod
    def _rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        receivers = [NoticeRule.parsed(rule).receiver for rule in value]
        if twice := [name for name in receivers if receivers.count(name) > 1]:
            raise ValueError(f"has two rules for {twice[0]!r}: put their events into one")
        return value

    @field_validator("owners", mode="before")
    @classmethod
    def _one_owner_or_a_list(cls, value: Any) -> Any:
        return words_of(value)

    @field_validator("owners")
    @classmethod
    def _mail_or_team(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for owner in value:
            if not re.fullmatch(r"team:\S+|[^@\s]+@[^@\s]+\.[^@\s]+", owner):
                raise ValueError(f"has {owner!r}: an owner is an e-mail address or team:<name>")
        return value
