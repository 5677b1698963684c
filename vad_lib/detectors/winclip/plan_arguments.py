"""The arguments of WinCLIP in a plan: the encoder, the words, and how many normal images are looked at."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from vad_lib.argument_fields import Words, argument
from vad_lib.detectors.registry import DetectorArguments

PLACE = "{}"
"""Where a state stands for its object, and a template for a state."""
NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ABNORMAL_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
TEMPLATES = tuple(
    text.replace("ARTICLE", article)
    for text in (
        "a cropped photo of ARTICLE {}.",
        "a close-up photo of ARTICLE {}.",
        "a bright photo of ARTICLE {}.",
        "a dark photo of ARTICLE {}.",
        "a jpeg corrupted photo of ARTICLE {}.",
        "a blurry photo of ARTICLE {}.",
        "a photo of ARTICLE {}.",
        "a photo of ARTICLE small {}.",
        "a photo of ARTICLE large {}.",
        "a photo of ARTICLE {} for visual inspection.",
        "a photo of ARTICLE {} for anomaly detection.",
    )
    for article in ("a", "the")
)
"""The words of the paper's appendix."""


class WinClipArguments(DetectorArguments):
    """What a plan says about WinCLIP under ``model_parameters``."""

    winclip_encoder: str = argument(
        "vit_base_patch16_plus_clip_240.laion400m_e32",
        "Encoder of WinCLIP: the name of a CLIP folder in the weights store, or its path.",
        kind="own",
        min_length=1,
        allowed="the name or path of a folder",
    )
    winclip_object: str = argument(
        "object", "What the images show, in English words, such as 'metal nut'.", kind="own", min_length=1
    )
    winclip_normal_states: Words = argument(
        NORMAL_STATES,
        "How a normal one is described; {} stands for the object.",
        kind="own",
        min_length=1,
        allowed="a list of texts, each with {} for the object",
    )
    winclip_abnormal_states: Words = argument(
        ABNORMAL_STATES,
        "How an abnormal one is described; {} stands for the object.",
        kind="own",
        min_length=1,
        allowed="a list of texts, each with {} for the object",
    )
    winclip_templates: Words = argument(
        TEMPLATES,
        "Sentences that each state is put into; {} stands for the state.",
        kind="own",
        min_length=1,
        allowed="a list of texts, each with {} for the state",
    )
    winclip_shots: int = argument(
        4,
        "Normal training images that are remembered and compared with; 0 judges by the words alone.",
        kind="own",
        ge=0,
        le=64,
    )

    def backbone(self) -> str:
        """Return the name or path of the encoder."""
        return self.winclip_encoder

    def threshold_without_images(self) -> float | None:
        """Return the probability from which on abnormal is more probable than normal, where the words alone judge."""
        return None if self.winclip_shots else 0.5

    @classmethod
    def recommended(cls, *, has_images: bool) -> dict[str, Any]:
        """Return that the words alone judge, where there are no images to compare with."""
        return {} if has_images else {"winclip_shots": 0}

    def sentences(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return all sentences that describe a normal object, and all that describe an abnormal one."""
        normal, abnormal = (
            tuple(
                template.replace(PLACE, state.replace(PLACE, self.winclip_object))
                for state in states
                for template in self.winclip_templates
            )
            for states in (self.winclip_normal_states, self.winclip_abnormal_states)
        )
        return normal, abnormal

    @field_validator("winclip_normal_states", "winclip_abnormal_states", "winclip_templates")
    @classmethod
    def _with_a_place(cls, value: tuple[str, ...]) -> tuple[Any, ...]:
        if without := [text for text in value if PLACE not in text]:
            raise ValueError(f"has no {{}} in {without[0]!r}")
        return value
