"""Arguments of a plan that several detectors declare alike: which encoder, and which of its layers."""

from __future__ import annotations

from typing import Any

from vad_lib.argument_fields import argument

CLIP = "vit_base_patch16_clip_quickgelu_224.openai"
"""The image tower of OpenAI's CLIP ViT-B/16 in timm; the report's CLIP rows were made with OpenAI's CLIP."""


def encoder_argument(default: str = CLIP) -> Any:
    """Declare the argument that names the encoder."""
    return argument(
        default,
        "Encoder whose features are judged: a timm model, a weight file, or a folder with a CLIP or SigLIP model.",
        kind="own",
        min_length=1,
        allowed="the name of a timm model, or the path of a file or folder",
    )


def layers_argument() -> Any:
    """Declare the argument that names the layers."""
    return argument(
        (),
        "Layers of the encoder that are read; empty takes those that suit the encoder.",
        kind="own",
        computed="the layers that suit the encoder",
        allowed="a list of layer names of the encoder",
    )
