"""What follows from several train arguments together, without any data: fixed image sizes and capped choices."""

from __future__ import annotations

from vad_lib.findings import ArgumentChange
from vad_lib.plan.arguments import TrainArguments

FASTFLOW_SIDE = 256
FASTFLOW_SIDE_OF_BACKBONE = {"cait_m48_448": 448, "deit_base_distilled_patch16_384": 384}
"""Transformers take the size that they were trained on; every other backbone of FastFlow takes 256 x 256."""


def resolve_train(written: TrainArguments) -> tuple[TrainArguments, tuple[ArgumentChange, ...]]:
    """Return the train arguments in force, and what was changed and why.

    FastFlow's ``img_size`` becomes the square that its backbone needs; ``augmentation_choice`` is capped at the length
    of ``augmentation_list``.
    """
    changes: list[ArgumentChange] = []
    if written.model_name == "fastflow":
        backbone = written.model_parameters.fastflow_backbone
        side = FASTFLOW_SIDE_OF_BACKBONE.get(backbone, FASTFLOW_SIDE)
        if written.img_size != (side, side):
            changes.append(
                ArgumentChange(
                    argument="img_size",
                    old=written.img_size,
                    new=(side, side),
                    reason=f"FastFlow with {backbone} takes images of {side} x {side} pixels only",
                )
            )
    listed = len(written.augmentation_list)
    if 0 < listed < written.augmentation_choice:
        changes.append(
            ArgumentChange(
                argument="augmentation_choice",
                old=written.augmentation_choice,
                new=listed,
                reason=f"augmentation_list has {listed}",
            )
        )
    return written.model_copy(update={change.argument: change.new for change in changes}), tuple(changes)


def change_text(change: ArgumentChange) -> str:
    """Write a change as a notice."""
    return f"{change.argument}: {_text(change.old)} became {_text(change.new)}, because {change.reason}."


def _text(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
