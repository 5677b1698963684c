"""The structure of AnomalyGPT's detector: an image decoder that is taught by drawn defects, and a few-shot memory."""

from vad_lib.detectors.anomalygpt.plan_arguments import AnomalyGPTArguments
from vad_lib.detectors.registry import register

register("anomalygpt", "vad_lib.detectors.anomalygpt.detector:AnomalyGPT", AnomalyGPTArguments)
