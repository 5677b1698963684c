"""The weights of one backbone, found: what the file is, and its tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from vad_lib.encoders.clip_config import require_plain_config
from vad_lib.errors import ModelFormatError

if TYPE_CHECKING:
    import torch

Library = Literal["timm", "open_clip"]
Precision = Literal["float32", "bfloat16"]
Source = Literal["plan", "store", "timm", "package", "random", "none"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CREATE_KWARGS = ("bn_eps", "dynamic_img_size", "global_pool", "img_size", "num_classes", "output_stride", "pad_type")
"""Arguments of ``timm.create_model`` that a sidecar or a model folder may give: none names a file or an address."""
_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)
_FOLDER_NAME = re.compile(r"[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class BackboneWeights:
    """The weights of one backbone, found.

    Attributes:
        name: timm's name of the architecture; of open_clip, which needs none, the name of its folder.
        file: the weight file; None for random weights.
        source: which step of the order found them.
        sha256: of the file; empty for random weights.
        create_kwargs: further arguments of ``timm.create_model``.
        mean: of the three channels, on values in 0..1; subtracted before the network.
        std: of the three channels; divided by.
        asked_for: what the plan named.
        layers: layer names that the file's sidecar gives instead of the plan's; empty where the plan's are used.
        in_order: whether the file's tensors are those of timm's model in the same order, under other names.
        library: that builds the network.
        licence: as whoever published the weights calls it; empty where that is not known.
        model_config: of open_clip: both towers, as ``clip_config`` allows it.
        precision: that the network is computed in; its features are float32 in either.
    """

    name: str
    file: Path | None
    source: Source
    sha256: str
    create_kwargs: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    asked_for: str = ""
    layers: tuple[str, ...] = ()
    in_order: bool = False
    library: Library = "timm"
    licence: str = ""
    model_config: dict[str, Any] = field(default_factory=dict)
    precision: Precision = "float32"

    @property
    def is_fallback(self) -> bool:
        """Whether this backbone takes the place of another one that the plan asked for."""
        return self.source == "package" and self.asked_for not in ("", self.name)

    def __post_init__(self) -> None:
        """Refuse what may not reach timm from a sidecar, a model folder or a plan.

        Raises:
            ModelFormatError: a name that makes timm look elsewhere, or an argument that does; or a library, a
                precision, or a configuration of open_clip, that is not known.
        """
        if self.precision not in get_args(Precision):
            raise ModelFormatError(
                f"The precision is {self.precision!r}; it can be {' or '.join(get_args(Precision))}."
            )
        if self.library == "open_clip":
            if not _FOLDER_NAME.fullmatch(self.name):
                raise ModelFormatError(f"{self.name!r} is not the name of a folder of weights.")
            require_plain_config(self.model_config, f"The configuration of {self.name}")
            return
        if self.library != "timm":
            raise ModelFormatError(f"The backbone's library is {self.library!r}; it can be timm or open_clip.")
        if self.name and not _NAME.fullmatch(self.name):
            raise ModelFormatError(f"{self.name!r} is not the name of a timm model: it must be letters, digits and _.")
        for key, value in self.create_kwargs.items():
            parts = value if isinstance(value, list | tuple) else [value]
            if key not in CREATE_KWARGS or not all(map(_is_plain, parts)):
                raise ModelFormatError(
                    f"create_kwargs of {self.name} has {key}: {value!r}. It may hold {', '.join(CREATE_KWARGS)}, each "
                    "as a number, a word, or a list of those."
                )

    def load_state_dict(self) -> dict[str, torch.Tensor]:
        """Read the tensors; nothing is unpickled.

        Raises:
            ModelFormatError: the file is damaged, or holds anything but tensors.
        """
        if self.file is None:
            raise ModelFormatError(f"{self.name} has no weight file.")
        return read_state_dict(self.file)

    def to_json(self) -> dict[str, Any]:
        """Return what a model file says about its backbone."""
        return {
            "name": self.name,
            "asked_for": self.asked_for or self.name,
            "source": self.source,
            "file": self.file.name if self.file else None,
            "sha256": self.sha256,
            "create_kwargs": self.create_kwargs,
            "mean": list(self.mean),
            "std": list(self.std),
            "is_fallback": self.is_fallback,
            "library": self.library,
            "licence": self.licence,
            "model_config": self.model_config,
            "precision": self.precision,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> BackboneWeights:
        """Inverse of ``to_json``; the file is known by name only, because a saved model holds the tensors itself."""
        return cls(
            name=content["name"],
            file=None,
            source=content["source"],
            sha256=content["sha256"],
            create_kwargs=dict(content["create_kwargs"]),
            mean=tuple(content["mean"]),
            std=tuple(content["std"]),
            asked_for=content["asked_for"],
            library=content.get("library", "timm"),
            licence=content.get("licence", ""),
            model_config=dict(content.get("model_config", {})),
            precision=content.get("precision", "float32"),
        )


NO_BACKBONE = BackboneWeights("", None, "none", "")
"""What a detector without a backbone has in its place."""


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and bool(_NAME.fullmatch(value)))


def part_of(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def read_state_dict(file: Path) -> dict[str, torch.Tensor]:
    """Read a file of tensors by name, without unpickling anything else.

    Raises:
        ModelFormatError: the file is damaged, or holds anything but tensors.
    """
    import torch

    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives raise many kinds
        raise ModelFormatError(f"{file} cannot be read as weights ({error}). Copy or fetch it again.") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(torch.is_tensor(value) for value in content.values()):
        raise ModelFormatError(f"{file} does not hold named tensors: it is not a state dict.")
    return {key.removeprefix("module."): value for key, value in content.items()}
