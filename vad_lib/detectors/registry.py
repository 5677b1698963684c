"""The table of detectors: from the plan's ``model_name`` to the arguments of a detector and to its class.

Each detector's package enters itself with ``register`` when it is imported. The packages in this folder are found by
themselves; an installed package of somebody else names its module as an entry point of the group ``vad.detectors``.
Reading a plan needs the names and the arguments only, so nothing here imports torch: a detector's class is imported
when a detector is made or loaded.
"""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import create_model

import vad_lib.detectors
from vad_lib.argument_fields import Arguments
from vad_lib.detectors.storage import read_model_folder
from vad_lib.errors import ModelFormatError, PlanError
from vad_lib.machine import resolve_device
from vad_lib.preprocessing import ImageSize

if TYPE_CHECKING:
    import torch

    from vad_lib.detectors.base import Detector

ENTRY_POINTS = "vad.detectors"
GUIDE_DEFAULT = "fastflow"
"""The guide's default of ``model_name``."""
FIRST_CHOICE = "patchcore"
"""The detector of a line that is made from a folder of images: it needs the fewest of them."""
logger = logging.getLogger("vad.detectors")


class DetectorArguments(Arguments):
    """The part of a plan's ``model_parameters`` that is one detector's own; every name begins with the detector's."""

    def backbone(self) -> str:
        """Return the name or path of the backbone that these arguments ask for; empty where there is none."""
        return ""

    def threshold_without_images(self) -> float | None:
        """Return the raw score from which on an image is NG where there is no image to learn from.

        By default there is none: the detector learns from images, and cannot do without.
        """
        return None

    def watches_validation(self) -> bool:
        """Return whether the fit looks at validation images, as to keep the best epoch; by default it does not."""
        return False

    def fixed_size(self) -> tuple[tuple[int, int] | None, str]:
        """Return the (height, width) that the detector insists on, or None, and why."""
        return None, ""

    def size_for(self, asked: ImageSize) -> tuple[ImageSize, str]:
        """Return the image size in force where a plan asks for this one, and why it differs.

        By default that of ``fixed_size``, and the plan's where there is none.
        """
        size, reason = self.fixed_size()
        return (asked, "") if size is None else (size, reason)

    @classmethod
    def recommended(cls, *, has_images: bool) -> dict[str, Any]:
        """Return the arguments of a new line that suit this machine, and what there is to learn from, better than the
        defaults; by default none."""
        return {}

    @classmethod
    def with_encoder(cls, encoder: str) -> dict[str, Any]:
        """Return the arguments for another encoder; none where no argument, named ``…_encoder``, chooses one."""
        named = [
            name for name in cls.model_fields if name.endswith("_encoder") and not name.endswith("_second_encoder")
        ]
        return dict.fromkeys(named, encoder)

    @classmethod
    def on_random_clip(cls, folder: Path) -> dict[str, Any]:
        """Return the arguments for a CLIP of random weights, which shows that a detector runs, and nothing more."""
        return cls.with_encoder(str(folder))

    def reason_against(self, precision: str) -> str:
        """Return why the detector cannot be computed in a precision, and what to do; empty where it can.

        By default bfloat16 needs an encoder of ours, which computes in the precision that its weights name.
        """
        if precision == "float32" or self.backbone():
            return ""
        return "The detector has no encoder that could be computed in bfloat16: take precision: float32."

    def require_usable(self) -> None:
        """Refuse what cannot be used whatever the data are, before anything is begun. By default nothing is.

        Raises:
            PlanError: an argument does not go with another one.
        """


@dataclass(frozen=True)
class RegisteredDetector:
    """One row of the table.

    Attributes:
        name: as in the plan's ``model_name``.
        arguments: the model of its own arguments.
        place: where its class is: 'module:Class', or the class itself.
    """

    name: str
    arguments: type[DetectorArguments]
    place: str | type[Detector]

    def own(self, parameters: Arguments) -> DetectorArguments:
        """Return this detector's part of a plan's ``model_parameters``."""
        return self.arguments(**{name: getattr(parameters, name) for name in self.arguments.model_fields})

    def load_class(self) -> type[Detector]:
        """Import the class."""
        if not isinstance(self.place, str):
            return self.place
        module, _, name = self.place.partition(":")
        found: type[Detector] = getattr(importlib.import_module(module), name)
        return found


DETECTORS: dict[str, RegisteredDetector] = {}
"""What has registered itself so far; ``registered`` looks for all packages first."""


