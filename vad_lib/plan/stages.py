"""Which arguments belong where: the steps of both pipelines, the own section, and the names that users mix up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vad_lib.argument_fields import Arguments, extra
from vad_lib.detectors.registry import parameters_model
from vad_lib.plan.arguments import (
    InferenceArguments,
    InputArguments,
    OperationArguments,
    OutputArguments,
    ReadinessArguments,
    TrainArguments,
)
from vad_lib.plan.faults import did_you_mean, nearest

TRAIN_PIPELINE = "train_pipeline"
INFERENCE_PIPELINE = "inference_pipeline"

PATH_KEYS = {
    "load_train_data_path": "train_data",
    "load_inference_data_path": "inference_data",
    "save_train_artifacts_path": "save_train_artifacts",
    "save_inference_artifacts_path": "save_inference_artifacts",
}
"""Keys of ``external_path`` and the fields of ``ExternalPath`` that they fill."""


@dataclass(frozen=True)
class Stage:
    """One place that takes arguments. ``name`` is the field of ExperimentalPlan and the step in ``explain``."""

    name: str
    pipeline: str
    step: str
    model: type[Arguments]

    @property
    def place(self) -> str:
        return f"{self.pipeline} > {self.step}" if self.pipeline else self.step

    @property
    def described(self) -> str:
        return f"step {self.step} of {self.pipeline}" if self.pipeline else f"the section {self.step}"


INFERENCE_READINESS = Stage("inference_readiness", INFERENCE_PIPELINE, "readiness", ReadinessArguments)
STAGES = (
    Stage("input", TRAIN_PIPELINE, "input", InputArguments),
    Stage("readiness", TRAIN_PIPELINE, "readiness", ReadinessArguments),
    Stage("train", TRAIN_PIPELINE, "train", TrainArguments),
    Stage("inference_input", INFERENCE_PIPELINE, "input", InputArguments),
    INFERENCE_READINESS,
    Stage("inference", INFERENCE_PIPELINE, "inference", InferenceArguments),
    Stage("output", INFERENCE_PIPELINE, "output", OutputArguments),
)
"""The steps of the guide, in the order of their pipelines."""

OPERATION = Stage("operation", "", "operation", OperationArguments)
MODEL_PARAMETERS = "model_parameters"


def model_parameters_stage() -> Stage:
    """Return the map ``model_parameters`` of step train, with the arguments of every detector that is installed."""
    return Stage(MODEL_PARAMETERS, "", MODEL_PARAMETERS, parameters_model())


def steps_of(pipeline: str) -> tuple[str, ...]:
    """Return the steps of a pipeline in their order."""
    return tuple(stage.step for stage in STAGES if stage.pipeline == pipeline)


def find_stage(name: str) -> Stage | None:
    """Return the stage with this name, such as 'train' or 'inference_readiness'."""
    return next((stage for stage in (*STAGES, OPERATION) if stage.name == name), None)


def spellings(model: type[Arguments]) -> dict[str, str]:
    """Return every accepted spelling of the model's arguments, with the right name."""
    right = {name: name for name in model.model_fields}
    aliases = {alias: name for name, field in model.model_fields.items() for alias in extra(field, "aliases") or ()}
    return right | aliases


def operator_arguments(model: type[Arguments]) -> tuple[str, ...]:
    """Return the arguments that the guide lets a plan list under ui_args."""
    return tuple(name for name, field in model.model_fields.items() if extra(field, "ui"))


def advice_for_unknown(name: str, stage: Stage) -> str:
    """Say where an argument belongs that ``stage`` does not take, or which one was meant."""
    known = spellings(stage.model)
    homes = [place for other, place in _all_names(stage) if other == name]
    if homes:
        return f"No such argument in {stage.described}. It belongs to {homes[0]}."
    if nearest(name, known):
        return f"No such argument.{did_you_mean(name, known)}"
    elsewhere = dict(reversed(list(_all_names(stage))))
    if other := nearest(name, elsewhere):
        return f"No such argument. Did you mean {other}? That belongs to {elsewhere[other]}."
    takes = ", ".join(stage.model.model_fields)
    return f"No such argument. {stage.described.capitalize()} takes {takes or 'no arguments'}."


def _all_names(stage: Stage) -> Iterator[tuple[str, str]]:
    """Yield every spelling outside ``stage`` with its home, the same pipeline's first."""
    others = sorted(STAGES, key=lambda other: other.pipeline != stage.pipeline)
    for other in others:
        if other != stage:
            yield from ((name, other.described) for name in spellings(other.model))
    if stage.name != MODEL_PARAMETERS:
        home = "the map model_parameters of step train of train_pipeline"
        yield from ((name, home) for name in spellings(parameters_model()))
    if stage != OPERATION:
        yield from ((name, OPERATION.described) for name in spellings(OperationArguments))
    yield from ((name, "the section external_path") for name in PATH_KEYS)
