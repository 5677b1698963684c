"""WinCLIP: CLIP asked in words whether an image, its windows and its patches show something damaged."""

from vad_lib.detectors.registry import register
from vad_lib.detectors.winclip.plan_arguments import WinClipArguments

register("winclip", "vad_lib.detectors.winclip.detector:WinClip", WinClipArguments)