def whole_patches(asked: ImageSize, backbone: str) -> tuple[ImageSize, str]:
    """Return the largest sides up to those asked for that are whole patches of a transformer, and why.

    Args:
        asked: the plan's ``img_size``; one number becomes a square.
        backbone: whose name tells its patch, as ``vit_small_patch14_dinov2``; others take any size.

    >>> whole_patches((256, 300), "vit_small_patch14_dinov2")
    ((252, 294), 'vit_small_patch14_dinov2 takes sides that are multiples of 14 pixels')
    """
    found = re.search(r"patch(\d+)", backbone)
    if found is None:
        return asked, ""
    patch = int(found.group(1))
    height, width = (asked, asked) if isinstance(asked, int) else asked
    size = (max(patch, height // patch * patch), max(patch, width // patch * patch))
    return size, f"{Path(backbone).name} takes sides that are multiples of {patch} pixels"


def register(
    name: str, place: str | type[Detector], arguments: type[DetectorArguments] = DetectorArguments
) -> RegisteredDetector:
    """Enter a detector into the table.

    Args:
        name: for the plan's ``model_name``.
        place: 'module:Class', imported when it is needed; or the class itself.
        arguments: the model of its arguments under ``model_parameters``; none by default.

    Raises:
        ValueError: the name is taken by another detector, or an argument does not begin with the name.
    """
    row = RegisteredDetector(name, arguments, place)
    if DETECTORS.get(name, row) != row:
        raise ValueError(f"There is a detector {name!r} already, from {DETECTORS[name].place}.")
    if strange := [field for field in arguments.model_fields if not field.startswith(f"{name}_")]:
        raise ValueError(f"The arguments of the detector {name!r} must begin with {name}_, not {', '.join(strange)}.")
    DETECTORS[name] = row
    return row


def registered() -> dict[str, RegisteredDetector]:
    """Return all detectors by name, in the order of their names."""
    _import_packages()
    return dict(sorted(DETECTORS.items()))


def detector_names() -> tuple[str, ...]:
    """Return the names that the plan's ``model_name`` can have."""
    return tuple(registered())


def find_detector(name: str) -> RegisteredDetector:
    """Return the detector with this name.

    Raises:
        PlanError: there is none; lists those that there are.
    """
    if name not in registered():
        raise PlanError(f"model_name is {name!r}; it can be {' or '.join(registered())}.")
    return registered()[name]


def parameters_model() -> type[Arguments]:
    """Return the model of a plan's ``model_parameters``: the arguments of all detectors together."""
    return _join(tuple(row.arguments for row in registered().values()))


def detector_from_description(
    description: dict[str, Any], tensors: dict[str, torch.Tensor], *, accelerator: str = "cpu"
) -> Detector:
    """Make a fitted detector from what ``describe`` and ``state_dict`` returned.

    Raises:
        ModelFormatError: they do not fit together, or are of an unknown detector.
        PlanError: a GPU was asked for and there is none.
    """
    name = str(description.get("name")) if isinstance(description, dict) else ""
    if name not in registered():
        raise ModelFormatError(
            f"The model is of the detector {name!r}, which is not installed here; there are {', '.join(registered())}."
        )
    resolve_device(accelerator)
    try:
        return registered()[name].load_class().from_description(description, tensors, accelerator=accelerator)
    except ModelFormatError:
        raise
    except Exception as error:  # a description can be wrong in many ways, and each detector meets them in its own
        raise ModelFormatError(f"The description of the detector does not fit: {error!r}.") from error


def load_detector(folder: Path, *, accelerator: str = "cpu") -> Detector:
    """Load what ``Detector.save`` wrote.

    Raises:
        ModelFormatError: see ``storage.read_model_folder``.
    """
    tensors, description = read_model_folder(folder)
    if "detector" not in description:
        raise ModelFormatError(f"{folder} holds no detector.")
    return detector_from_description(description["detector"], tensors, accelerator=accelerator)


@functools.cache
def _import_packages() -> None:
    for package in pkgutil.iter_modules(vad_lib.detectors.__path__, "vad_lib.detectors."):
        if package.ispkg:
            importlib.import_module(package.name)
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:  # a broken package of somebody else must not stop lines that do without it
            logger.error("The detector package %s cannot be imported: %r", entry.value, error)


@functools.cache
def _join(arguments: tuple[type[DetectorArguments], ...]) -> type[Arguments]:
    # pydantic takes the fields of the last base first
    bases: Any = (*reversed(arguments),) or (DetectorArguments,)
    return create_model("ModelParameters", __base__=bases, __doc__="The dict ``model_parameters`` of step ``train``.")
