"""The arguments of anomalib's models in a plan."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from vad_lib.argument_fields import Words, argument
from vad_lib.detectors.anomalib_models.table import BUILT, NOT_BUILT, BuiltModel
from vad_lib.detectors.registry import DetectorArguments, whole_patches
from vad_lib.preprocessing import ImageSize


class AnomalibArguments(DetectorArguments):
    """What a plan says about anomalib's models under ``model_parameters``."""

    anomalib_model: str = argument(
        "padim", "Which of anomalib's image models is trained.", kind="own", choices=lambda: tuple(BUILT)
    )
    anomalib_backbone: str = argument(
        "",
        "Network that the model reads images with: timm's name of it, or the path of a weight file.",
        kind="own",
        computed="the model's own",
    )
    anomalib_layers: Words = argument(
        (),
        "Layers of the backbone that the model reads, where it lets them be chosen.",
        kind="own",
        computed="the model's own",
        allowed="a list of layer names of the backbone, such as [layer2, layer3]",
    )

    def model(self) -> BuiltModel:
        """Return the row of the model."""
        return BUILT[self.anomalib_model]

    def backbone(self) -> str:
        """Return the name or path of the backbone."""
        return self.anomalib_backbone or self.model().backbone

    def size_for(self, asked: ImageSize) -> tuple[ImageSize, str]:
        """Return the size in force: one shape for all images, whole patches for a transformer, a square for some."""
        model = self.model()
        size, reason = whole_patches(asked, self.backbone()) if model.is_transformer else (asked, "")
        sides = (size, size) if isinstance(size, int) else size
        if model.square and sides[0] != sides[1]:
            return (min(sides), min(sides)), f"anomalib's {model.name} takes square images"
        return sides, reason or f"anomalib's {model.name} takes images of one shape"

    def reason_against(self, precision: str) -> str:
        """Return that anomalib's networks are float32, where another precision is asked for."""
        if precision == "float32":
            return ""
        return (
            "anomalib's networks are trained and scored in float32: take precision: float32, or a detector of this "
            "software's own."
        )

    @field_validator("anomalib_model")
    @classmethod
    def _can_be_built(cls, value: str) -> Any:
        if value in NOT_BUILT:
            raise ValueError(f"is {value!r}, which cannot be trained here: it {NOT_BUILT[value]}")
        if value not in BUILT:
            raise ValueError(f"must be {' or '.join(BUILT)}")
        return value
