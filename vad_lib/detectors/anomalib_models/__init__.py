"""anomalib's image models behind this system's protocol: one detector, and the plan names the model."""

from vad_lib.detectors.anomalib_models.plan_arguments import AnomalibArguments
from vad_lib.detectors.registry import register

register("anomalib", "vad_lib.detectors.anomalib_models.detector:AnomalibDetector", AnomalibArguments)
