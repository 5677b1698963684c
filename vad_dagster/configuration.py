"""What an operator may enter in the launchpad. Empty fields leave the plan's value; others win over it, on record.

Meaning and limits come from the plan's own argument models. A value for an argument that the plan does not list under
``ui_args`` is refused when the asset starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import dagster as dg
from pydantic import Field

from vad_lib.argument_fields import Arguments, allowed_text, default_of
from vad_lib.plan import ExperimentalPlan, InferenceArguments, ReadinessArguments, TrainArguments


def _argument(model: type[Arguments], name: str) -> Any:
    """Return an optional config field that explains itself with the words of the plan's model."""
    field = model.model_fields[name]
    return Field(
        default=None,
        description=f"{field.description} Must be {allowed_text(field)}. Empty: as the plan says "
        f"(the guide's default is {default_of(field)!r}). Only where the plan lists it under ui_args.",
    )


class OperatorConfig(dg.Config):
    """Base: fields are arguments of the plan, but for those in NOT_ARGUMENTS."""

    NOT_ARGUMENTS: ClassVar[tuple[str, ...]] = ()

    def arguments(self) -> dict[str, Any]:
        """Return the plan's arguments that were entered, without the empty ones."""
        return self.entered(self.model_dump())

    @classmethod
    def entered(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the same of values as a run config holds them."""
        return {
            name: value
            for name, value in values.items()
            if value is not None and value != "" and name not in cls.NOT_ARGUMENTS
        }


class ReadinessConfig(OperatorConfig):
    """Arguments of the step readiness."""

    ok_class: str | None = _argument(ReadinessArguments, "ok_class")
    train_validate_column: str | None = _argument(ReadinessArguments, "train_validate_column")
    validation_split_rate: float | None = _argument(ReadinessArguments, "validation_split_rate")
    threshold_method: str | None = _argument(ReadinessArguments, "threshold_method")
    num_minor_threshold: int | None = _argument(ReadinessArguments, "num_minor_threshold")
    ratio_minor_threshold: float | None = _argument(ReadinessArguments, "ratio_minor_threshold")
    enforce_requirements: bool | None = _argument(ReadinessArguments, "enforce_requirements")
    allow_small_dataset: bool | None = _argument(ReadinessArguments, "allow_small_dataset")


class TrainConfig(OperatorConfig):
    """Arguments of the step train."""

    model_name: str | None = _argument(TrainArguments, "model_name")
    experiment_seed: int | None = _argument(TrainArguments, "experiment_seed")
    img_size: list[int] | None = _argument(TrainArguments, "img_size")
    batch_size: int | None = _argument(TrainArguments, "batch_size")
    max_epochs: int | None = _argument(TrainArguments, "max_epochs")
    accelerator: str | None = _argument(TrainArguments, "accelerator")
    monitor_metric: str | None = _argument(TrainArguments, "monitor_metric")
    save_validation_heatmap: bool | None = _argument(TrainArguments, "save_validation_heatmap")
    augmentation_list: list[str] | None = _argument(TrainArguments, "augmentation_list")
    augmentation_choice: int | None = _argument(TrainArguments, "augmentation_choice")
    rotation_angle: float | None = _argument(TrainArguments, "rotation_angle")
    brightness_degree: float | None = _argument(TrainArguments, "brightness_degree")
    contrast_degree: float | None = _argument(TrainArguments, "contrast_degree")
    saturation_degree: float | None = _argument(TrainArguments, "saturation_degree")
    hue_degree: float | None = _argument(TrainArguments, "hue_degree")
    blur_kernel_size: int | None = _argument(TrainArguments, "blur_kernel_size")
    feature_cache: bool | None = _argument(TrainArguments, "feature_cache")
    precision: str | None = _argument(TrainArguments, "precision")

    @classmethod
    def entered(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """As ``OperatorConfig.entered``; ``img_size: [224]`` means the one number 224."""
        match entered := super().entered(values):
            case {"img_size": [size]}:
                return {**entered, "img_size": size}
        return entered


class ThresholdConfig(OperatorConfig):
    """How the threshold is found; changing it needs no new training."""

    NOT_ARGUMENTS: ClassVar[tuple[str, ...]] = ("chosen_threshold", "note")

    percentile: float | None = _argument(TrainArguments, "percentile")
    false_alarms_per_thousand: float | None = _argument(TrainArguments, "false_alarms_per_thousand")
    false_alarm_confidence: float | None = _argument(TrainArguments, "false_alarm_confidence")
    cost_of_miss: float | None = _argument(TrainArguments, "cost_of_miss")
    cost_of_false_alarm: float | None = _argument(TrainArguments, "cost_of_false_alarm")
    share_of_defects: float | None = _argument(TrainArguments, "share_of_defects")
    threshold_from_first: int | None = _argument(TrainArguments, "threshold_from_first")
    chosen_threshold: float | None = Field(
        default=None,
        description="A threshold on the raw score, picked from the threshold table (column threshold) for the sake of "
        "recall or precision. Empty: it is learnt from the validation rows.",
    )
    note: str = Field(default="", description="Why this threshold was chosen; kept with the model version.")


class PromotionConfig(dg.Config):
    """Who serves next."""

    promote_version: str = Field(
        default="",
        description="Number of the model version that shall serve, as MLflow shows it; 'challenger' is the newest that "
        "does not, and 'previous' goes back to the one before. Empty: the rule decides about the newest version.",
    )
    lift_choice: bool = Field(
        default=False,
        description="Let the rule decide again about a line whose version a person chose; until then that one stays.",
    )
    decided_by: str = Field(default="", description="Your name, where you chose the version; kept on the version.")


class InspectionConfig(OperatorConfig):
    """What is inspected, and how."""

    NOT_ARGUMENTS: ClassVar[tuple[str, ...]] = ("folder", "queue")

    inference_threshold: float | None = _argument(InferenceArguments, "inference_threshold")
    save_anomaly_maps: bool | None = _argument(InferenceArguments, "save_anomaly_maps")
    folder: str = Field(
        default="",
        description="Folder of images, or of a table and images, to inspect now. Empty: the plan's inference data.",
    )
    queue: bool = Field(
        default=False,
        description="Inspect the images that wait in the line's queue instead of a folder; the sensor asks for that.",
    )


TAKEN_BY: dict[str, tuple[str, type[OperatorConfig]]] = {
    "validated_dataset": ("readiness", ReadinessConfig),
    "trained_model": ("train", TrainConfig),
    "threshold_table": ("train", ThresholdConfig),
    "inference_outputs": ("inference", InspectionConfig),
}
"""The step of the plan whose arguments an asset takes, and its config."""


def plan_of_run(plan: ExperimentalPlan, run_config: Mapping[str, Any]) -> ExperimentalPlan:
    """Return a plan with everything that an operator entered for the assets of a run.

    Args:
        plan: of the line.
        run_config: as the launchpad holds it.

    Raises:
        PlanError: an argument that may not be changed, or a value that is not allowed.
    """
    for asset, (step, model) in TAKEN_BY.items():
        values = ((run_config.get("ops") or {}).get(asset) or {}).get("config") or {}
        plan = plan.with_operator_arguments(step, model.entered(values))
    return plan


class ComparisonConfig(dg.Config):
    """Which detectors are compared, and how."""

    models: list[str] = Field(
        default=[],
        description="Detectors, as a plan's model_name. Empty: the plan's own and the two usual ones.",
    )
    parts: int = Field(
        default=5, ge=3, description="Into which the images are cut: each part is scored by models of the others."
    )


class ExtensionConfig(dg.Config):
    """Which images a person has found normal."""

    images: list[str] = Field(
        default=[],
        description="Absolute paths of images, or of folders of images; all of them normal. "
        "Without any nothing is done.",
    )
    promote: bool = Field(
        default=False, description="Let the extended version serve at once. Else it is the challenger, for a person."
    )
    decided_by: str = Field(default="", description="Your name: who says that the images are normal. Kept.")


class DescriptionConfig(dg.Config):
    """Which findings are described in words."""

    newest: int = Field(default=20, ge=1, le=1000, description="How many of the newest inspected images.")
    only_ng: bool = Field(default=True, description="Only those of which the detector says NG.")
