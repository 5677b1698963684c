"""The arguments of FastFlow in a plan."""

from __future__ import annotations

from typing import Literal

from vad_lib.argument_fields import argument
from vad_lib.detectors.registry import DetectorArguments

SIDE = 256
SIDE_OF_BACKBONE = {"cait_m48_448": 448, "deit_base_distilled_patch16_384": 384}
"""Transformers take the size that they were trained on; every other backbone of FastFlow takes 256 x 256."""


class FastFlowArguments(DetectorArguments):
    """What a plan says about FastFlow under ``model_parameters``."""

    fastflow_backbone: Literal["resnet18", "wide_resnet50_2", "cait_m48_448", "deit_base_distilled_patch16_384"] = (
        argument("resnet18", "Network whose features FastFlow models.", aliases=("fastflow_backborn",))
    )
    fastflow_flow_steps: int = argument(8, "Number of flow steps of FastFlow.", ge=1)

    def backbone(self) -> str:
        """Return the name of the backbone."""
        return self.fastflow_backbone

    def watches_validation(self) -> bool:
        """Return True: the best epoch is kept."""
        return True

    def side(self) -> int:
        """Return the pixels of a side of the images that the backbone needs."""
        return SIDE_OF_BACKBONE.get(self.fastflow_backbone, SIDE)

    def fixed_size(self) -> tuple[tuple[int, int] | None, str]:
        """Return the square that the backbone needs, and why."""
        side = self.side()
        return (side, side), f"FastFlow with {self.fastflow_backbone} takes images of {side} x {side} pixels only"
