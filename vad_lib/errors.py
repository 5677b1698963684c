"""Errors that a user can act on.

Every message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from vad_lib.findings import Finding


class VadError(Exception):
    """Base of all errors raised on purpose: its text is written for the user, not for the programmer."""


class PlanError(VadError):
    """The experimental plan cannot be used; the message lists every fault with its place."""


class InputError(VadError):
    """The ground-truth table or the image folder cannot be read as asked."""


class ReadinessError(VadError):
    """The data make training or inspection impossible (no normal image, a missing column, nothing readable).

    Attributes:
        findings: Everything that was noticed until then, the blocking findings among it.
        dropped: The rows that were set aside until then (``tables.DroppedRows``); None where there was no table yet.
    """

    def __init__(self, message: str, findings: Sequence[Finding] = (), dropped: pd.DataFrame | None = None) -> None:
        self.findings = tuple(findings)
        self.dropped = dropped
        super().__init__(message)


class UnsafePathError(InputError):
    """A path leaves the folder that it must stay in."""


class UnreadableImageError(VadError):
    """One image is refused. `reason` is short and stands alone; `file` names the image."""

    def __init__(self, file: str | Path, reason: str) -> None:
        self.file = str(file)
        self.reason = reason
        super().__init__(f"{file}: {reason}")


class WeightsMissingError(VadError):
    """Backbone weights are not on this machine; the message says which, where to put them, and how to fetch them."""


class ModelFormatError(VadError):
    """A model folder is incomplete, damaged, or was written by a version that this one cannot read."""


class DatabaseGoneError(VadError):
    """The inspection database vanished, was replaced, or is damaged; nothing is made in its place."""


class TooLargeError(VadError):
    """A training needs more memory or disk than the machine has; the message says what would fit."""


class TrainingStopped(VadError):
    """Training was asked to stop. Nothing was published."""
