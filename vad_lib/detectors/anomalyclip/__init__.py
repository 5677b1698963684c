"""AnomalyCLIP: CLIP compared with two learnt prompts, one for normal and one for damaged; no training image needed."""

from vad_lib.detectors.anomalyclip.plan_arguments import AnomalyCLIPArguments
from vad_lib.detectors.registry import register

register("anomalyclip", "vad_lib.detectors.anomalyclip.detector:AnomalyCLIP", AnomalyCLIPArguments)
