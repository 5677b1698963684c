"""What follows from several train arguments together, without any data: fixed image sizes and capped choices."""

from __future__ import annotations

from vad_lib.detectors.registry import find_detector
from vad_lib.findings import ArgumentChange
from vad_lib.plan.arguments import TrainArguments


def resolve_train(written: TrainArguments) -> tuple[TrainArguments, tuple[ArgumentChange, ...]]:
    """Return the train arguments in force, and what was changed and why.

    ``img_size`` becomes a size that the detector takes; ``augmentation_choice`` is capped at the length of
    ``augmentation_list``.
    """
    changes: list[ArgumentChange] = []
    size, reason = find_detector(written.model_name).own(written.model_parameters).size_for(written.img_size)
    if written.img_size != size:
        changes.append(ArgumentChange(argument="img_size", old=written.img_size, new=size, reason=reason))
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
