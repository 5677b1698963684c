"""PatchCore: a memory of normal patches, and the distance of each new patch to its nearest one."""

from vad_lib.detectors.patchcore.plan_arguments import PatchCoreArguments
from vad_lib.detectors.registry import register

register("patchcore", "vad_lib.detectors.patchcore.detector:PatchCore", PatchCoreArguments)
