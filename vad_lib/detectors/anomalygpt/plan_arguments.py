"""The arguments of AnomalyGPT in a plan: the encoder, what the images show, the memory, and which map decides."""

from __future__ import annotations

from typing import Literal

from vad_lib.argument_fields import Words, argument
from vad_lib.detectors.encoder_arguments import encoder_argument, layers_argument
from vad_lib.detectors.registry import DetectorArguments
from vad_lib.errors import PlanError

MapName = Literal["mean", "decoder", "memory"]


class AnomalyGPTArguments(DetectorArguments):
    """What a plan says about AnomalyGPT under ``model_parameters``."""

    anomalygpt_encoder: str = encoder_argument()
    anomalygpt_layers: Words = layers_argument()
    anomalygpt_object: str = argument(
        "object",
        "What the images show, in English words, such as 'metal nut'; only an encoder with a text tower reads it.",
        kind="own",
        min_length=1,
    )
    anomalygpt_shots: int = argument(
        4,
        "Normal training images whose patches are remembered and compared with; 0 judges by the image decoder alone.",
        kind="own",
        ge=0,
        le=64,
    )
    anomalygpt_map: MapName = argument(
        "mean",
        "The map that decides: the image decoder's, the memory's, or the mean of both (the decoder's alone where "
        "anomalygpt_shots is 0).",
        kind="own",
    )

    def backbone(self) -> str:
        """Return the name or path of the encoder."""
        return self.anomalygpt_encoder

    def require_usable(self) -> None:
        """Refuse a memory without images.

        Raises:
            PlanError: the memory's map is asked for, and nothing is remembered.
        """
        if self.anomalygpt_map == "memory" and not self.anomalygpt_shots:
            raise PlanError(
                "anomalygpt_map is memory, but anomalygpt_shots is 0: remember at least one image, or take the decoder."
            )
