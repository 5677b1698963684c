"""The experimental plan: the one file that configures an inspection line.

What belongs here: the arguments and their limits, reading, explaining and writing plans. What does not: anything that
needs the images or the tables (``vad_lib.readiness``).
"""

from vad_lib.plan.arguments import (
    InferenceArguments,
    InputArguments,
    ModelParameters,
    OperationArguments,
    OutputArguments,
    ReadinessArguments,
    TrainArguments,
)

__all__ = [
    "InferenceArguments",
    "InputArguments",
    "ModelParameters",
    "OperationArguments",
    "OutputArguments",
    "ReadinessArguments",
    "TrainArguments",
]
