"""FastFlow: normalising flows over the features of a frozen backbone."""

from vad_lib.detectors.fastflow.plan_arguments import FastFlowArguments
from vad_lib.detectors.registry import register

register("fastflow", "vad_lib.detectors.fastflow.detector:FastFlow", FastFlowArguments)
