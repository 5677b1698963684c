"""Readiness: is the ground truth fit to train or inspect with, and what follows from it for the arguments?

One function a rule, in modules by what the rule looks at; ``RULES`` names them all. Nothing is dropped or changed
without a finding. What belongs elsewhere: reading the table (``vad_lib.ground_truth``), decoding (``vad_lib.images``).
"""

from vad_lib.readiness.dataset import ValidatedDataset
from vad_lib.readiness.environment import compare_environment
from vad_lib.readiness.preparing import prepare_inference_data, prepare_training_data
from vad_lib.readiness.rules import RULES, Rule

__all__ = [
    "RULES",
    "Rule",
    "ValidatedDataset",
    "compare_environment",
    "prepare_inference_data",
    "prepare_training_data",
]
