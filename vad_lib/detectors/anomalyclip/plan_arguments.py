"""The arguments of AnomalyCLIP in a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import field_validator

from vad_lib.argument_fields import argument, words_of
from vad_lib.detectors.registry import DetectorArguments


class AnomalyCLIPArguments(DetectorArguments):
    """What a plan says about AnomalyCLIP under ``model_parameters``."""

    anomalyclip_encoder: str = argument(
        "vit_large_patch14_clip_336.openai",
        "Encoder of AnomalyCLIP: the name of a CLIP folder in the weights store, or its path; with learnt weights in "
        "place of prompts, any backbone.",
        kind="own",
        min_length=1,
        allowed="the name or path of a folder or of a backbone",
    )
    anomalyclip_prompts: str = argument(
        "anomalyclip",
        "What AnomalyCLIP has learnt on other images: a name under prompts in the weights store, or the path of a "
        ".safetensors file.",
        kind="own",
        min_length=1,
        allowed="a name or the path of a file",
    )
    anomalyclip_levels: tuple[int, ...] = argument(
        (24,),
        "Blocks of the encoder, counted from 1, whose patches make AnomalyCLIP's map.",
        kind="own",
        min_length=1,
        allowed="a list of block numbers from 1, such as [24]",
    )
    anomalyclip_image_side: int = argument(
        518,
        "Pixels of a side of the square images that AnomalyCLIP looks at; smaller is faster and sees less.",
        kind="own",
        ge=16,
        le=2048,
    )

    def backbone(self) -> str:
        """Return the name or path of the encoder."""
        return self.anomalyclip_encoder

    def threshold_without_images(self) -> float:
        """Return the probability from which on abnormal is more probable than normal."""
        return 0.5

    def fixed_size(self) -> tuple[tuple[int, int] | None, str]:
        """Return the square of ``anomalyclip_image_side``, and why."""
        side = self.anomalyclip_image_side
        return (side, side), f"AnomalyCLIP takes squares of anomalyclip_image_side, {side} pixels"

    @classmethod
    def on_random_clip(cls, folder: Path) -> dict[str, Any]:
        """Write random prompts beside the CLIP, and return the arguments for them and for its last block."""
        from vad_lib.detectors.anomalyclip.learnt_file import random_prompts
        from vad_lib.encoders.clip_folder import read_clip_folder

        towers = read_clip_folder(folder, folder.name, "plan").model_config
        file = folder / "random_prompts.safetensors"
        random_prompts(towers["text_cfg"]["width"], towers["text_cfg"]["layers"]).save(file)
        size = {"anomalyclip_levels": (towers["vision_cfg"]["layers"],), "anomalyclip_image_side": 64}
        return {**cls.with_encoder(str(folder)), "anomalyclip_prompts": str(file), **size}

    @field_validator("anomalyclip_levels", mode="before")
    @classmethod
    def _one_level_or_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else words_of(value)

    @field_validator("anomalyclip_levels")
    @classmethod
    def _each_level_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value) or min(value, default=1) < 1:
            raise ValueError("names a block twice, or one below 1")
        return value
