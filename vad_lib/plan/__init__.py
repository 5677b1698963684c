"""The experimental plan: the one file that configures an inspection line.

What belongs here: the arguments and their limits, reading, explaining and writing plans. What does not: anything that
needs the images or the tables (``vad_lib.readiness``).
"""

from vad_lib.plan.arguments import (
    InferenceArguments,
    InputArguments,
    OperationArguments,
    OutputArguments,
    Promotion,
    ReadinessArguments,
    TrainArguments,
    model_parameters,
)
from vad_lib.plan.experimental_plan import ExperimentalPlan, ExternalPath, UiArgumentDetail
from vad_lib.plan.explaining import arguments_markdown, explain
from vad_lib.plan.reading import parse_plan, read_plan
from vad_lib.plan.writing import dump_plan, write_plan_for_folder

__all__ = [
    "ExperimentalPlan",
    "ExternalPath",
    "InferenceArguments",
    "InputArguments",
    "OperationArguments",
    "OutputArguments",
    "Promotion",
    "ReadinessArguments",
    "TrainArguments",
    "UiArgumentDetail",
    "arguments_markdown",
    "dump_plan",
    "explain",
    "model_parameters",
    "parse_plan",
    "read_plan",
    "write_plan_for_folder",
]
